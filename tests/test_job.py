"""A tuning request: its checks, its file, and its way into a run directory and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoaccel.budget import Budget
from autoaccel.errors import UsageError
from autoaccel.job import Job, parse_amounts, read_job_file

HOUR = Budget(seconds=3600)


def written(folder: Path, text: str) -> Path:
    path = folder / "autoaccel.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    text = """
    task = "train.py:task"
    budget = "1h"
    target = 1
    seed = 0
    hit_probability = 0.8
    devices = 2
    trials_at_once = 4
    executor = "ray"
    ray_address = "auto"
    use_all_budget = true
    use_library = false
    space = "minimal"
    [fix]
    "optim.name" = "sgd"
    optim.lr = 1
    batch.size = 64
    [ray_resources]
    CPU = 4
    """
    found = read_job_file(written(tmp_path, text))
    fix = {"optim.name": "sgd", "optim.lr": 1.0, "batch.size": 64}
    assert found == {
        "task": "train.py:task",
        "budget": HOUR,
        "target": 1.0,
        "seed": 0,
        "hit_probability": 0.8,
        "devices": 2,
        "trials_at_once": 4,
        "executor": "ray",
        "ray_address": "auto",
        "ray_resources": {"CPU": 4.0},
        "use_all_budget": True,
        "use_library": False,
        "space": "minimal",
        "fix": fix,
    }
    assert read_job_file(written(tmp_path, "")) == {}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('buget = "2h"\n', "autoaccel.toml:1: buget: unknown key 'buget'", "Did you mean 'budget'?"),
        ('task = "a.py:b"\n\nbudget = 90\n', "autoaccel.toml:3: budget: expected text, got 90", ""),
        ('task = "a.py:b"\nbudget = "90"\n', "autoaccel.toml:2: budget: budget '90': no unit", "Accepted forms"),
        ('target = "high"\n', "autoaccel.toml:1: target: expected a number, got 'high'", ""),
        ("seed = 1.5\n", "autoaccel.toml:1: seed: expected a whole number, got 1.5", ""),
        ("fix = 3\n", "autoaccel.toml:1: fix: expected", ""),
        ('[fix]\n"optim.rl" = 0.1\n', "autoaccel.toml:1: fix: unknown setting 'optim.rl'", "optim.lr"),
        ('[fix]\noptim.name = "adamx"\n', "autoaccel.toml:1: fix: config.optim.name: expected 'adamw', ", ""),
        ('[fix]\nbatch.size = "64"\n', "autoaccel.toml:1: fix: config.batch.size: expected a whole number", ""),
        ("task = \n", "Invalid value (at line 1", "Fix the TOML syntax"),
        ("when = 2024-01-01\n", "not plain JSON values", "Use numbers, text and tables"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_job_file(written(tmp_path, text))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_can_make_a_task_from_data(tmp_path: Path) -> None:
    said = {"model": "timm:resnet18", "data": "photos", "image_size": 64, "metric": "f1", "pretrained": True}
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    assert read_job_file(written(tmp_path, "\n".join(lines))) == said
    said = {"text": "a.txt", "context": 9, "table": "t.csv", "label": "y"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    assert read_job_file(written(tmp_path, "\n".join(lines))) == said


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_job_file(written(tmp_path, 'sed = 1\ntarget = "x"\n'))
    assert "autoaccel.toml:1: sed" in caught.value.message and "autoaccel.toml:2: target" in caught.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_job_file(tmp_path)
    (tmp_path / "autoaccel.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="utf-8"):
        read_job_file(tmp_path / "autoaccel.toml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hit_probability": 0.0}, "hit probability 0.0: not between 0 and 1"),
        ({"hit_probability": 1.0}, "hit probability 1.0: not between 0 and 1"),
        ({"hit_probability": float("nan")}, "hit probability nan: not between"),
        ({"seed": -1}, "seed -1: not a whole number from 0 to 999"),
        ({"seed": 1000}, "seed 1000: not a whole number"),
        ({"seed": True}, "seed True: not a whole number"),
        ({"fix": {"optim.rl": 1}}, "unknown setting 'optim.rl'"),
        ({"devices": 0}, "devices 0: not a whole number from 1 to 4096"),
        ({"trials_at_once": 1.5}, "trials_at_once 1.5: not a whole number"),
        ({"devices": 2, "trials_at_once": 3}, "trials_at_once 3 on 2 devices: not the same number on each"),
        ({"devices": 2, "trials_at_once": 1}, "trials_at_once 1 on 2 devices: not the same number on each"),
        ({"executor": "rey"}, "unknown executor 'rey'"),
        ({"ray_address": "auto"}, "ray_address with the executor 'local'"),
        ({"ray_resources": {"CPU": 2.0}}, "ray_resources with the executor 'local'"),
        ({"fix": {"schedule.warmup": 2.0}}, "schedule.warmup: 2.0 is not between 0 and 0.9"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Job(budget=HOUR, **settings)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "job",
    [
        Job(budget=HOUR),
        Job(budget=Budget(flops=2e14, trials=7), task="digits", target=0.9361, fix={"optim.lr": 0.1}, seed=9),
        Job(budget=Budget(device_seconds=100.0), space="mine.toml", hit_probability=0.5, target=1),
        Job(budget=HOUR, devices=2, executor="ray-tune", ray_address="head:6379", ray_resources={"GPU": 0.5}),
    ],
)
def test_a_job_survives_json(job: Job) -> None:
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_a_job_of_an_older_run_is_read() -> None:
    young = Job(budget=HOUR, trials_at_once=2).to_json()
    gone = ("devices", "trials_at_once", "executor", "ray_address", "ray_resources")
    old = {**{k: v for k, v in young.items() if k not in gone}, "parallel": 2}
    assert Job.from_json(old) == Job(budget=HOUR, trials_at_once=2)


def test_trials_at_once_are_one_a_device_unless_said() -> None:
    assert [Job(budget=HOUR, devices=n).n_slots for n in (1, 3)] == [1, 3]
    assert Job(budget=HOUR, devices=2, trials_at_once=6).n_slots == 6


@pytest.mark.parametrize("text", ["CPU", "CPU=", "CPU=many", "=2"])
def test_resources_are_name_and_amount(text: str) -> None:
    assert parse_amounts(["CPU=4", "accelerator_type:A100 = 0.001"]) == {"CPU": 4.0, "accelerator_type:A100": 0.001}
    with pytest.raises(UsageError, match="expected NAME=AMOUNT"):
        parse_amounts([text])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": None}, "run/job.json: incomplete"),
        ({"seed": "0"}, "run/job.json.seed: expected a whole number"),
        ({"seed": -3}, "run/job.json: seed -3: not a whole number"),
        ({"budget": "90"}, "run/job.json: budget '90': no unit"),
        ({"colour": 1}, "run/job.json.colour: unknown key 'colour'"),
    ],
)
def test_a_stored_job_that_was_spoilt_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Job.from_json({**Job(budget=HOUR).to_json(), **change}, "run/job.json")
    assert message in caught.value.message
