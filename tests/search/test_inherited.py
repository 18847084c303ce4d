"""Past trainings as evidence: as they would have been for this target, on this machine, in this space."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import to_params
from autoaccel.search.evidence import Curve
from autoaccel.search.inherited import MOST, TRIES, chosen, curve_of_past, standing
from autoaccel.search.question import seed_of
from autoaccel.search.translate import setting_of
from autoaccel.store.library import Past, PastTraining
from tests.simulated.problems import BASELINE, COST, question

ASKED = question(parse_budget("14s"), target=0.86)
SETTING = setting_of(ASKED)


def past(outcome: str = "missed", values: tuple[float | None, ...] = (0.5, 0.87, 0.9), **params: Any) -> PastTraining:
    changed = {path.replace("__", "."): value for path, value in params.items()}
    samples = tuple(5000 * (k + 1) for k in range(len(values)))
    return PastTraining("a", "race", {**to_params(BASELINE), **changed}, samples, values, outcome, 99.0)


def curve(given: PastTraining, target: float = 0.86) -> Curve | None:
    asked = question(parse_budget("14s"), target=target)
    return curve_of_past(asked, setting_of(asked), given)


def test_the_seconds_are_those_of_this_machine() -> None:
    found = curve(past(values=(0.5, 0.6)))
    assert found is not None
    assert found.seconds == pytest.approx(SETTING.seconds(found.params, 10_000))
    slower = replace(ASKED, cost=replace(COST, micro={"fp32": ((16, 0.02), (1024, 0.36))}))
    again = curve_of_past(slower, setting_of(slower), past(values=(0.5, 0.6)))
    assert again is not None and again.seconds > 3 * found.seconds
    assert (again.samples, again.margins) == (found.samples, found.margins)


@pytest.mark.parametrize(
    ("outcome", "target", "expected", "n_seen"),
    [
        ("missed", 0.95, "missed", 3),
        ("missed", 0.86, "hit", 2),
        ("hit", 0.95, "cut", 3),
        ("hit", 0.4, "hit", 1),
        ("capped", 0.95, "cut", 3),
        ("stopped", 0.95, "cut", 3),
        ("diverged", 0.95, "failed", 3),
    ],
)
def test_what_it_is_for_another_target(outcome: str, target: float, expected: str, n_seen: int) -> None:
    found = curve(past(outcome), target)
    assert found is not None
    assert (found.outcome, len(found.margins)) == (expected, n_seen)
    assert (found.margins[-1] >= 0) == (expected == "hit")


def test_a_value_that_is_no_number_is_far_away() -> None:
    found = curve(past("diverged", (None,)))
    assert found is not None and found.margins[0] < -2


@pytest.mark.parametrize(
    ("params", "fits"),
    [
        ({}, True),
        ({"optim__lr": 0.01}, True),
        ({"seed": 7}, True),
        ({"optim__lr": 5000.0}, False),
        ({"batch__size": 2_000}, False),
        ({"optim__name": "lion"}, False),
        ({"horizon__samples": 10**7}, False),
        ({"precision__dtype": "bf16"}, True),
        ({"memory__format": "channels_last"}, True),
        ({"regularize__dropout": 0.2}, False),
        ({"evaluate__every_samples": 1}, False),
        ({"future__knob": 1}, False),
        ({"schedule__warmup": "long"}, False),
    ],
)
def test_what_does_not_fit_into_the_space_is_left_out(params: dict[str, Any], fits: bool) -> None:
    assert (curve(past(**params)) is not None) == fits


def test_the_baseline_may_be_outside_of_the_space_as_in_this_study() -> None:
    assert to_params(BASELINE)["optim.weight_decay"] == 0.0
    found = curve(past())
    assert found is not None and 0 < found.params["optim.weight_decay"] < 1e-5
    assert curve(past(optim__name="sgd", optim__lr=0.1, optim__weight_decay=1e-9)) is None


def test_a_knob_it_did_not_know_yet_is_as_in_the_baseline() -> None:
    older = past()
    del older.params["regularize.label_smoothing"]
    assert curve(older) == curve(past())


def test_of_many_the_near_and_the_new_are_chosen() -> None:
    far, near = past(values=(0.2,)), past(values=(0.87,))
    many = [replace(t, study=str(n)) for n, t in enumerate([far] * 100 + [near] * 400)]
    found = chosen(ASKED, Past((*many, past(optim__lr=5000.0)), 3)).trainings
    assert len(found) == MOST and [int(t.study) for t in found] == [*range(50, 100), *range(350, 500)]
    assert len(chosen(ASKED, Past(tuple(many[:250]), 3)).trainings) == MOST
    assert len(chosen(ASKED, Past(tuple(many[90:110]), 3)).trainings) == 20
    assert chosen(ASKED, Past((), 3)) == Past((), 3)


def test_what_is_not_repeated_here_is_dropped() -> None:
    given = [curve(past("hit", optim__lr=0.001 * k)) for k in range(1, 6)]
    known = [c for c in given if c is not None]
    assert len(known) == 5

    def missed(c: Curve) -> Curve:
        return replace(c, outcome="missed")

    assert standing(known, []) == [0, 1, 2, 3, 4]
    assert standing(known, [missed(known[0])] * (TRIES - 1)) == [0, 1, 2, 3, 4]
    assert standing(known, [missed(known[0])] * TRIES) == [1, 2, 3, 4]
    assert standing(known, [*[missed(known[0])] * TRIES, known[0]]) == [0, 1, 2, 3, 4]
    assert standing(known, [missed(c) for c in known[:3] for _ in range(TRIES)]) == [], "another task after all"


def test_seeds_of_studies_are_apart() -> None:
    later = replace(ASKED, past=Past(generation=1))
    assert not {seed_of(ASKED, n) for n in range(1000)} & {seed_of(later, n) for n in range(1000)}
