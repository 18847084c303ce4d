"""The history of answers, from the library to the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel import inspection
from autoaccel.report.history import history, status_rows
from autoaccel.store.library import ANSWER, library_folder
from autoaccel.store.lineage import add_verified, lineage
from tests.kits.finished import MACHINE, finished_run
from tests.test_cli import run as command


def head(name: str, **facts: Any) -> None:
    """A study in the library, its first line."""
    file = library_folder() / "f00d" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {"format": "autoaccel.study", "version": 1, "task": "digits", "metric": "accuracy", "target": 0.93, **facts}
    file.write_text(json.dumps(known) + "\n")


def answer(**changed: Any) -> dict[str, Any]:
    plain = {"target_met": True, "attempts": 10, "hits": 9, "time_to_target_s": 0.25, "speedup_vs_baseline": 4.0}
    return {**plain, "config": {}, **changed}


def test_every_machine_has_its_answers_in_order() -> None:
    here, there = MACHINE.to_json(), replace(MACHINE, usable_cores=1).to_json()
    head("b", kept_at="2031-02-03T00:00:00Z", machine=here, software={"torch": "2.16"}, run="new", answer=answer())
    missed = answer(target_met=False, attempts=0, hits=0, speedup_vs_baseline=None)
    head("a", kept_at="2030-01-02T00:00:00Z", machine=here, software={"torch": "2.15"}, run="old", answer=missed)
    head("c", kept_at="2030-01-03T00:00:00Z", machine=there, run="x\x1b[2J", answer=answer(target_met=False))
    head("d", kept_at="2020-01-01T00:00:00Z", hardware="abc")
    assert history(inspection.library()) == [
        "digits (f00d)",
        "  machine abc",
        "    2020-01-01  torch unknown  accuracy 0.93  answer not kept",
        "  some CPU, 4 cores, 8 GiB",
        "    2030-01-02  torch 2.15  accuracy 0.93  not confirmed  old",
        "    2031-02-03  torch 2.16  accuracy 0.93  0.250s, 9/10 hits  4.0x  new",
        "  some CPU, 1 core, 8 GiB",
        "    2030-01-03  torch unknown  accuracy 0.93  0.250s, 9/10 hits, target missed  4.0x  x\x1b[2J",
    ]
    code, out, _ = command("status", "--library")
    assert code == 0 and "x?[2J" in out and "\x1b" not in out
    code, out, _ = command("status", "--library", "--json")
    assert code == 0 and [len(m) for m in json.loads(out)["tasks"][0]["machines"].values()] == [1, 2, 1]


def test_an_empty_library_says_where_it_is() -> None:
    assert history(inspection.library()) == [f"no studies in {library_folder()}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "run", use_library=True)


def test_a_study_leaves_its_answer_in_the_library(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "run", use_library=True)
    [task] = inspection.library()["tasks"]
    [[found]] = task["machines"].values()
    [mine] = lineage(path)
    assert {name: found[name] for name in ANSWER} == {name: mine.result[name] for name in ANSWER}
    assert (found["run"], task["task"]) == ("run", "made up")


def test_the_state_of_a_run_names_all_its_answers(run: Path) -> None:
    one = status_rows(inspection.status(run))
    assert not [row for row in one if row.startswith("answer")], "its only one is in its summary"
    add_verified(lineage(run)[0], replace(MACHINE, usable_cores=1), {})
    both = [row for row in status_rows(inspection.status(run)) if row.startswith("answer")]
    assert len(both) == 2 and both[1].endswith(f"some CPU, 1 core, 8 GiB: {run}")
