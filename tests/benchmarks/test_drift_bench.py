"""Disturbed pairs: order, resuming, what disturbs, and figures. Nothing real is trained here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import to_dict
from autoaccel.trial import REFERENCE, Ended, TrialRecord, TrialSpec
from benchmarks.drift.__main__ import HERE, PROTOCOL
from benchmarks.drift.figures import DISTURBED, QUIET, SWAMPED, figures
from benchmarks.drift.pairs import PER_CORE, Plan, hogs, order, plan_of, rows_of, run_pair
from benchmarks.drift.study import references, trainings, uncorrected_s
from tests.simulated.problems import BASELINE, question

PLAN = Plan("digits", 0.9, 60.0, 2, (7, 8), 10.0, 0.5, 1)
TARGET = question(parse_budget("60s")).target


def study(stated: float | None = 0.3, named: bool = False, **changes: Any) -> dict[str, Any]:
    drift = {"most": 1.8} if named else None
    kept = {
        "answer": {"lr": stated},
        "time_to_target_s": stated,
        "uncorrected_s": stated and 1.5 * stated,
        "drift": drift,
    }
    return {**kept, "reference_s": 0.5, "tuning_s": 59.0, "budget_s": 60.0, "trainings": [], **changes}


def test_the_arms_take_turns_in_being_the_first() -> None:
    assert [order(PLAN, pair) for pair in (0, 1)] == [(QUIET, DISTURBED, SWAMPED), (DISTURBED, QUIET)]


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    told, judged = [], []

    def run_study(assignment: dict[str, Any]) -> dict[str, Any]:
        told.append(assignment)
        return {**assignment, **study(0.4 if assignment["hogs"] else 0.3)}

    def judge(answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        judged.append(answers)
        tried = {"cpu_s": [0.2, 0.4], "wall_s": [0.1, 0.3], "hits": [True, True]}
        all_of = dict.fromkeys(answers, tried)
        return {"full_cpu_s": 1.0, "full_wall_s": 0.6, **all_of, DISTURBED: {**tried, "hits": [True, False]}}

    for _ in range(2):
        for pair in range(2):
            run_pair(tmp_path, PLAN, pair, run_study, judge)
    assert {t["disturbed_from_s"] for t in told} == {30.0}
    assert [(t["seed"], t["hogs"]) for t in told] == [(0, 0), (0, 1), (0, PER_CORE), (1, 1), (1, 0)]
    pair = {QUIET: {"lr": 0.3}, DISTURBED: {"lr": 0.4}}
    assert judged == [{**pair, SWAMPED: {"lr": 0.4}}, pair]
    for row in rows_of(tmp_path, PLAN):
        assert (row[QUIET]["ert_s"], row[DISTURBED]["ert_s"]) == (pytest.approx(0.3), pytest.approx(0.6))
        assert (row[QUIET]["ert_wall_s"], row[DISTURBED]["ert_wall_s"]) == (pytest.approx(0.2), pytest.approx(0.4))
        assert "trainings" not in row[QUIET]
    file = tmp_path / "0-quiet.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "key": "other conditions"}))
    run_pair(tmp_path, PLAN, 0, run_study, judge)
    assert len(told) == 6 and len(judged) == 2, "the answer is the same: it is judged"


def test_hogs_end_with_the_study() -> None:
    before = set(psutil.Process().children())
    with hogs(3, 60.0, 1.0):
        started = set(psutil.Process().children()) - before
        assert len(started) == 3
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in started)


def test_figures_of_made_up_pairs() -> None:
    rows: list[dict[str, Any]] = [
        {
            QUIET: study(0.3, ert_s=2 * 0.3, ert_wall_s=0.3),
            DISTURBED: study(0.4, True, ert_s=2 * 0.36, ert_wall_s=0.36),
        },
        {
            QUIET: study(0.3, ert_s=2 * 0.25, ert_wall_s=0.25),
            DISTURBED: study(0.2, True, ert_s=2 * 0.25, ert_wall_s=0.25),
        },
        {
            QUIET: study(0.3, True, ert_s=2 * 0.3, ert_wall_s=0.3),
            DISTURBED: study(0.3, ert_s=2 * 0.3, ert_wall_s=0.3, tuning_s=60.5),
            SWAMPED: study(0.6, True, ert_s=0.9, ert_wall_s=0.4),
        },
    ]
    found = figures(rows)
    assert found["pairs"] == 3
    assert found["ert_ratio"] == pytest.approx((1.2 * 1.0 * 1.0) ** (1 / 3))
    low, high = found["ert_ratio_interval"]
    assert low <= found["ert_ratio"] <= high
    assert found["stated_error"] == pytest.approx(((0.4 / 0.36) * (0.2 / 0.25) * 1.0) ** (1 / 3))
    assert found["stated_error_uncorrected"] == pytest.approx(1.5 * found["stated_error"])
    assert found["stated_error_quiet"] == pytest.approx(1.2 ** (1 / 3))
    assert (found["named_share"], found["false_alarms"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    swamped = [found[f"swamped_{name}"] for name in ("pairs", "ert_ratio", "stated_error", "named_share")]
    assert swamped == [1, pytest.approx(1.5), pytest.approx(1.5), 1.0]
    assert (found["most_slowed"], found["overshoot_s_max"]) == (1.8, 0.5)
    assert found["reference_share"] == pytest.approx(0.5 / 60)


def test_without_pairs_nothing_is_measured() -> None:
    found = figures([])
    assert (found.pop("pairs"), found.pop("swamped_pairs")) == (0, 0) and set(found.values()) == {None}
    few = figures(
        [{QUIET: study(ert_s=2 * 0.3, ert_wall_s=0.3), DISTURBED: study(None, ert_s=2 * 0.3, ert_wall_s=0.3)}]
    )
    assert (few["ert_ratio_interval"], few["stated_error"]) == (None, None)


def test_a_study_keeps_what_its_records_say_of_the_machine() -> None:
    def confirm(trial: int, outcome: str) -> TrialRecord:
        spec = TrialSpec(trial, "confirm", replace(BASELINE, seed=trial), TARGET)
        return TrialRecord(spec, (), Ended(trial, outcome, 0.5, cpu_s=0.4), 0.6, 10.0 + trial)

    facts = {
        "wall_s": [0.01, 0.03, 0.02],
        "cpu_s": [0.01, 0.015, 0.02],
        "threads": 1,
        "default_threads": 1,
        "resident": True,
    }
    look = TrialRecord(TrialSpec(4, REFERENCE), (), Ended(4, "done", facts=facts), 0.1, 5.0)
    done = [look, confirm(5, "hit"), confirm(6, "missed"), confirm(7, "capped")]
    assert references(done) == [[5.0, 0.02, 0.015]]
    assert trainings(done)[0] == [15.0, 0.5, 0.4, 1.25] and len(trainings(done)) == 3
    assert uncorrected_s(done, 1, to_dict(BASELINE)) == pytest.approx(1.0)
    assert uncorrected_s(done, 0, to_dict(BASELINE)) is None


def test_the_protocol_is_what_the_readme_and_the_bars_say() -> None:
    full, quick = plan_of(PROTOCOL, False), plan_of(PROTOCOL, True)
    assert (full.budget_s, full.from_share) == (60, 0.5) and full.pairs >= 5 and len(full.judging_seeds) >= 10
    assert (quick.budget_s, quick.pairs) == (25, 1)
    demo = json.loads((HERE.parent / "demo" / "protocol.json").read_text())
    assert full.target == demo["target"]
    assert (full.swamped_pairs, quick.swamped_pairs) == (3, 0)
    minutes = sum(len(order(full, pair)) for pair in range(full.pairs)) * (full.budget_s + 12) / 60
    assert math.ceil(minutes) <= 28
