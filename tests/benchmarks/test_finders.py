"""The benchmark of batch-size finders: limits that bind, turns that are fair, figures that are right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.finders import __main__ as finders
from benchmarks.finders.__main__ import PROTOCOL, Parts, collected, measure, table_of
from benchmarks.finders.choosers import CHOOSERS
from benchmarks.finders.figures import figures, rows_of
from benchmarks.finders.processes import absent, ask
from benchmarks.finders.rounds import run_round, steps_of
from benchmarks.finders.workloads import WORKLOADS, datasets

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA and /proc")
SMALL = {**PROTOCOL, "ours": {"budget_s": 200, "largest": 64}, "check_steps": 4, "check_every": 2}


# --------------------------------------------------------------------------------------------------- limits and choices


@linux
def test_a_limit_lets_a_process_take_so_much_more_and_no_more() -> None:
    code = """
import torch
from benchmarks.finders.limits import limit_memory
limit_memory(256 * 2**20)
kept = torch.ones(32 * 2**20)
try:
    torch.ones(64 * 2**20)
except RuntimeError as error:
    print("can't allocate memory" in str(error))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout == "True\n", run.stderr


@linux
def test_ours_chooses_what_it_can_train() -> None:
    told = {"workload": "conv_net", "protocol": SMALL}
    found = ask({**told, "chooser": "ours"})
    assert found.get("choice") in (16, 32, 64) and found["fits"] == 64, found
    assert found["memory"]["refuses"] and found["memory"]["limit"] == "RLIMIT_DATA of this process"
    check = {"check": True, "batch": found["choice"], "evaluation_batch": found["evaluation_batch"]}
    assert ask({**told, **check}) == {"outcome": "finished", "steps": 4, "message": ""}


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("chooser", "expected"), [("accelerate", {128}), ("lightning_power", {16, 32, 64, 128})])
def test_a_finder_chooses_as_it_is_documented(chooser: str, expected: set[int]) -> None:
    if chooser in absent([chooser]):
        pytest.skip(absent([chooser])[chooser])
    room = {"accelerate": 2**30, "lightning_power": 2**28}[chooser]
    found = ask({"workload": "char_transformer", "protocol": {**SMALL, "room_bytes": room}, "chooser": chooser})
    assert found.get("choice") in expected and found["seconds"] > 0, found


def test_who_dies_says_why() -> None:
    assert "KeyError" in ask({"workload": "no such", "protocol": SMALL, "chooser": "ours"})["error"]


def test_all_choosers_and_workloads_are_in_the_protocol() -> None:
    assert CHOOSERS.keys() == PROTOCOL["choosers"].keys() and WORKLOADS.keys() == PROTOCOL["workloads"].keys()
    for name in WORKLOADS:
        train, validation = datasets(name)
        assert len(train) > PROTOCOL["ours"]["largest"] and len(validation) > 2 * 256


# -------------------------------------------------------------------------------------------------------------- rounds


def test_sides_and_batches_take_turns_and_blocks_hold_as_many_samples() -> None:
    ran: list[tuple[int, int]] = []

    def block(batch: int, steps: int) -> tuple[float, float]:
        ran.append((batch, steps))
        return batch * steps / (100 if batch == 64 else 80), 0.5 * batch * steps

    choices = {"ours": 64, "a": 512, "b": 128, "c": 64}
    pairs = [pair for index in range(4) for pair in run_round("net", index, choices, 1024, block)]
    orders = ["".join("o" if batch == 64 else "x" for batch, _ in ran[at : at + 4]) for at in range(0, len(ran), 4)]
    assert orders == ["oxxo", "xoox", "xoox", "oxxo", "oxxo", "xoox", "xoox", "oxxo"]
    assert [p["batch"] for p in pairs] == [128, 512, 512, 128, 128, 512, 512, 128]
    assert {batch: batch * steps for batch, steps in ran} == {64: 1024, 128: 1024, 512: 1024}
    assert {(p["ours_samples_per_s"], p["samples_per_s"], p["cpu_ratio"]) for p in pairs} == {(100.0, 80.0, 1.0)}
    assert steps_of(4096, 1024) == 2


def test_a_training_that_ends_has_no_rate() -> None:
    def block(batch: int, steps: int) -> tuple[float, float] | str:
        return (1.0, 1.0) if batch == 64 else "oom"

    assert run_round("net", 0, {"ours": 64, "a": 512}, 1024, block) == [
        {"workload": "net", "round": 0, "batch": 512, "ended": "other", "how": "oom"}
    ]
    assert run_round("net", 0, {"ours": 64, "a": 64}, 1024, block) == []


# ------------------------------------------------------------------------------------------------------------- figures


def pair(batch: int, ours: float, other: float) -> dict[str, Any]:
    return {"workload": "net", "batch": batch, "ours_samples_per_s": ours, "samples_per_s": other, "cpu_ratio": 1.0}


FOUND = {
    "net": {
        "ours": {"choice": 64, "seconds": 5.0},
        "slow": {"choice": 512, "seconds": 9.0},
        "same": {"choice": 64, "seconds": 2.0},
        "broken": {"error": "RuntimeError: could not create a primitive"},
    }
}


def test_figures_are_the_least_ratio_and_what_failed() -> None:
    pairs = [pair(512, 100.0, rate) for rate in (80.0, 90.0, 100.0)]
    rows = rows_of(FOUND, {"net": {"outcome": "finished"}}, pairs)
    table = {row["chooser"]: row for row in rows}
    assert table["slow"]["ratio"] == pytest.approx(100 / 90) and table["slow"]["low"] == 1.0
    assert (table["same"]["ratio"], table["same"]["pairs"]) == (1.0, 0)
    found = figures(rows, ["ours", "slow", "broken"])
    assert found["vs_finder_min"] == 1.0 and found["oom_later"] == 0
    assert (found["finders_without_a_choice"], found["finder_choices_that_failed"]) == (1, 0)
    assert (found["search_s_ours"], found["search_s_slow"], found["search_s_broken"]) == (5.0, 9.0, None)
    faster = figures(rows_of(FOUND, {}, [pair(512, 90.0, 100.0)] * 3), ["ours"])
    assert faster["vs_finder_min"] == pytest.approx(0.9)


def test_a_choice_that_does_not_train_is_counted_and_has_no_ratio() -> None:
    ended = {"workload": "net", "batch": 512, "ended": "other", "how": "oom"}
    rows = rows_of(FOUND, {"net": {"outcome": "finished"}}, [pair(512, 100.0, 50.0), ended])
    found = figures(rows, [])
    assert (found["vs_finder_min"], found["finder_choices_that_failed"], found["oom_later"]) == (1.0, 1, 0)


@pytest.mark.parametrize("outcome", ["oom", "crashed", "died"])
def test_our_choice_that_fails_is_counted_however_it_fails(outcome: str) -> None:
    ended = {"workload": "net", "batch": 512, "ended": "ours", "how": "oom"}
    rows = rows_of(FOUND, {"net": {"outcome": outcome}}, [])
    assert figures(rows, [])["oom_later"] == 1
    assert figures(rows_of(FOUND, {"net": {"outcome": outcome}}, [ended]), [])["oom_later"] == 2


def test_what_was_not_measured_is_none() -> None:
    nothing = figures([], ["ours"])
    assert [nothing[name] for name in ("vs_finder_min", "oom_later", "search_s_ours")] == [None, None, None]
    waiting = figures(rows_of(FOUND, {}, []), ["ours"])
    assert (waiting["vs_finder_min"], waiting["oom_later"]) == (None, None)


# ------------------------------------------------------------------------------------------------------------- resuming


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(told: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(told.get("chooser", "check"))
        if "check" in told:
            return {"outcome": "finished", "steps": 200}
        return {"choice": 64 if told["chooser"] == "ours" else 128, "seconds": 1.0, "evaluation_batch": 256}

    @contextmanager
    def still(told: Mapping[str, Any], batches: set[int]) -> Iterator[Any]:
        assert batches == {64, 128}
        yield lambda batch, steps: (batch * steps / 100, 1.0)

    monkeypatch.setattr(finders, "ask", answer)
    monkeypatch.setattr(finders, "trainings", still)
    monkeypatch.setattr(finders, "absent", lambda names: {"accelerate": "is not installed"})
    protocol = {**PROTOCOL, "rounds": 2}
    for _ in range(2):
        measure(Parts(tmp_path, "conditions"), protocol)
    assert len(asked) == len(WORKLOADS) * len(PROTOCOL["choosers"]) and "accelerate" not in asked
    found, checked, pairs = collected(Parts(tmp_path, "conditions"), protocol)
    rows = rows_of(found, checked, pairs)
    assert figures(rows, [])["vs_finder_min"] == pytest.approx(1.0) and len(pairs) == 2 * len(WORKLOADS)
    assert len(table_of(rows)) == 2 + len(rows) and json.dumps(rows)
    assert collected(Parts(tmp_path, "others"), protocol) == ({}, {}, [])
