"""A lost training is run once more, with the same seed, and a second loss is a crash."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoaccel.config import TrainerConfig
from autoaccel.search.losses import judged, once_more
from autoaccel.search.question import Left
from autoaccel.trial import Ended, Target, TrialRecord, TrialSpec

ROOM = Left(50.0, math.inf, 0.5)


def spec(trial: int, seed: int = 7, purpose: str = "race", cap_s: float | None = 20.0) -> TrialSpec:
    return TrialSpec(
        trial, purpose, TrainerConfig(seed=seed), Target(0.9), cap_s, note="expected gain", bet={"gain": 1}
    )


def ended(of: TrialSpec, outcome: str) -> TrialRecord:
    return TrialRecord(of, (), Ended(of.trial, outcome))


@pytest.mark.parametrize("purpose", ["baseline", "first", "repeat", "confirm"])
def test_what_was_lost_is_run_again_as_it_was(purpose: str) -> None:
    lost = spec(3, purpose=purpose)
    again = once_more([ended(lost, "lost"), ended(spec(4, seed=8), "missed")], [spec(5, seed=9)], ROOM)
    note = "expected gain (again: the worker of trial 3 was lost)"
    assert again == replace(lost, trial=6, note=note)


def test_it_is_run_again_once() -> None:
    lost, again = spec(3), spec(4)
    assert once_more([ended(lost, "lost")], [again], ROOM) is None, "it is running"
    assert once_more([ended(lost, "lost"), ended(again, "missed")], [], ROOM) is None
    assert once_more([ended(lost, "lost"), ended(again, "crashed")], [], ROOM) is None


def test_other_ends_and_probes_are_not_run_again() -> None:
    others = [ended(spec(n, seed=n), outcome) for n, outcome in enumerate(("interrupted", "stopped", "crashed"), 1)]
    probe = TrialRecord(TrialSpec(9, "step_cost"), (), Ended(9, "lost"))
    assert once_more([*others, probe], [], ROOM) is None


def test_the_budget_rules() -> None:
    assert once_more([ended(spec(3), "lost")], [], Left(0.0, math.inf, 0.5)) is None
    again = once_more([ended(spec(3, cap_s=80.0), "lost")], [], ROOM)
    assert again is not None and again.cap_s == 50.0


def test_a_second_loss_is_a_crash() -> None:
    first, second = spec(3), spec(4)
    lost = Ended(4, "lost", message="its worker or machine went away: node died")
    assert judged([], first, lost) == lost
    assert judged([ended(spec(3, seed=8), "lost")], second, lost) == lost, "another training was lost"
    crashed = judged([ended(first, "lost")], second, lost)
    assert crashed.outcome == "crashed"
    assert crashed.message == "for the second time, its worker or machine went away: node died"
    hit = Ended(4, "hit")
    assert judged([ended(first, "lost")], second, hit) == hit
