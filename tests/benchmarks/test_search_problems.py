"""The problems of the search benchmark: deterministic, as the protocol says, and each knob matters."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution

from benchmarks.search.judge import attempt
from benchmarks.search.problem import Point, Problem
from benchmarks.search.problems import available, family_of, names, problem
from benchmarks.search.problems.curves import AlgoPerf, recorded_table
from benchmarks.search.problems.data import Absent, data_file, protocol
from benchmarks.search.problems.lcbench import KNOBS, LcBench
from benchmarks.search.problems.miniature import Miniature, load_table, looks
from benchmarks.search.problems.mlp import Recipe

SHORT = 12_000
OTHER = {
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.5,
    "weight_decay": 0.1,
    "batch": 100,
    "warmup": 0.3,
    "schedule": "cosine",
    "smoothing": 0.2,
}


def needed(name: str) -> Any:
    """The problem, or the test is skipped."""
    try:
        return problem(name)
    except Absent as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def digits() -> Miniature:
    return needed("digits")


def values(points: list[Point]) -> list[float]:
    return [point.value for point in points]


# ------------------------------------------------------------------------------------------------------------ miniature


def test_digits_are_learnt(digits: Miniature) -> None:
    known = digits.description
    points = list(digits.train(known.default, 40_000, 0))
    assert values(points)[0] < 0.95 < values(points)[-1]
    assert len(points) == 10
    assert points[-1].samples == 40_000


def test_a_training_depends_on_its_arguments_only(digits: Miniature) -> None:
    default = digits.description.default
    first = list(digits.train(default, SHORT, 5))
    next(digits.train(default, SHORT, 6))
    assert list(digits.train(default, SHORT, 5)) == first
    assert values(list(digits.train(default, SHORT, 6))) != values(first)


@pytest.mark.parametrize("knob", sorted(OTHER))
def test_each_knob_changes_the_training(digits: Miniature, knob: str) -> None:
    base = {**digits.description.default, "optimizer": "sgd", "lr": 0.1, "schedule": "linear"}
    if knob == "optimizer":
        base = {**base, "optimizer": "adamw"}
    curves = [values(list(digits.train({**base, **change}, SHORT, 0))) for change in ({}, {knob: OTHER[knob]})]
    assert curves[0] != curves[1]


def test_a_knob_without_effect_has_none(digits: Miniature) -> None:
    default = digits.description.default
    curves = [values(list(digits.train({**default, "momentum": m}, SHORT, 0))) for m in (0.0, 0.9)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    "change", [{}, {"optimizer": "sgd", "lr": 0.3}, {"batch": 500}, {"optimizer": "sgd", "lr": 1.0}]
)
def test_seeds_together_are_as_seeds_alone(digits: Miniature, change: dict[str, Any]) -> None:
    params = {**digits.description.default, "lr": 0.01, "schedule": "linear", **change}
    seeds = range(10**9, 10**9 + 4)
    together = digits.train_many(params, 24_000, seeds, math.inf)
    alone = [attempt(digits, params, 24_000, seed, math.inf) for seed in seeds]
    assert [hit for _, hit in together] == [hit for _, hit in alone]
    assert [seconds for seconds, _ in together] == pytest.approx([seconds for seconds, _ in alone])


def test_a_cap_ends_trainings_together_as_alone(digits: Miniature) -> None:
    params = digits.description.default
    assert digits.train_many(params, SHORT, [1, 2], 0.1) == [(0.1, False)] * 2
    assert attempt(digits, params, SHORT, 1, 0.1) == (0.1, False)


def test_a_training_that_breaks_ends_with_nan(digits: Miniature) -> None:
    params = {**digits.description.default, "optimizer": "sgd", "lr": 1e30}
    points = list(digits.train(params, SHORT, 0))
    assert math.isnan(points[-1].value)
    assert len(points) < 10
    assert digits.train_many(params, SHORT, [0], math.inf) == [(points[-1].seconds, False)]


def test_the_clock_is_the_protocols(digits: Miniature) -> None:
    known = digits.description
    points = list(digits.train({**known.default, "batch": 128}, 12_800, 0))
    assert points[-1].seconds == pytest.approx(1e-3 * (100 * 3 + 10 * (1 + 597 / 192)))
    assert digits.seconds_per_sample({**known.default, "batch": 128}) == pytest.approx(3e-3 / 128)
    assert known.full_s == pytest.approx(1e-3 * (3000 * 2 + 10 * (1 + 597 / 192)))


def test_looks_are_even_and_end_at_the_end() -> None:
    assert looks(100) == [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert looks(4) == [1, 2, 3, 4]
    assert looks(33)[-1] == 33 and len(looks(33)) == 10


def test_schedules() -> None:
    def rates(schedule: str, warmup: float) -> list[float]:
        recipe = Recipe("sgd", 1.0, 0.0, 0.0, 1, warmup, schedule, 0.0, 100)
        return [recipe.rate(step) for step in range(100)]

    assert set(rates("constant", 0.0)) == {1.0}
    assert rates("linear", 0.0)[50] == pytest.approx(0.5)
    assert rates("cosine", 0.0)[50] == pytest.approx(0.5)
    warm = rates("cosine", 0.2)
    assert warm[:20] == sorted(warm[:20]) and warm[20] == 1.0 and warm[-1] < 0.01


def test_tables_are_split_as_the_protocol_says() -> None:
    table = load_table("digits", 1200, 597)
    assert (len(table.x_train), len(table.x_val), table.classes) == (1200, 597, 10)
    assert abs(float(table.x_train.mean())) < 1e-3
    with pytest.raises(ValueError, match="held out"):
        load_table("adult", 10, 10)


# -------------------------------------------------------------------------------------------------------------- lcbench


def test_a_horizon_cuts_an_lcbench_curve() -> None:
    found = needed("lcbench-3945")
    known = found.description
    full = list(found.train(known.default, 52, 0))
    assert list(found.train(known.default, 7, 1)) == full[:7]
    assert (len(full), full[-1].samples, full[-1].seconds) == (52, 52.0, known.full_s)
    seconds = [point.seconds for point in full]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert all(0 <= value <= 1 for value in values(full))
    assert found.seconds_per_sample(known.default) == pytest.approx((seconds[-1] - seconds[0]) / 51)


def test_each_lcbench_knob_changes_the_curve() -> None:
    found = needed("lcbench-3945")
    known = found.description
    assert tuple(known.space) == KNOBS
    base = found.curve(known.default)[1]
    for knob in KNOBS:
        assert not np.array_equal(base, found.curve({**known.default, knob: known.space[knob].high})[1])


def test_held_out_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="held out"):
        LcBench("7593", 0.5)


def test_lcbench_targets_follow_their_rule() -> None:
    try:
        file = data_file("yahpo_lcbench", "yahpo_lcbench.npz")
    except Absent as reason:
        pytest.skip(str(reason))
    family = protocol()["families"]["lcbench"]
    assert [f"lcbench-{task}" for task in family["development_tasks"][:10]] == list(family["problems"])
    with np.load(file) as table:
        tasks, accuracy = list(table["tasks"]), table["val_accuracy"]
    for name, entry in family["problems"].items():
        best = accuracy[tasks.index(name.removeprefix("lcbench-"))].max(axis=1) / 1e4
        assert entry["target"] == math.floor(float(np.quantile(best, 0.9)) * 1e4) / 1e4


# ---------------------------------------------------------------------------------------------------------------- extra


def test_an_algoperf_run_is_cut_at_the_horizon() -> None:
    found = needed("algoperf-ogbg")
    default = found.description.default
    full, cut = list(found.train(default, 100, 0)), list(found.train(default, 10, 0))
    assert cut[:-1] == full[: len(cut) - 1]
    assert (cut[-1].samples, cut[-1].seconds) == (10.0, pytest.approx(0.1 * found.description.full_s))
    assert list(found.train(default, 100, 1)) != full


def test_taskset_answers_with_the_nearest_recording() -> None:
    name = next(iter(protocol()["families"]["taskset"]["problems"]))
    found = needed(name)
    logs, curves = recorded_table(name.removeprefix("taskset-"))
    params = dict(zip(found.description.space, np.exp(logs[7]).tolist(), strict=True))
    assert values(list(found.train(params, 50, 0))) == pytest.approx(curves[7, 1:].tolist(), nan_ok=True)


def test_held_out_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="held out"):
        AlgoPerf("librispeech_conformer")
    with pytest.raises(ValueError, match="held out"):
        recorded_table("imdb_patch32_LSTM128_E128_bs128")


# ------------------------------------------------------------------------------------------------------------------ all


def test_defaults_and_horizons_lie_in_the_space() -> None:
    wanted = [name for family in protocol()["families"].values() for name in family.get("problems", ())]
    found, missing = available(wanted)
    assert found.keys() | missing.keys() == set(wanted)
    for one in found.values():
        check_description(one)


def check_description(one: Problem) -> None:
    known = one.description
    assert known.default.keys() == known.space.keys()
    for knob, distribution in known.space.items():
        value = known.default[knob]
        assert distribution._contains(distribution.to_internal_repr(value)), knob
    assert all(isinstance(known.space[parent], CategoricalDistribution) for parent, _ in known.conditions.values())
    assert known.horizon_low < known.full_horizon <= known.horizon_high
    assert known.full_s > 0
    assert family_of(known.name) == known.family


def test_missing_data_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOACCEL_BENCHMARK_DATA", str(tmp_path))
    with pytest.raises(Absent, match=r"pmlb/letter\.parquet is not in the data folder; set AUTOACCEL_BENCHMARK_DATA"):
        data_file("pmlb", "letter.parquet")


def test_unknown_problems() -> None:
    with pytest.raises(KeyError):
        family_of("nothing")
    assert "digits" in names(("miniature",))
    assert json.dumps(protocol())
