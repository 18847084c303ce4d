"""Predicted seconds and FLOPs from measured pieces of a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.config import TrainerConfig, keras_recipe, with_params
from autoaccel.cost.step_cost import READS, StepCost
from autoaccel.search.encoding import Encoding
from autoaccel.sections import Batch, Evaluate, Horizon, Optim, Precision
from autoaccel.space.files import load_space

COST = StepCost(
    micro={"fp32": ((16, 0.010), (64, 0.016), (128, 0.032)), "bf16": ((64, 0.008), (128, 0.012))},
    optimizer={"adamw": 0.002, "sgd": 0.001},
    evaluation={"fp32": 0.5, "bf16": 0.25},
    flops_per_sample=1e6,
    evaluation_flops=1e8,
)


@pytest.mark.parametrize(
    ("dtype", "samples", "expected"),
    [
        ("fp32", 16, 0.010),
        ("fp32", 64, 0.016),
        ("fp32", 40, 0.013),
        ("fp32", 96, 0.024),
        ("fp32", 1, 0.010),  # a small batch costs what the smallest measured one costs
        ("fp32", 256, 0.064),  # a large one is as efficient as the largest
        ("bf16", 96, 0.010),
        ("bf16", 16, 0.008),
        ("fp8", 64, 0.016),  # not measured: as fp32
    ],
)
def test_a_micro_batch_between_and_beyond_what_was_measured(dtype: str, samples: int, expected: float) -> None:
    assert COST.micro_seconds(dtype, samples) == pytest.approx(expected)


def config(size: int = 64, accumulation: int = 1, samples: int = 6400, every: int = 1600) -> TrainerConfig:
    return TrainerConfig(
        batch=Batch(size=size, accumulation=accumulation),
        horizon=Horizon(samples=samples),
        evaluate=Evaluate(every_samples=every),
    )


def test_a_training_is_its_steps_and_its_evaluations() -> None:
    predicted = COST.predict(config())
    assert predicted.step_s == pytest.approx(0.016 + 0.002)
    adding = replace(COST, accumulation_s=0.003).predict(config(256, 4))
    assert adding.step_s == pytest.approx(4 * 0.016 + 3 * 0.003 + 0.002)
    assert predicted.seconds == pytest.approx(100 * 0.018 + 4 * 0.5)
    assert predicted.flops == 6400 * 1e6 + 4 * 1e8


@pytest.mark.parametrize(
    ("size", "accumulation", "expected"),
    [
        (128, 2, 2 * 0.016),
        (128, 8, 8 * 0.010),
        (100, 3, 2 * 0.01225 + 0.01200),  # 34 + 34 + 32
        (10, 4, 3 * 0.010 + 0.010),  # 3 + 3 + 3 + 1
        (8, 3, 2 * 0.010 + 0.010),  # 3 + 3 + 2
    ],
)
def test_accumulation_pays_for_every_piece_and_the_rest(size: int, accumulation: int, expected: float) -> None:
    predicted = COST.predict(config(size, accumulation))
    assert predicted.step_s == pytest.approx(expected + 0.002)


def test_optimizer_and_precision_have_their_own_costs() -> None:
    base = config()
    sgd = COST.predict(replace(base, optim=Optim(name="sgd", lr=0.1)))
    half = COST.predict(replace(base, precision=Precision(dtype="bf16")))
    assert sgd.step_s == pytest.approx(0.017)
    assert half.seconds == pytest.approx(100 * (0.008 + 0.002) + 4 * 0.25)
    unmeasured = replace(COST, optimizer={}, evaluation={})
    assert unmeasured.predict(base).seconds == pytest.approx(100 * 0.016)


def test_the_end_is_always_evaluated_and_a_step_at_most_once() -> None:
    assert COST.predict(config(samples=6400, every=10**9)).flops == 6400e6 + 1e8
    assert COST.predict(config(samples=6400, every=6399)).flops == 6400e6 + 2e8
    assert COST.predict(config(samples=6400, every=1)).flops == 6400e6 + 100 * 1e8


@settings(deadline=None, max_examples=200)
@given(
    size=st.integers(1, 2000),
    accumulation=st.integers(1, 8),
    samples=st.integers(1, 10**6),
    more=st.integers(1, 10**5),
    every=st.integers(1, 10**5),
)
def test_a_longer_horizon_never_costs_less(size: int, accumulation: int, samples: int, more: int, every: int) -> None:
    accumulation = min(accumulation, size)
    short = COST.predict(config(size, accumulation, samples, every))
    long = COST.predict(config(size, accumulation, samples + more, every))
    assert 0 < short.seconds <= long.seconds and 0 < short.flops <= long.flops


def test_only_a_precision_slower_at_every_size_is_slower() -> None:
    assert COST.slower_precisions() == {}
    slow = replace(COST, micro={**COST.micro, "bf16": ((64, 0.032), (128, 0.048))})
    assert slow.slower_precisions() == {"bf16": pytest.approx(1.5)}
    mixed = replace(COST, micro={**COST.micro, "bf16": ((64, 0.032), (128, 0.012))})
    assert mixed.slower_precisions() == {}
    apart = replace(COST, micro={**COST.micro, "bf16": ((512, 9.0),)})
    assert apart.slower_precisions() == {}


def test_measured_rows_are_sorted_and_those_out_of_memory_left_out() -> None:
    measured = {
        "micro": [
            {"dtype": "bf16", "micro": 128, "seconds": 0.2},
            {"dtype": "bf16", "micro": 64, "seconds": 0.1},
            {"dtype": "fp32", "micro": 256, "oom": True},
            {"dtype": "fp32", "micro": 64, "seconds": 0.3},
        ],
        "optimizer": {"sgd": 0.1},
        "evaluation": {"fp32": 0.2},
    }
    cost = StepCost.from_probe(measured, 5.0, 7.0)
    assert cost.micro == {"bf16": ((64, 0.1), (128, 0.2)), "fp32": ((64, 0.3),)}
    assert (cost.flops_per_sample, cost.evaluation_flops, cost.optimizer) == (5.0, 7.0, {"sgd": 0.1})


def test_the_cost_depends_on_what_it_says_it_reads() -> None:
    """Pricing remembers predictions by these paths: another path that changed the cost would be priced wrongly."""
    space = load_space("minimal").in_samples(1000)
    encoding, rng = Encoding(space, "horizon.samples"), np.random.default_rng(0)
    base = keras_recipe(1000)
    points = encoding.params(encoding.anywhere(rng, 60))
    for point in points:
        point["batch.accumulation"] = 1
        read = {path: point[path] for path in READS if path in point}
        whole, some = (COST.predict(with_params(base, values)).seconds for values in (point, read))
        assert whole == some
    costs = {COST.predict(with_params(base, p)).seconds for p in points}
    assert len(costs) > 40
