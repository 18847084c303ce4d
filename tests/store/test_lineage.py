"""A run and its re-tunings: whose answers there are, on which machines they hold, and what all of them have learned."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoaccel.errors import UsageError
from autoaccel.store.lineage import add_verified, folder_for, is_finished, lineage, past_of, task_facts
from autoaccel.store.run import HARDWARE, JOB, RESULT, RETUNED, RunDirectory, read_json, write_json
from tests.kits.finished import MACHINE, TASK, finished_run

OTHER = replace(MACHINE, usable_cores=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    yield finished_run(folder / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def again(run: Path, finished_at: str = "2031-01-01T00:00:00Z") -> Path:
    """A re-tuning of a run on another machine."""
    where = Path(shutil.copytree(run, run.parent / "new"))
    write_json(where / HARDWARE, {"machine": OTHER.to_json()})
    write_json(where / RESULT, {**(read_json(where / RESULT) or {}), "finished_at": finished_at})
    folder_for(run, OTHER).parent.mkdir(exist_ok=True)
    return where.rename(folder_for(run, OTHER))


def test_a_finished_run_has_one_answer(run: Path) -> None:
    found = lineage(run)
    assert [(a.run, a.machine, a.has_hit) for a in found] == [(run, MACHINE, True)]
    assert found[0].config.horizon.samples == found[0].result["config"]["horizon.samples"]
    assert task_facts(run)["data_digest"] == TASK["data_digest"]


def test_the_answers_of_re_tunings_belong_to_it_and_the_latest_is_last(run: Path) -> None:
    new = again(run)
    assert [(a.run, a.machine) for a in lineage(run)] == [(run, MACHINE), (new, OTHER)]
    write_json(new / RESULT, {**(read_json(new / RESULT) or {}), "finished_at": "2029-01-01T00:00:00Z"})
    assert [a.run for a in lineage(run)] == [new, run]
    write_json(new / RESULT, {**(read_json(new / RESULT) or {}), "interrupted": True})
    assert [a.run for a in lineage(run)] == [run], "an interrupted one has no answer yet"


def test_an_answer_may_hold_on_several_machines(run: Path) -> None:
    third = replace(MACHINE, torch="2.16.0")
    add_verified(lineage(run)[0], OTHER, {"at": "now"})
    add_verified(lineage(run)[0], third, {"at": "then"})
    assert [(a.run, a.machine) for a in lineage(run)] == [(run, MACHINE), (run, OTHER), (run, third)]


@pytest.mark.parametrize(
    ("missing", "message"),
    [(JOB, "no run here"), (RESULT, "the run is not finished"), (HARDWARE, "cannot be used (ValueError: not there)")],
)
def test_what_is_no_finished_run_is_refused(run: Path, missing: str, message: str) -> None:
    (run / missing).unlink()
    with pytest.raises(UsageError) as caught:
        lineage(run)
    assert message in caught.value.message and str(run) in caught.value.message


def test_an_interrupted_run_is_to_be_continued_first(run: Path) -> None:
    write_json(run / RESULT, {**(read_json(run / RESULT) or {}), "interrupted": True})
    assert not is_finished(run)
    with pytest.raises(UsageError, match=f"Continue it first: autoaccel tune --resume {run}"):
        lineage(run)


def test_all_that_a_lineage_has_learned_counts_once(run: Path) -> None:
    one = past_of(lineage(run))
    assert len(one.trainings) > 5 and one.generation == 1
    again(run)
    both = past_of(lineage(run))
    assert both.trainings == one.trainings, "the copy has trained nothing of its own"


def test_a_run_that_is_replaced_takes_its_re_tunings_with_it(run: Path) -> None:
    new = again(run)
    (new / "notes.txt").write_text("the user's")
    directory = RunDirectory(run)
    directory.clear()
    directory.close()
    assert [p.name for p in (run / RETUNED).rglob("*") if p.is_file()] == ["notes.txt"]
    assert not (new / RESULT).exists() and not (run / RESULT).exists()
