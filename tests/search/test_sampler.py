"""Suggestions stay in the space, are repeatable, and a neighbour is near."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.budget import parse_budget
from autoaccel.config import Params, TrainerConfig, to_params, with_params
from autoaccel.search.sampler import Hint, neighbour, optuna_trial, propose
from autoaccel.space.space import Space
from autoaccel.trial import Ended, Target, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, question

SPACE = question(parse_budget("60s")).space
TARGET = Target.at_least(0.9)


def is_inside(space: Space, point: Params) -> bool:
    active = space.active(point)
    ranges = all(k.low <= point[k.path] <= k.high for k in active if k.is_numeric)
    return ranges and all(point[k.path] in k.choices for k in active if k.choices)


def record(point: Params, trial: int, outcome: str = "missed") -> TrialRecord:
    config = with_params(TrainerConfig(), {**point, "batch.accumulation": 1, "seed": trial})
    spec = TrialSpec(trial, "race", config, TARGET, cap_s=2.0)
    return TrialRecord(spec, (), Ended(trial, outcome, 1.0 + 0.1 * trial, value=0.5 + 0.001 * trial))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), n=st.integers(0, 25), longest=st.floats(1, 1e6), with_best=st.booleans())
def test_a_proposal_is_inside_and_as_short_as_wanted(seed: int, n: int, longest: float, with_best: bool) -> None:
    rng = random.Random(seed)
    best = SPACE.project(to_params(BASELINE))
    done: list[TrialRecord] = []
    for trial in range(1, n + 1):
        outcome = rng.choice(["hit", "missed", "capped", "oom", "diverged"])
        done.append(record(neighbour(SPACE, best, rng), trial, outcome))
    hint = Hint(best if with_best else None, lambda _: longest)
    point = propose(SPACE, done, TARGET, 0.001, seed=seed, hint=hint)
    assert is_inside(SPACE, point)
    shortest = next(k.low for k in SPACE.knobs if k.path == "horizon.samples")
    assert point["horizon.samples"] <= max(longest, shortest)
    assert propose(SPACE, done, TARGET, 0.001, seed=seed, hint=hint) == point


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31))
def test_a_neighbour_is_inside_and_a_valid_config(seed: int) -> None:
    rng = random.Random(seed)
    best = SPACE.project(to_params(BASELINE))
    for _ in range(5):
        best = neighbour(SPACE, best, rng)
        assert is_inside(SPACE, best)
        with_params(
            TrainerConfig(), {**best, "batch.accumulation": min(best["batch.accumulation"], best["batch.size"])}
        )


def test_a_neighbour_with_another_optimizer_keeps_the_place_in_the_range() -> None:
    best = SPACE.project({**to_params(BASELINE), "optim.name": "adamw", "optim.lr": 3e-4 * (1e-1 / 3e-4) ** 0.5})
    low, high = 1e-2, 1.0
    for seed in range(300):
        point = neighbour(SPACE, best, random.Random(seed))
        if point["optim.name"] == "sgd":
            assert low * 2 < point["optim.lr"] < high / 2


def test_with_everything_pinned_there_is_one_point() -> None:
    params = {p: v for p, v in to_params(BASELINE).items() if p in SPACE.paths}
    pinned = SPACE.fix(params, "pinned")
    assert {**neighbour(pinned, params, random.Random(0)), **params} == neighbour(pinned, params, random.Random(0))
    for seed in range(4):
        point = propose(pinned, [record(params, 1)], TARGET, 0.001, seed=seed, hint=Hint(params, lambda _: 1.0))
        assert {p: point[p] for p in params} == params


def test_many_trials_are_thinned_to_the_best_and_the_latest() -> None:
    rng = random.Random(0)
    best = SPACE.project(to_params(BASELINE))
    done = [record(neighbour(SPACE, best, rng), trial) for trial in range(1, 150)]
    hint = Hint(None, lambda _: 1e9)
    assert is_inside(SPACE, propose(SPACE, done, TARGET, 0.001, seed=3, hint=hint))


@pytest.mark.parametrize("outcome", ["hit", "missed", "capped", "oom"])
def test_the_optuna_view_holds_what_was_really_run(outcome: str) -> None:
    params = {**SPACE.project(to_params(BASELINE)), "optim.name": "sgd", "optim.lr": 0.05, "horizon.samples": 777}
    trial = optuna_trial(SPACE, record(params, 7, outcome), TARGET, 0.001)
    assert trial.params["optim.lr[sgd]"] == 0.05 and "optim.lr[adamw]" not in trial.params
    assert trial.params["horizon.samples"] == 777
    assert trial.user_attrs["outcome"] == outcome and trial.user_attrs["seed"] == 7


def test_what_lies_outside_the_space_is_shown_at_its_edge() -> None:
    spec = TrialSpec(1, "baseline", replace(BASELINE, seed=1), TARGET)
    trial = optuna_trial(SPACE, TrialRecord(spec, (), Ended(1, "hit", 1.0)), TARGET, 0.001)
    assert trial.params["optim.weight_decay"] == 1e-6
