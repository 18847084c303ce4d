"""The contract of every peer, on a formula: it ends, never overspends, answers, repeats itself and keeps its form.

A peer whose library is not installed is skipped with the reason.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench, Trial
from benchmarks.search.peers import PEERS, missing
from benchmarks.search.peers.baseline_peers import learning_rate
from benchmarks.search.peers.desk import Desk, parents_first, play, snap
from benchmarks.search.problem import Description, Point


def load_formula() -> Any:
    """The fixture problem's class; the tests are no package."""
    name = "tests_benchmarks_synthetic"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("synthetic.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].Formula


Formula = load_formula()

FREE_HORIZON = ("smac-multifidelity", "gp-constraint", "flaml-lexico", "botorch-constrained")
"""Documented forms whose documentation has the training length among what is chosen."""
ONE_KNOB = ("default-lr", "default-lr-cap")
TRIALS = {"optuna": 11, "smac": 11, "botorch": 11, "syne-tune": 6}
"""Of a slow peer's study: one suggestion past its random start."""
CONDITIONAL = ("random", "optuna", "ray", "smac")
"""Families that are told which knobs have no effect."""


class ShortBench(Bench):
    """Ends after a number of trials, for the peers that think for long."""

    trials_left: float = math.inf

    def run(self, *args: Any, **kwargs: Any) -> Trial:
        self.trials_left -= 1
        if self.trials_left < 0:
            self.budget_s = self.now_s
        return super().run(*args, **kwargs)


def study(name: str, seed: int, budget: float, direction: str = "max") -> Bench:
    problem = Formula(direction=direction)
    bench = ShortBench(problem, budget * problem.description.full_s, seed)
    bench.trials_left = TRIALS[PEERS[name].family] if PEERS[name].slow else math.inf
    PEERS[name].run(bench)
    return bench


BUDGET = 5.0


@cache
def finished(name: str) -> Bench:
    """One study of a peer, shared by the tests."""
    return study(name, 1, BUDGET)


@pytest.fixture(params=list(PEERS))
def name(request: pytest.FixtureRequest) -> str:
    if request.param in missing():
        pytest.skip(missing()[request.param])
    return str(request.param)


def allowed(knob: BaseDistribution, value: object) -> bool:
    if isinstance(knob, CategoricalDistribution):
        return value in knob.choices
    assert isinstance(knob, IntDistribution | FloatDistribution)
    kind = int if isinstance(knob, IntDistribution) else float
    return isinstance(value, kind) and knob.low <= value <= knob.high


def check_params(known: Description, params: Mapping[str, Any]) -> None:
    assert set(params) == set(known.space)
    for knob, value in params.items():
        assert allowed(known.space[knob], value), (knob, value)


# ---------------------------------------------------------------------------------------------------------- every peer


def test_spends_all_or_ends_and_never_more(name: str) -> None:
    bench = finished(name)
    assert 0 < len(bench.trials) <= 400
    assert bench.now_s <= bench.budget_s * (1 + 1e-9)
    assert bench.now_s == pytest.approx(sum(trial.seconds for trial in bench.trials))
    assert bench.left_s <= 1e-9 or name == "default-lr"


def test_trains_and_answers_points_of_the_space(name: str) -> None:
    bench = finished(name)
    known = bench.problem.description
    for trial in bench.trials:
        check_params(known, trial.params)
        assert known.horizon_low <= trial.horizon <= known.full_horizon
    assert bench.answers
    for answer in bench.answers:
        check_params(known, answer.params)
        assert known.horizon_low <= answer.horizon <= known.full_horizon
    assert bench.answers[0].at_s == 0.0 and bench.answers[0].params == known.default


def test_same_seed_same_study(name: str) -> None:
    first, again = finished(name), study(name, 1, BUDGET)
    assert [(trial.params, trial.horizon) for trial in again.trials] == [
        (trial.params, trial.horizon) for trial in first.trials
    ]
    assert again.answers == first.answers


def test_varies_the_knobs(name: str) -> None:
    """Most of them: a short study of a local search may not come to all."""
    bench = finished(name)
    varied = {
        knob for knob in bench.problem.description.space if len({trial.params[knob] for trial in bench.trials}) > 1
    }
    assert "lr" in varied and (len(varied) >= 3 or name in ONE_KNOB)


def test_a_knob_without_effect_keeps_the_default(name: str) -> None:
    if PEERS[name].family not in CONDITIONAL:
        pytest.skip("draws every knob always")
    for trial in finished(name).trials:
        assert trial.params["optimizer"] == "sgd" or trial.params["momentum"] == 0.9


def test_strongest_caps_and_answers_the_fastest_hit(name: str) -> None:
    if PEERS[name].form != "strongest":
        pytest.skip("documented form")
    bench = finished(name)
    fastest: Trial | None = None
    for trial in bench.trials:
        assert trial.seconds <= (fastest.seconds if fastest else 2 * bench.problem.description.full_s)
        if trial.hit and (fastest is None or trial.seconds < fastest.seconds):
            fastest = trial
    if fastest is not None:
        assert (bench.answers[-1].params, bench.answers[-1].horizon) == (fastest.params, fastest.horizon)


def test_documented_trains_and_answers_at_full_length(name: str) -> None:
    if PEERS[name].form != "documented" or name in FREE_HORIZON:
        pytest.skip("chooses the training length")
    bench = finished(name)
    full = bench.problem.description.full_horizon
    assert {trial.horizon for trial in bench.trials} == {full}
    assert {answer.horizon for answer in bench.answers} == {full}


@pytest.mark.parametrize("quick", [name for name, peer in PEERS.items() if not peer.slow])
def test_another_seed_and_a_loss_to_minimise(quick: str) -> None:
    if quick in missing():
        pytest.skip(missing()[quick])
    bench = study(quick, 2, 3.0, direction="min")
    assert bench.now_s <= bench.budget_s * (1 + 1e-9)
    assert any(trial.hit for trial in bench.trials) or quick == "flaml-lexico"  # starts far below
    first = finished(quick)
    shared = min(len(bench.trials), len(first.trials))
    draws = [[trial.params for trial in one.trials[:shared]] for one in (bench, first)]
    assert draws[0] != draws[1] or quick in ONE_KNOB


# ------------------------------------------------------------------------------------------------------------ the desk


def desk(trials: list[Trial], *, capped: bool = False) -> Desk:
    bench = Bench(Formula(), 100.0, 0)
    bench.trials += trials
    return Desk(bench, capped, fastest_wins=capped)


def trained(value: float, seconds: float, outcome: str = "missed", horizon: int = 640, lr: float = 0.1) -> Trial:
    params = {**Formula().description.default, "lr": lr}
    return Trial(params, horizon, (Point(horizon, seconds, value),), outcome, seconds)


def test_the_most_accurate_is_the_first_of_equals_and_ran_its_course() -> None:
    trials = [trained(0.95, 1, "stopped"), trained(0.8, 3), trained(0.85, 9, lr=0.2), trained(0.85, 1, lr=0.3)]
    assert desk(trials).most_accurate() is trials[2]
    assert desk(trials[:1]).most_accurate() is trials[0]
    assert desk([]).most_accurate() is None


def test_penalised_orders_hits_by_time_then_misses_by_accuracy() -> None:
    table = desk([])
    ordered = [
        trained(0.91, 1.0, "hit"),
        trained(0.9, 3.0, "hit"),
        trained(0.89, 1.0),
        trained(0.5, 0.5, "capped"),
        trained(math.nan, 0.1, "diverged"),
    ]
    scores = [table.penalised(trial) for trial in ordered]
    assert scores == sorted(scores) and all(math.isfinite(score) for score in scores)


def test_the_gap_is_zero_at_the_target_and_grows_with_the_error() -> None:
    table = desk([])
    assert table.gap(0.9) == pytest.approx(0.0, abs=1e-9)
    assert table.gap(0.95) < 0 < table.gap(0.8) < table.gap(0.1) < table.gap(math.nan)


def test_a_study_ends_at_its_number_of_trials() -> None:
    bench = Bench(Formula(), 1e9, 0)

    def forever(table: Desk) -> None:
        while True:
            table.train(table.known.default, 20)

    play(bench, "documented", forever, max_trials=7)
    assert len(bench.trials) == 7


def test_knobs_follow_the_ones_they_depend_on() -> None:
    known = Formula().description
    order = parents_first(known)
    assert sorted(order) == sorted(known.space) and order.index("optimizer") < order.index("momentum")


@pytest.mark.parametrize(
    ("knob", "value", "nearest"),
    [
        (IntDistribution(4, 20, step=4), 9.9, 8),
        (IntDistribution(1, 8, log=True), 9.3, 8),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.6, 0.5),
        (FloatDistribution(0.1, 1.0, log=True), 0.05, 0.1),
        (CategoricalDistribution(["a", "b"]), "b", "b"),
    ],
)
def test_snap(knob: BaseDistribution, value: Any, nearest: Any) -> None:
    assert snap(knob, value) == nearest


def test_the_learning_rate_is_found_by_its_name() -> None:
    assert learning_rate(Formula().description) == "lr"


def test_missing_names_a_reason_for_each() -> None:
    assert "hebo" in missing() and all(missing().values())
