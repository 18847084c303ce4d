"""The book of attempts: who leads, and what number the sampler sees of every kind of end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoaccel.config import TrainerConfig
from autoaccel.search.attempts import FAR, Standing, log_time_to_target, shortfall, standings
from autoaccel.sections import Horizon
from autoaccel.trial import FAILURES, Ended, Target, TrialRecord, TrialSpec

TARGET, FLOOR = Target.at_least(0.9), 0.001


def record(
    config: TrainerConfig,
    outcome: str,
    seconds: float,
    *,
    purpose: str = "race",
    value: float | None = None,
    trial: int = 1,
) -> TrialRecord:
    spec = TrialSpec(trial, purpose, replace(config, seed=trial), TARGET, cap_s=10.0)
    return TrialRecord(spec, (), Ended(trial, outcome, seconds, flops=1e6, value=value))


def config(samples: int) -> TrainerConfig:
    return TrainerConfig(horizon=Horizon(samples=samples))


def test_one_lucky_hit_loses_against_four_of_four_slightly_slower() -> None:
    lucky, steady = config(1000), config(1100)
    done = [record(lucky, "hit", 1.0), *(record(steady, "hit", 1.5, trial=n) for n in range(2, 6))]
    book = standings(done)
    assert [s.config.horizon.samples for s in book] == [1100, 1000]
    assert (book[1].ert_s, book[1].rank_s) == (1.0, 2.0)
    assert (book[0].ert_s, book[0].rank_s) == (1.5, 1.875)


def test_misses_make_a_configuration_slower() -> None:
    done = [
        record(config(1), "hit", 1.0),
        record(config(1), "missed", 2.0, trial=2),
        record(config(1), "oom", 3.0, trial=3),
    ]
    (standing,) = standings(done)
    assert (standing.attempts, standing.hits, standing.misses) == (3, 1, 2)
    assert (standing.ert_s, standing.mean_s, standing.rank_s) == (6.0, 2.0, 8.0)
    assert standing.flops == 3e6


@pytest.mark.parametrize("outcome", ["capped", "stopped", "interrupted", "refused"])
def test_a_cut_trial_is_no_attempt(outcome: str) -> None:
    assert standings([record(config(1), outcome, 1.0)]) == []


def test_only_the_purposes_asked_for_count() -> None:
    done = [record(config(1), "hit", 1.0), record(config(1), "missed", 1.0, purpose="confirm", trial=2)]
    assert [s.attempts for s in standings(done)] == [1]
    assert [s.hits for s in standings(done, ("confirm",))] == [0]


def test_a_configuration_without_hits_is_last_and_the_baseline_is_known() -> None:
    done = [record(config(1), "missed", 1.0, purpose="baseline"), record(config(2), "hit", 9.0, trial=2)]
    assert [(s.hits, s.is_baseline) for s in standings(done)] == [(1, False), (0, True)]
    assert standings(done)[1].ert_s == math.inf


def test_nothing_is_known_of_what_was_not_tried() -> None:
    untried = Standing(config(1), config(1).identity)
    assert (untried.mean_s, untried.ert_s, untried.rank_s) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (Target.at_least(0.9), 0.9, 0.0),
        (Target.at_least(0.9), 0.95, pytest.approx(-0.683, abs=1e-3)),
        (Target.at_least(0.9), 0.8, pytest.approx(0.688, abs=1e-3)),
        (Target.at_least(1.0), 0.9, pytest.approx(math.log(0.101 / 0.001))),
        (Target.at_most(0.5), 1.0, pytest.approx(math.log(2))),
        (Target.at_most(0.5), 0.25, pytest.approx(-math.log(2))),
        (Target.at_most(20, "perplexity"), 40, pytest.approx(math.log(2))),
        (Target(4.0, "max", "bleu"), 3.0, 0.25),
        (Target(4.0, "max", "bleu"), 5.0, -0.25),
        (Target(-4.0, "min", "energy"), -3.0, 0.25),
        (Target(0.5, "max", "r2"), -1e9, FAR),
        (Target.at_least(0.9), None, FAR),
        (Target.at_least(0.9), math.nan, FAR),
        (Target.at_most(0.5), math.inf, FAR),
    ],
)
def test_shortfall(target: Target, value: float | None, expected: float) -> None:
    assert shortfall(target, value, FLOOR) == expected


def test_the_sampler_sees_hits_in_seconds_and_misses_extrapolated() -> None:
    seen = {
        "hit": log_time_to_target(record(config(1), "hit", 2.0, value=0.9), TARGET, FLOOR),
        "near": log_time_to_target(record(config(1), "missed", 2.0, value=0.89), TARGET, FLOOR),
        "far": log_time_to_target(record(config(1), "missed", 2.0, value=0.5), TARGET, FLOOR),
    }
    assert seen["hit"] == pytest.approx(math.log(2))
    assert seen["hit"] < seen["near"] < seen["far"]


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_failure_at_once_is_worse_than_any_training(outcome: str) -> None:
    failed = log_time_to_target(record(config(1), outcome, 0.0, value=0.89), TARGET, FLOOR)
    assert failed > log_time_to_target(record(config(1), "missed", 10.0, value=0.0), TARGET, FLOOR)
    assert math.isfinite(failed)
