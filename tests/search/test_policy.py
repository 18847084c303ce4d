"""Decisions one at a time: what comes next, how long it may be, and what is kept back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoaccel.budget import Spent, parse_budget
from autoaccel.config import TrainerConfig
from autoaccel.search.attempts import standings
from autoaccel.search.policy import (
    RACE_SHARE,
    RESERVE_MOST,
    RESERVE_SHARE,
    Left,
    Question,
    left_of,
    longest_horizon,
    next_trial,
    reserve_share,
)
from autoaccel.trial import Ended, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, COST, question

ASKED = question(parse_budget("60s"))
PLENTY = Left(55.0, math.inf, 0.9)


def record(spec: TrialSpec, outcome: str, seconds: float, value: float = 0.5) -> TrialRecord:
    return TrialRecord(spec, (), Ended(spec.trial, outcome, seconds, flops=1e8, value=value))


def baseline_hit(seconds: float = 1.0) -> list[TrialRecord]:
    return [record(TrialSpec(1, "baseline", replace(BASELINE, seed=1), ASKED.target, note="baseline"), "hit", seconds)]


def following(done: list[TrialRecord], left: Left = PLENTY, asked: Question = ASKED) -> TrialSpec:
    spec = next_trial(asked, done, left)
    assert spec is not None
    return spec


def test_the_baseline_comes_first_and_again_if_it_was_cut_off() -> None:
    first = following([])
    assert (first.trial, first.purpose) == (1, "baseline")
    assert first.config is not None and replace(first.config, seed=0) == BASELINE
    assert following([record(first, "interrupted", 1.0)]).purpose == "baseline"
    assert following([record(first, "stopped", 1.0)]).purpose == "baseline"
    assert following([record(first, "capped", 1.0)]).purpose == "reach"


def test_recipes_are_tried_in_order_until_something_hits() -> None:
    done = [record(following([]), "missed", 1.0)]
    for recipe in ASKED.space.recipes:
        spec = following(done)
        assert (spec.purpose, spec.note) == ("reach", recipe.name)
        assert spec.config is not None and spec.config.horizon.samples == int(recipe.horizon * BASELINE.horizon.samples)
        done.append(record(spec, "missed", 0.5))
    lengths = []
    for _ in range(6):
        spec = following(done)
        assert (spec.purpose, spec.note) == ("reach", "longer horizon") and spec.config is not None
        lengths.append(spec.config.horizon.samples)
        done.append(record(spec, "missed", 0.5))
    assert lengths == sorted(lengths) and lengths[-1] == 4 * BASELINE.horizon.samples


def test_a_hit_is_repeated_and_then_shortened() -> None:
    done = baseline_hit()
    spec = following(done)
    assert (spec.purpose, spec.cap_s) == ("race", 1.0)
    done.append(record(spec, "hit", 0.4))
    for _ in range(3):
        spec = following(done)
        assert (spec.purpose, spec.note) == ("repeat", "repeat of a hit")
        done.append(record(spec, "hit", 0.4))
    config = done[-1].spec.config
    while spec.purpose == "repeat":
        spec = following(done)
        done.append(record(spec, "hit", 0.4))
    assert spec.config is not None and config is not None
    assert (spec.purpose, spec.note) == ("race", "shorter horizon")
    assert spec.cap_s == standings(done[:-1])[0].ert_s
    assert spec.config.horizon.samples <= 0.75 * config.horizon.samples
    assert COST.predict(spec.config).seconds <= RACE_SHARE * 0.4


def test_repeats_that_are_always_cut_do_not_go_on_for_ever() -> None:
    done = baseline_hit()
    done.append(record(following(done), "hit", 0.4))
    for _ in range(20):
        spec = following(done)
        if spec.purpose != "repeat":
            break
        done.append(record(spec, "capped", 0.4))
    assert spec.purpose == "race"


def test_a_hit_that_cannot_win_any_more_is_dropped() -> None:
    done = baseline_hit(0.5)
    spec = following(done)
    done += [record(spec, "hit", 0.45), record(replace(spec, trial=3), "missed", 0.45)]
    done.append(record(replace(spec, trial=4), "missed", 0.45))
    assert following(done).purpose == "race"


def test_when_no_race_is_short_enough_the_search_is_over() -> None:
    done = baseline_hit(0.001)
    assert next_trial(ASKED, done, PLENTY) is None


def test_a_pinned_horizon_races_under_its_cap_alone() -> None:
    pinned = replace(ASKED, space=ASKED.space.fix({"horizon.samples": 15000}, "pinned"))
    spec = following(baseline_hit(0.01), asked=pinned)
    assert (spec.purpose, spec.cap_s) == ("race", 0.01) and spec.config is not None
    assert spec.config.horizon.samples == 15000


def test_what_the_space_does_not_search_stays_as_in_the_baseline() -> None:
    baseline = replace(BASELINE, batch=replace(BASELINE.batch, accumulation=2))
    knobs = tuple(k for k in ASKED.space.knobs if k.path == "schedule.warmup")
    asked = replace(ASKED, baseline=baseline, space=replace(ASKED.space, knobs=knobs, fixed={}))
    done = [record(following([], asked=asked), "missed", 1.0)]
    for _ in range(7):
        spec = following(done, asked=asked)
        assert spec.config is not None
        schedule = replace(spec.config.schedule, warmup=0.0)
        assert replace(spec.config, seed=0, schedule=schedule) == baseline
        done.append(record(spec, "missed", 1.0))


@pytest.mark.parametrize("left", [Left(0.0, math.inf, 0.5), Left(9.0, 0.0, 0.5), Left(9.0, math.inf, 0.0)])
def test_nothing_begins_when_something_is_used_up(left: Left) -> None:
    assert next_trial(ASKED, [], left) is None
    assert next_trial(ASKED, baseline_hit(), left) is None


def test_nothing_begins_that_does_not_fit() -> None:
    done = [record(following([]), "missed", 1.0)]
    reserve_s = 60 * reserve_share(ASKED, standings(done))
    assert next_trial(ASKED, done, Left(reserve_s + 0.01, math.inf, 0.5)) is None


def test_caps_lie_inside_what_is_left() -> None:
    done = baseline_hit(50.0)
    spec = following(done, Left(60 * RESERVE_MOST + 2.0, 1e12, 0.9))
    assert spec.cap_s == pytest.approx(2.0) and spec.cap_flops is not None


def test_the_reserve_grows_with_what_an_attempt_costs() -> None:
    assert reserve_share(ASKED, standings(baseline_hit(0.1))) == RESERVE_SHARE
    assert RESERVE_SHARE < reserve_share(ASKED, standings(baseline_hit(6.0))) < RESERVE_MOST
    assert reserve_share(ASKED, standings(baseline_hit(59.0))) == RESERVE_MOST


def test_what_is_left_keeps_time_for_the_answer() -> None:
    left = left_of(ASKED, Spent(seconds=20.0, flops=1e9))
    assert (left.seconds, left.flops, left.share) == (39.0, math.inf, pytest.approx(2 / 3))


def test_the_longest_horizon_is_the_longest_that_fits() -> None:
    for seconds in (0.05, 0.3, 0.777, 1.0):
        samples = longest_horizon(ASKED, BASELINE, seconds)
        assert cost_s(samples) <= seconds < cost_s(samples + BASELINE.batch.size)
    assert longest_horizon(ASKED, BASELINE, 1e9) == BASELINE.horizon.samples
    assert longest_horizon(ASKED, BASELINE, 1e-6) == 0
    assert longest_horizon(ASKED, BASELINE, 1e9, flops=1e6) == 0


def cost_s(samples: int) -> float:
    config: TrainerConfig = replace(BASELINE, horizon=replace(BASELINE.horizon, samples=samples))
    return COST.predict(config).seconds
