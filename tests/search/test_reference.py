"""When reference steps are run: at first, then as often as their share allows, and again where they say something."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import from_dict
from autoaccel.search.question import Left
from autoaccel.search.reference import SHARE, SLOW_SHARE, first_reference, next_reference
from autoaccel.trial import REFERENCE, Ended, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, COST, question

PLENTY = Left(500.0, math.inf, 0.9)
WALL_S = 0.07
APART_S = WALL_S / SHARE


def look(at_s: float, step_s: float = 0.01, outcome: str = "done") -> TrialRecord:
    facts: dict[str, Any] = {
        "wall_s": [step_s] * 6,
        "cpu_s": [step_s] * 6,
        "threads": 1,
        "default_threads": 1,
        "resident": True,
    }
    spec = TrialSpec(round(at_s * 100) + 1, REFERENCE, cap_s=1.8, probe={"limit_s": 0.6})
    return TrialRecord(spec, (), Ended(spec.trial, outcome, facts=facts), WALL_S * step_s / 0.01, at_s)


def training(at_s: float) -> TrialRecord:
    spec = TrialSpec(round(at_s * 100), "race", BASELINE)
    return TrialRecord(spec, (), Ended(spec.trial, "hit", 1.0), 1.0, at_s)


def test_the_first_ones_are_steps_of_the_baseline_within_their_share() -> None:
    spec = first_reference(question(parse_budget("60s")), 4)
    assert spec is not None and (spec.trial, spec.purpose, spec.config) == (4, REFERENCE, None)
    assert from_dict(spec.probe["config"]) == BASELINE
    assert spec.probe["limit_s"] == pytest.approx(0.6)


def test_they_have_the_threads_that_were_decided() -> None:
    asked = question(parse_budget("60s"))
    decided = replace(asked, space=replace(asked.space, fixed={**asked.space.fixed, "system.threads": 2}))
    spec = first_reference(decided, 4)
    assert spec is not None and from_dict(spec.probe["config"]).system.threads == 2


@pytest.mark.parametrize(("budget", "any_"), [("1s", False), ("5s", True), ("2e10FLOPs", False), ("1e11FLOPs", True)])
def test_where_two_steps_are_more_than_the_share_there_are_none(budget: str, any_: bool) -> None:
    assert COST.predict(BASELINE).step_s == pytest.approx(0.0064, abs=0.0005)
    assert (first_reference(question(parse_budget(budget)), 4) is not None) is any_


def test_they_are_repeated_when_they_cost_their_share_of_the_time_since() -> None:
    done = [look(3.0), training(5.0)]
    assert next_reference(done, PLENTY, 3.0 + 0.99 * APART_S) is None
    spec = next_reference(done, PLENTY, 3.0 + 1.01 * APART_S)
    assert spec is not None and spec.trial == 501 and spec.probe == done[0].spec.probe
    assert next_reference(done, replace(PLENTY, seconds=0.05), 1e3) is None


def test_a_slower_machine_is_looked_at_as_often() -> None:
    done = [look(3.0), look(20.0, 0.03), look(20.3, 0.03)]
    assert next_reference(done, PLENTY, 20.3 + 1.01 * APART_S) is not None


def test_looks_that_have_become_long_take_a_little_more_of_the_time_and_no_more() -> None:
    done = [look(3.0), look(20.0, 0.2), look(21.6, 0.2)]
    long_s = done[-1].wall_s
    assert long_s == pytest.approx(20 * WALL_S)
    assert next_reference(done, PLENTY, 21.6 + 0.99 * long_s / SLOW_SHARE) is None
    assert next_reference(done, PLENTY, 21.6 + 1.01 * long_s / SLOW_SHARE) is not None


def test_what_differs_is_looked_at_again_at_once_but_only_once() -> None:
    changed = [look(3.0), look(13.0), look(23.0, 0.02)]
    assert next_reference(changed, PLENTY, 23.1) is not None
    assert next_reference([*changed, look(23.2, 0.02)], PLENTY, 23.3) is None
    assert next_reference([*changed, look(23.2, 0.01)], PLENTY, 23.3) is None, "it goes on for ever"
    assert next_reference([*changed[:2], look(23.0, 0.0101)], PLENTY, 23.1) is None


def test_a_budget_of_flops_is_not_spent_on_them() -> None:
    first = first_reference(question(parse_budget("1e11FLOPs")), 1)
    assert first is not None and first.cap_flops == 1e9
    done = [replace(look(3.0), spec=first), training(5.0)]
    assert next_reference(done, Left(500.0, 1.1e9, 0.9), 1e3) is not None
    assert next_reference(done, Left(500.0, 0.9e9, 0.9), 1e3) is None


@pytest.mark.parametrize("done", [[], [training(5.0)], [look(3.0, outcome="crashed")], [look(3.0, outcome="timeout")]])
def test_without_sound_first_ones_there_are_no_others(done: list[TrialRecord]) -> None:
    assert next_reference(done, PLENTY, 1e3) is None
