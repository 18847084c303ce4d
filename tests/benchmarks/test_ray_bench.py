"""The Ray benchmark: figures are what they say, runs are kept and read, the waiting task is the digits task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.config import TrainerConfig, with_params
from autoaccel.trial import Ended, Target, TrialRecord, TrialSpec
from benchmarks.parts import once
from benchmarks.ray import __main__ as bench
from benchmarks.ray.figures import figures, of_longer
from benchmarks.ray.judge import waited_s
from benchmarks.ray.slots import simulated
from benchmarks.ray.study import Order, never_again

EXECUTORS = ("local", "ray", "ray-tune")


def row(executor: str, seed: int, ert: float, overshoot: float = 0.5) -> dict[str, Any]:
    return {"executor": executor, "seed": seed, "ert_s": ert, "overshoot_s": overshoot}


def test_without_anything_all_is_null() -> None:
    found = figures([], EXECUTORS, {}, [])
    assert {"quality_ratio", "overshoot_s", "lost_trials", "repeated_trials"} <= found.keys()
    assert {name for name, value in found.items() if value is not None} == {"n_seeds"}


def test_the_ratio_is_paired_and_the_worse_executor_counts() -> None:
    rows = [row("local", s, 2.0 + s) for s in range(10)]
    rows += [row("ray", s, 1.0 * (2.0 + s)) for s in range(10)]
    rows += [row("ray-tune", s, (1.2 if s % 2 else 1.1) * (2.0 + s), 1.5 if s == 3 else 0.1) for s in range(9)]
    found = figures(rows, EXECUTORS, {}, [])
    assert found["quality_ratio_ray"] == pytest.approx(1.0)
    assert found["quality_ratio_ray_interval"] == pytest.approx([1.0, 1.0])
    assert found["quality_ratio"] == found["quality_ratio_ray_tune"] == pytest.approx((1.1**5 * 1.2**4) ** (1 / 9))
    low, high = found["quality_ratio_interval"]
    assert 1.1 < low < found["quality_ratio"] < high < 1.2
    assert (found["overshoot_s"], found["overshoot_s_local"], found["n_seeds"]) == (1.5, 0.5, 10)


def test_a_longer_budget_is_compared_on_its_own() -> None:
    rows = [row(name, s, ert * (s + 1), 0.1 * s) for name, ert in (("local", 2.0), ("ray-tune", 3.0)) for s in range(5)]
    found = of_longer(rows, ("local", "ray-tune"))
    assert found["quality_ratio_longer"] == pytest.approx(1.5) and found["overshoot_s_longer"] == pytest.approx(0.4)
    assert set(of_longer([], ("local", "ray-tune")).values()) == {None}


def test_faults_are_counted() -> None:
    faults = {
        "worker-ray": {"n_killed": 1, "n_lost": 1, "lost_trials": 0, "answer": {}},
        "driver-ray": {"repeated_trials": 0, "left_processes": ["raylet"], "lost_trials": 0, "answer": {}},
        "node-ray": {"exit_code": 0, "lost_trials": 1, "answer": None},
    }
    found = figures([], EXECUTORS, faults, [{"slots": 64, "suggestions_per_s": 9.0, "driver_mb": 300.0}])
    assert (found["workers_killed"], found["trials_run_again"], found["lost_trials"]) == (1, 1, 1)
    assert (found["repeated_trials"], found["left_processes"]) == (0, 1)
    assert (found["answers_in_spite_of_faults"], found["two_nodes_one_lost_exit_code"]) == ("2 of 3", 0)
    assert (found["suggestions_per_s_64"], found["driver_mb_64"]) == (9.0, 300.0)


def test_a_lost_trial_counts_unless_it_was_run_to_an_end_later() -> None:
    spec = TrialSpec(1, "race", TrainerConfig(seed=1), Target(0.9))

    def record(trial: int, outcome: str, seed: int = 1) -> TrialRecord:
        return TrialRecord(replace(spec, trial=trial, config=TrainerConfig(seed=seed)), (), Ended(trial, outcome))

    assert never_again([record(1, "lost"), record(2, "hit", seed=2)]) == [1]
    assert never_again([record(1, "lost"), record(2, "hit")]) == []
    assert never_again([record(1, "hit"), record(2, "lost"), record(3, "interrupted")]) == [2]


def test_what_a_training_would_have_waited() -> None:
    config = with_params(TrainerConfig(), {"batch.size": 64, "batch.accumulation": 2})
    assert waited_s(config, Ended(1, "hit", steps=10, samples=640)) == pytest.approx(20 * 0.004 + 640 * 4e-5)


def test_the_task_is_digits_that_waits_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from autoaccel.tasks.digits import TARGET
    from benchmarks.ray import task

    waited: list[float] = []
    monkeypatch.setattr(task.time, "sleep", waited.append)
    found = task.task()
    assert found.target == TARGET
    model = found.model().train()
    inputs = torch.zeros(8, 1, 8, 8)
    model(inputs)
    model.eval()(inputs)
    monkeypatch.setenv(task.JUDGING, "1")
    model.train()(inputs)
    assert waited == [pytest.approx(0.004 + 8 * 4e-5)]


def test_the_command_is_the_protocols() -> None:
    words = Order("ray", 3, 60, 2, "host:6379").command(Path("run"))
    text = " ".join(words)
    assert "--executor ray --devices 2 --seed 3 --ray-address host:6379 --no-library" in text and "--budget 60s" in text


def test_many_slots_are_simulated() -> None:
    found = simulated(4, 24)
    assert (found["slots"], found["suggestions"] >= 24) == (4, True)
    assert found["suggestions_per_s"] > 0 and found["driver_mb"] > 10


def test_what_was_run_is_read_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def run() -> dict[str, Any]:
        calls.append(1)
        return {"answer": None, "overshoot_s": 0.3, "n_lost": 0}

    for key in ("a", "a", "b"):
        once(tmp_path / "study-local-0.json", key, run)
    assert len(calls) == 2
    (tmp_path / "judged-local-0.json").write_text(json.dumps({"times_s": [1.0, 1.0], "hits": [True, False]}))
    (tmp_path / "full.json").write_text(json.dumps({"full_s": 3.0}))
    rows = bench.studies(tmp_path, {"seeds": 2, "executors": EXECUTORS})
    faults, slots = bench.faults_and_slots(tmp_path)
    assert [(r["executor"], r["seed"], r["ert_s"], r["fresh_hits"]) for r in rows] == [("local", 0, 2.0, 1)]
    assert (faults, slots, bench.table_of(slots)) == ({}, [], ["not measured"])
