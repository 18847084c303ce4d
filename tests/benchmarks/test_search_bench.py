"""The rules that every method of the search benchmark is held to: everything is charged, nothing is overspent."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from autoaccel.space.files import load_space
from benchmarks.search.bench import FRESH_SEEDS, Bench, BudgetSpent, Trial
from benchmarks.search.ours import RECIPES
from benchmarks.search.problem import Description, Params, Point, Problem


class Straight(Problem):
    """Accuracy grows by `slope` in each of ten looks of `pace` seconds; a slope of NaN diverges at the third."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        knobs = {"slope": FloatDistribution(0.0, 0.5), "pace": FloatDistribution(0.01, 3.0)}
        default = {"slope": 0.1, "pace": 1.0}
        self.description = Description("straight", "test", knobs, {}, 10, 100, 100, default, 0.9, full_s=10.0)

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        self.seeds.append(seed)
        for look in range(1, 11):
            value = params["slope"] * look if look < 3 or not params.get("breaks") else math.nan
            yield Point(horizon * look / 10, params["pace"] * look * horizon / 100, value)
            if math.isnan(value):
                return

    def seconds_per_sample(self, params: Params) -> float:
        return float(params["pace"]) / 10


call = st.fixed_dictionaries(
    {
        "slope": st.floats(0.0, 0.5),
        "pace": st.floats(0.01, 3.0),
        "breaks": st.booleans(),
        "horizon": st.integers(-5, 300),
        "cap": st.one_of(st.just(math.inf), st.floats(0.001, 40.0)),
        "patience": st.integers(1, 12),
        "probe": st.floats(0.0, 20.0),
    }
)


@settings(max_examples=150, deadline=None)
@given(budget=st.floats(0.1, 60.0), calls=st.lists(call, min_size=1, max_size=12))
def test_never_overspends_and_charges_everything(budget: float, calls: list[dict]) -> None:
    bench = Bench(Straight(), budget, seed=3)
    probed = 0.0
    try:
        for one in calls:
            before = bench.now_s
            bench.probe(one, one["probe"])
            probed += bench.now_s - before
            bench.run(one, one["horizon"], one["cap"], lambda points, one=one: len(points) >= one["patience"])
            bench.answer(one, one["horizon"])
    except BudgetSpent:
        assert bench.left_s <= 1e-9 or bench.trials[-1:] == [] or bench.trials[-1].outcome == "cut" or bench.left_s == 0
    assert bench.now_s <= budget + 1e-9
    trained = sum(trial.seconds for trial in bench.trials)
    assert bench.now_s == pytest.approx(trained + probed) or bench.left_s == 0
    for trial in bench.trials:
        check(trial)
    assert [answer.at_s for answer in bench.answers] == sorted(answer.at_s for answer in bench.answers)


def check(trial: Trial) -> None:
    """A trial has no point after its end and its outcome fits its points."""
    assert 10 <= trial.horizon <= 100
    assert all(point.seconds <= trial.seconds + 1e-9 for point in trial.points)
    hits = [point.value >= 0.9 for point in trial.points]
    assert not any(hits[:-1])
    assert trial.hit == bool(hits and hits[-1])
    assert (trial.outcome == "missed") == (
        bool(trial.points)
        and trial.points[-1].samples == trial.horizon
        and not hits[-1]
        and trial.outcome != "diverged"
    )
    assert (trial.outcome == "diverged") == any(math.isnan(point.value) for point in trial.points)


def test_outcomes() -> None:
    bench = Bench(Straight(), 1000.0, seed=0)
    fast = {"slope": 0.1, "pace": 1.0}
    assert bench.run(fast, 100).outcome == "hit"
    assert bench.run(fast, 100).seconds == 9.0
    assert bench.run(fast, 100, cap_s=4.5).outcome == "capped"
    assert bench.trials[-1].seconds == 4.5
    assert bench.run({**fast, "slope": 0.01}, 100).outcome == "missed"
    assert bench.run(fast, 100, stop=lambda points: len(points) == 2).outcome == "stopped"
    assert bench.run({**fast, "breaks": True}, 100).outcome == "diverged"
    assert bench.now_s == 9.0 + 9.0 + 4.5 + 10.0 + 2.0 + 3.0


def test_the_end_of_the_budget_cuts() -> None:
    bench = Bench(Straight(), 5.5, seed=0)
    with pytest.raises(BudgetSpent):
        bench.run({"slope": 0.1, "pace": 1.0}, 100)
    assert (bench.trials[-1].outcome, bench.trials[-1].seconds, bench.now_s) == ("cut", 5.5, 5.5)
    with pytest.raises(BudgetSpent):
        bench.run({"slope": 0.1, "pace": 1.0}, 100)
    assert len(bench.trials) == 1


def test_a_probe_past_the_budget_takes_what_is_left() -> None:
    bench = Bench(Straight(), 5.0, seed=0)
    assert bench.probe({"pace": 1.0}, 10) == 0.1
    with pytest.raises(BudgetSpent):
        bench.probe({"pace": 1.0}, 1000)
    assert bench.now_s == 5.0


def test_seeds_differ_between_trials_and_studies_and_are_never_fresh() -> None:
    problem = Straight()
    for seed in (0, 1):
        bench = Bench(problem, 1000.0, seed)
        for _ in range(3):
            bench.run({"slope": 0.2, "pace": 1.0}, 100)
    assert len(set(problem.seeds)) == 6
    assert max(problem.seeds) < FRESH_SEEDS


def test_the_rules_of_thumb_are_those_of_the_product() -> None:
    paths = {
        "optimizer": "optim.name",
        "lr": "optim.lr",
        "decay": "optim.weight_decay",
        "schedule": "schedule.name",
        "warmup": "schedule.warmup",
        "batch": "batch.size",
    }
    ours_are = [{paths[role]: value for role, value in recipe.items() if role in paths} for recipe in RECIPES]
    assert ours_are == [dict(recipe.params) for recipe in load_space("minimal").recipes]
