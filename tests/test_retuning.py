"""retune without a worker: when it does something, with which job, and where. Real ones are in `test_cli_runs.py`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoaccel import retuning
from autoaccel.budget import Budget, parse_budget, portion
from autoaccel.errors import UsageError
from autoaccel.hardware.machine import Machine, this_machine
from autoaccel.job import Job
from autoaccel.search.confirm import Evidence
from autoaccel.store.lineage import folder_for, lineage
from autoaccel.store.run import JOB, LEDGER, RESULT, read_json, write_json
from tests.kits.finished import MACHINE, finished_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "run", budget_s=10.0)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, Path]]:
    """Jobs and directories that a tuning was asked for; none is carried out."""
    found: list[tuple[Job, Path]] = []

    def run_job(job: Job, source: Any, where: Path, *_: Any) -> Any:
        found.append((job, where))
        return SimpleNamespace(run_dir=where, summary={})

    monkeypatch.setattr("autoaccel.api.run_job", run_job)
    return found


def on(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This process on another machine."""
    monkeypatch.setattr(retuning, "this_machine", lambda: machine)
    return machine


def trained(seconds: float, hits: int = 5) -> Evidence:
    times = tuple(seconds * (1 + 0.01 * n) for n in range(5))
    return Evidence(None, 5, hits, times, times[:hits])  # type: ignore[arg-type]


def test_nothing_is_done_where_nothing_has_changed(
    run: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(MACHINE, monkeypatch)
    before = sorted(run.rglob("*"))
    found = retuning.retune_run(run, if_changed=True)
    assert (found.change.level, found.tuned, found.config_file) == ("none", None, run / "best" / "config.json")
    assert asked == [] and sorted(run.rglob("*")) == before
    assert json.loads(json.dumps(found.to_json()))["retuned"] is False


def test_it_is_done_anyway_where_nobody_asked_for_a_change(
    run: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(MACHINE, monkeypatch)
    assert retuning.retune_run(run).tuned is not None
    job, where = asked[0]
    assert where == folder_for(run, MACHINE)
    assert (job.after, job.task, job.budget) == (str(run), "digits", Budget(seconds=10.0))


@pytest.mark.parametrize(
    ("whole", "expected"),
    [("2h", "18m"), ("60s", "30s"), ("20s", "20s"), ("10 trials", "8 trials"), ("100 trials or 1h", "9m or 15 trials")],
)
def test_the_budget_is_a_share_of_the_runs_own(whole: str, expected: str) -> None:
    assert portion(parse_budget(whole), retuning.SHARE, retuning.LEAST) == parse_budget(expected)
    assert portion(Budget(flops=1e18), 0.15, retuning.LEAST) == Budget(flops=1.5e17)


def test_other_hardware_has_a_folder_of_its_own_and_a_budget_may_be_given(
    run: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = on(replace(MACHINE, usable_cores=1), monkeypatch)
    found = retuning.retune_run(run, if_changed=True, budget="45s")
    assert found.change.level == "hard" and str(found.change) == "usable_cores: 4 -> 1"
    assert [(job.budget, where) for job, where in asked] == [(Budget(seconds=45.0), folder_for(run, other))]


def test_of_what_runs_on_it_only_what_costs_time_counts(
    run: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = on(replace(MACHINE, torch="2.16.0"), monkeypatch)
    stated = lineage(run)[0].result["time_to_target_s"]
    tries: list[float] = []

    def as_before(source: Any, answer: Any) -> Evidence:
        tries.append(stated)
        return trained(stated)

    monkeypatch.setattr(retuning, "train_again", as_before)
    found = retuning.retune_run(run, if_changed=True)
    assert found.change.level == "soft" and found.tuned is None and found.again == trained(stated)
    assert [a.machine for a in lineage(run)] == [MACHINE, newer]
    assert retuning.retune_run(run, if_changed=True).change.level == "none" and len(tries) == 1, "tried only once"
    monkeypatch.setattr(retuning, "train_again", lambda *_: trained(3 * stated))
    on(replace(newer, driver="590"), monkeypatch)
    assert retuning.retune_run(run, if_changed=True).change.level == "none", "a driver that was not known"
    on(replace(newer, torch="2.17.0"), monkeypatch)
    assert retuning.retune_run(run, if_changed=True).tuned is not None and len(asked) == 1


@pytest.mark.parametrize(("again", "expected"), [(1.0, True), (0.3, False), (3.0, False)])
def test_as_fast_is_within_what_was_stated(run: Path, again: float, expected: bool) -> None:
    answer = lineage(run)[0]
    assert retuning.as_fast(answer, trained(again * answer.result["time_to_target_s"])) == expected
    assert not retuning.as_fast(answer, trained(again * answer.result["time_to_target_s"], hits=0))
    unstated = replace(answer, result={**answer.result, "time_to_target_interval_s": None})
    assert not retuning.as_fast(unstated, trained(answer.result["time_to_target_s"]))


def test_an_unfinished_re_tuning_is_continued_and_a_finished_one_kept(
    run: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = folder_for(run, on(replace(MACHINE, usable_cores=1), monkeypatch))
    where.mkdir(parents=True)
    (where / LEDGER).touch()
    retuning.retune_run(run)
    assert len(asked) == 1 and (where / LEDGER).exists()
    for name in (JOB, RESULT, "hardware.json"):
        shutil.copy(run / name, where / name)
    with pytest.raises(UsageError, match="was tuned again for this machine already"):
        retuning.retune_run(run)
    retuning.retune_run(run, fresh=True)
    assert len(asked) == 2 and not (where / LEDGER).exists()


def test_a_task_given_as_an_object_has_to_be_given_again(run: Path, asked: list[Any]) -> None:
    write_json(run / JOB, {**(read_json(run / JOB) or {}), "task": None})
    with pytest.raises(UsageError, match=r"autoaccel.retune_run\(run_dir, task=task\)"):
        retuning.retune_run(run)
    with pytest.raises(UsageError, match="is not a Task"):
        retuning.retune_run(run, task=3)  # type: ignore[arg-type]
    assert asked == []


def test_a_lineage_has_an_answer_for_every_machine(run: Path) -> None:
    other = replace(MACHINE, usable_cores=1)
    shutil.copytree(run, folder_for(run, other), ignore=lambda *_: ["retuned"])
    write_json(folder_for(run, other) / "hardware.json", {"machine": other.to_json()})
    assert retuning.answer_here(run, other) == folder_for(run, other)
    assert retuning.answer_here(run, MACHINE) == run


def test_whether_anything_has_changed_is_said_without_the_tuner(run: Path) -> None:
    """A timer asks often."""
    hardware = read_json(run / "hardware.json") or {}
    write_json(run / "hardware.json", {**hardware, "machine": this_machine().to_json()})
    code = f"""
import sys
sys.argv = ["autoaccel", "retune", {str(run)!r}, "--if-changed"]
from autoaccel.cli import main
try:
    main()
except SystemExit as stop:
    assert stop.code == 10, stop.code
loaded = {{"torch", "optuna", "ray", "scipy", "numpy", "rich"}} & {{*sys.modules}}
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"nothing to do: the answer still holds\nconfig: {run}/best/config.json\n"
