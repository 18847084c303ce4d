"""The library of past studies: what goes in comes out, by task, and nothing that is wrong with a file stops a study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.config import keras_recipe, to_params, with_params
from autoaccel.errors import EnvironmentFaultError
from autoaccel.fingerprint import task_fingerprint
from autoaccel.store.ledger import Entry
from autoaccel.store.library import (
    FEWEST,
    VERSION,
    Past,
    PastTraining,
    headers,
    library_folder,
    load_past,
    merged,
    n_studies,
    save_study,
    study_id,
    trainings_of,
)
from autoaccel.trial import Ended, Report, TrialRecord, TrialSpec

CONFIG = keras_recipe(1000)
FACTS = {
    "task": "mine",
    "metric": "accuracy",
    "direction": "max",
    "loss": ["cross_entropy", None],
    "n_train": 1000,
    "n_validation": 100,
    "n_parameters": 5,
    "model_digest": "m",
    "data_digest": "d",
    "target": 0.9,
    "device": "cpu",
}
TASK = task_fingerprint(FACTS)


def record(trial: int, purpose: str = "race", outcome: str = "hit", value: float = 0.9, n: int = 2) -> TrialRecord:
    reports = tuple(Report(trial, 0.1 * k, 100 * k, k, 1.0, value, 0.5) for k in range(n + 1))
    return TrialRecord(TrialSpec(trial, purpose, CONFIG), reports, Ended(trial, outcome, 0.1 * n, samples=100 * n))


def study(name: str, n: int = FEWEST) -> Past:
    return Past(tuple(trainings_of(name, [record(k) for k in range(1, n + 1)])), 0)


def test_what_goes_in_comes_out(library: Path) -> None:
    path = save_study(TASK, study("a"), {"task": "mine"})
    assert path is not None and path.is_relative_to(library)
    found = load_past(TASK)
    assert found == replace(study("a"), generation=1)
    first = found.trainings[0]
    assert first == PastTraining("a", "race", to_params(CONFIG), (100, 200), (0.9, 0.9), "hit", 0.2)
    assert str(found) == "started from 3 past trainings of 1 study of this task"
    assert [p.name for p in path.parent.iterdir()] == ["a.jsonl"], "a temporary file was left"


def test_a_resumed_study_replaces_itself_and_another_is_added() -> None:
    save_study(TASK, study("a"), {})
    save_study(TASK, study("a", 5), {})
    save_study(TASK, replace(study("b"), generation=3), {})
    found = load_past(TASK)
    assert (len(found.trainings), found.n_studies, found.generation, n_studies()) == (8, 2, 4, 2)
    entries = [Entry("session", 0.0, {"started_at": "x"}), Entry("session", 9.0, {"started_at": "y"})]
    assert study_id("run", entries) == study_id("run", entries[:1]) != study_id("run", entries[1:])


def test_a_short_study_is_not_kept_and_an_empty_library_is_no_error() -> None:
    assert save_study(TASK, study("a", FEWEST - 1), {}) is None
    assert load_past(TASK) == Past() and n_studies() == 0


def test_only_what_says_something_on_any_machine_is_kept() -> None:
    given = [
        record(1, "baseline", "missed", value=float("nan")),
        record(2, outcome="oom"),
        record(3, outcome="crashed"),
        record(4, outcome="interrupted"),
        record(5, outcome="diverged", n=0),
        record(6, outcome="stopped", n=0),
        record(7, "confirm", "missed"),
        TrialRecord(TrialSpec(8, "step_cost"), (), Ended(8, "done")),
        replace(record(9), spec=TrialSpec(9, "race", with_params(CONFIG, {"horizon.seconds": 3.0}))),
    ]
    found = trainings_of("a", given)
    assert [(t.purpose, t.outcome) for t in found] == [
        ("baseline", "missed"),
        ("race", "diverged"),
        ("confirm", "missed"),
    ]
    assert found[0].values == (None, None)


def test_a_short_study_is_kept_for_its_answer() -> None:
    assert save_study(TASK, study("a", 1), {}, is_answered=True) is not None
    assert load_past(TASK).n_studies == 1
    assert save_study(TASK, Past(), {}, is_answered=True) is None


def test_a_training_that_two_pasts_know_counts_once() -> None:
    one, more = study("a"), study("b", 5)
    found = merged([one, replace(more, generation=4), replace(one, notes=("torn",))])
    assert [t.study for t in found.trainings] == ["a"], "records of the kit differ in nothing but their study"
    assert (found.generation, found.notes) == (4, ("torn",))
    assert merged([]) == Past()


def test_what_is_known_of_studies_without_reading_their_trainings() -> None:
    save_study(TASK, study("b"), {"task": "mine", "kept_at": "2031"})
    save_study(TASK, study("a"), {"task": "mine", "kept_at": "2030"})
    save_study("other", study("c"), {"kept_at": "2029"})
    (library_folder() / TASK / "torn.jsonl").write_text("{")
    found, notes = headers()
    assert [(h["fingerprint"], h["kept_at"]) for h in found] == [("other", "2029"), (TASK, "2030"), (TASK, "2031")]
    assert len(notes) == 1 and "torn.jsonl was skipped" in notes[0]


@pytest.mark.parametrize("name", ["task", "metric", "loss", "n_train", "n_validation", "model_digest", "data_digest"])
def test_another_task_has_another_past(name: str) -> None:
    save_study(TASK, study("a"), {})
    other = task_fingerprint({**FACTS, name: "other"})
    assert other != TASK and load_past(other) == Past()


@pytest.mark.parametrize("name", ["target", "device", "flops_per_sample"])
def test_another_target_or_machine_is_no_other_task(name: str) -> None:
    assert task_fingerprint({**FACTS, name: 7}) == TASK


def test_files_that_cannot_be_read_are_skipped_and_said() -> None:
    good = save_study(TASK, study("good"), {})
    assert good is not None
    lines = good.read_text().splitlines()
    head: dict[str, Any] = json.loads(lines[0])
    last: dict[str, Any] = json.loads(lines[-1])
    no_curve = {**last, "samples": [1]}
    spoilt = {
        "torn": "\n".join([*lines[:-1], lines[-1][:50]]),
        "short": "\n".join(lines[:-1]),
        "empty": "",
        "foreign": '{"a": 1}',
        "list": "[1]",
        "other": "\n".join([json.dumps({**head, "format": "x"}), *lines[1:]]),
        "newer": "\n".join([json.dumps({**head, "version": VERSION + 1}), *lines[1:]]),
        "curve": "\n".join([*lines[:-1], json.dumps(no_curve)]),
    }
    for name, text in spoilt.items():
        (good.parent / f"{name}.jsonl").write_text(text)
    (good.parent / "bytes.jsonl").write_bytes(b"\xff\xfe")
    found = load_past(TASK)
    assert found.trainings == study("good").trainings
    assert len(found.notes) == len(spoilt) + 1
    notes = "\n".join(sorted(found.notes))
    assert "newer.jsonl in the library was skipped: a newer autoaccel wrote it" in notes
    assert "short.jsonl in the library was skipped: it has 2 of 3 trainings" in notes


def test_a_library_that_cannot_be_written_says_so(library: Path) -> None:
    library_folder().parent.mkdir(exist_ok=True)
    library_folder().write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFaultError, match="cannot be made"):
        save_study(TASK, study("a"), {})
    assert load_past(TASK) == Past()
