"""Predicted peaks: lines through measured sizes, what fits with its margin, and what failures teach."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.config import TrainerConfig, with_params
from autoaccel.cost.memory import BEYOND, BLIND_MARGIN, MARGIN, SHARED, Line, PeakMemory, settings_of
from autoaccel.cost.step_cost import StepCost

PLAIN = ("fp32", "none")
MEMORY = PeakMemory(
    lines={PLAIN: Line(1000.0, 10.0, 100), ("bf16", "none"): Line(1000.0, 6.0, 100)},
    trainable_bytes=100.0,
    copies=2,
    evaluation_bytes=200.0,
    evaluation_samples=256,
    pieces_bytes=500.0,
    limit=4000.0,
)


def config(size: int = 64, accumulation: int = 1, **params: Any) -> dict[str, Any]:
    """Settings of a config, as memory reads them."""
    return settings_of(changed(size, accumulation, **params))


def changed(size: int = 64, accumulation: int = 1, **params: Any) -> TrainerConfig:
    given = {path.replace("__", "."): value for path, value in params.items()}
    return with_params(TrainerConfig(), {"batch.size": size, "batch.accumulation": accumulation, **given})


# -------------------------------------------------------------------------------------------------------------- peaks


def test_a_line_lies_above_all_sizes_and_is_as_steep_as_the_largest_two() -> None:
    line = Line.above({4: 100.0, 16: 100.0, 64: 148.0})  # what is fixed hides the samples of the small ones
    assert (line.bytes_per_sample, line.fixed_bytes, line.largest) == (1.0, 96.0, 64)
    falling = Line.above({4: 120.0, 16: 100.0})
    assert (falling.bytes_per_sample, falling.fixed_bytes) == (0.0, 120.0)


def test_a_peak_is_what_is_fixed_and_a_micro_batch_and_pieces_that_lie_free() -> None:
    assert MEMORY.peak_bytes(config(64)) == 1000 + 640 + 500
    assert MEMORY.peak_bytes(config(128, accumulation=2)) == 1000 + 640 + 500
    assert MEMORY.peak_bytes(config(65, accumulation=2)) == 1000 + 330 + 500, "the larger of two pieces"
    assert MEMORY.peak_bytes(config(8)) == 1000 + 200 + 500, "an evaluation is larger"


def test_each_of_several_processes_takes_its_part_and_where_memory_is_shared_all_of_them_count() -> None:
    ddp, fsdp2, tensor = (
        config(64, parallel__strategy=name, parallel__n_processes=4) for name in ("ddp", "fsdp2", "tensor")
    )
    assert MEMORY.peak_bytes(ddp) == 1000 + 100 + (640 + 500) / 4, "gradients twice"
    assert MEMORY.peak_bytes(fsdp2) == (1000 + 640 + 500) / 4
    assert MEMORY.peak_bytes(tensor) == MEMORY.peak_bytes(config(64)), "how much of it is cut is not known"
    assert replace(MEMORY, is_shared=True).peak_bytes(fsdp2) == MEMORY.peak_bytes(config(64))
    small = replace(MEMORY, limit=1000.0)
    assert small.fits(fsdp2) and not small.fits(config(64))


def test_an_evaluation_in_smaller_batches_takes_less() -> None:
    assert MEMORY.peak_bytes(config(8, evaluate__batch=128)) == 1000 + 100 + 250
    assert MEMORY.peak_bytes(config(8, evaluate__batch=1024)) == 1000 + 200 + 500, "no more than was measured"
    assert MEMORY.upper(config(1024), 8) == pytest.approx(1.1 * (1000 + 80 + 500 / 32)), "with a split it is split too"


@pytest.mark.parametrize(
    ("params", "copies"),
    [
        ({"optim__name": "adamw"}, 0),
        ({"optim__name": "sgd"}, -1),
        ({"average__name": "ema"}, 3),
        ({"optim__sam_rho": 0.05}, 2),
        ({"optim__name": "sgd", "average__name": "lawa", "optim__sam_rho": 0.05}, 9),
    ],
)
def test_optimizers_averages_and_sharpness_keep_copies_of_the_weights(params: dict[str, Any], copies: int) -> None:
    assert MEMORY.peak_bytes(config(64, **params)) == 2140 + 100 * copies


def test_a_precision_has_its_own_line_and_what_was_not_measured_counts_as_what_takes_no_less() -> None:
    assert MEMORY.peak_bytes(config(64, precision__dtype="bf16")) == 1000 + 384 + 500
    recomputed = config(64, precision__dtype="bf16", memory__checkpointing="full")
    assert MEMORY.peak_bytes(recomputed) == MEMORY.peak_bytes(config(64, precision__dtype="bf16"))
    assert MEMORY.peak_bytes(config(64, precision__dtype="fp16")) == MEMORY.peak_bytes(config(64))
    half = replace(MEMORY, lines={("bf16", "none"): Line(0.0, 6.0, 100), ("fp16", "none"): Line(0.0, 5.0, 100)})
    assert half.peak_bytes(config(64)) == 384 + 500


# --------------------------------------------------------------------------------------------------------- what fits


def test_a_training_fits_with_its_margin() -> None:
    largest = math.floor((4000 / (1 + MARGIN) - 1000) / 10)
    near = replace(MEMORY, lines={PLAIN: Line(1000.0, 10.0, 10_000)}, pieces_bytes=0.0)
    assert near.fits(config(largest)) and not near.fits(config(largest + 1))
    assert near.largest_micro(config(500)) == largest > 200
    assert MEMORY.largest_micro(config(500)) < largest, "beyond what was measured the margin is larger"
    assert MEMORY.upper(config(200)) == pytest.approx(1.1 * 3500 + BEYOND * 10 * 100)


def test_the_whole_batch_is_the_largest_micro_batch_there_is() -> None:
    assert MEMORY.largest_micro(config(48)) == 48
    assert replace(MEMORY, limit=1000.0).largest_micro(config(48)) == 0


@settings(deadline=None, max_examples=200)
@given(
    fixed=st.floats(0, 1e10),
    each=st.floats(0, 1e8),
    limit=st.floats(1, 1e11),
    size=st.integers(1, 5000),
)
def test_the_largest_micro_batch_is_the_last_that_fits(fixed: float, each: float, limit: float, size: int) -> None:
    memory = PeakMemory(lines={PLAIN: Line(fixed, each, 64)}, evaluation_bytes=1e6, pieces_bytes=1e5, limit=limit)
    found = memory.largest_micro(config(size))
    assert not found or memory.fits(config(size), found)
    assert found == size or not memory.fits(config(size), found + 1)


# -------------------------------------------------------------------------------------------------- from what was seen


def probe(sizes: tuple[int, ...] = (4, 16, 64), dtype: str = "fp32", **changes: Any) -> dict[str, Any]:
    steps = [{"dtype": dtype, "checkpointing": "none", "micro": n, "bytes": 1000.0 + 10 * n} for n in sizes]
    return {
        "steps": steps,
        "evaluation_bytes": 200.0,
        "evaluation_samples": 256,
        "pieces_bytes": 500.0,
        "trainable_bytes": 100.0,
        "free_bytes": 4000.0,
        "refuses": True,
        "reason": "",
        **changes,
    }


def test_a_probe_becomes_lines_and_a_limit() -> None:
    memory = PeakMemory.from_probe(probe(), config(64), 1024, 1)
    assert memory.lines == {PLAIN: Line(1000.0, 10.0, 64)}
    assert (memory.limit, memory.copies, memory.reason) == (4000.0, 2, "")


def test_memory_that_others_need_is_not_taken_to_the_last() -> None:
    assert PeakMemory.from_probe(probe(refuses=False), config(64), 1024, 1).limit == SHARED * 4000


def test_trainings_at_once_share_what_their_processes_leave() -> None:
    assert PeakMemory.from_probe(probe(free_bytes=9000.0), config(64), 1024, 2).limit == 9000 / 2


def test_what_has_run_fits_whatever_is_predicted() -> None:
    memory = PeakMemory.from_probe(probe(free_bytes=100.0), config(64), 1024, 1)
    assert memory.fits(config(64)) and not memory.fits(config(65))


def test_where_everything_fits_there_is_no_limit() -> None:
    memory = PeakMemory.from_probe(probe(free_bytes=1e6), config(64), 1024, 1)
    assert math.isinf(memory.limit) and memory.peak_bytes(config(64)) == 2140
    assert not math.isinf(PeakMemory.from_probe(probe(free_bytes=1e6), config(64), 100_000, 1).limit)


def test_a_size_that_failed_is_a_bound() -> None:
    rows = [*probe()["steps"], {"dtype": "fp32", "checkpointing": "none", "micro": 100, "oom": True}]
    memory = PeakMemory.from_probe(probe(steps=rows), config(64), 1024, 1)
    assert memory.limit == 1000 + 1000 + 500
    assert not memory.fits(config(100)) and memory.fits(config(64))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (probe((4,)), "two sizes do not fit into its share of the budget"),
        (probe(dtype="bf16"), "two sizes do not fit into its share of the budget"),
        ({"steps": [], "reason": "a tpu device does not tell"}, "a tpu device does not tell"),
    ],
)
def test_what_was_not_measured_is_not_known_and_everything_fits(given: dict[str, Any], reason: str) -> None:
    memory = PeakMemory.from_probe(given, config(64), 1024, 1)
    assert memory.reason == reason and memory.peak_bytes(config(64)) is None
    assert memory.fits(config(10**6))


# ------------------------------------------------------------------------------------------------------ after failures


def test_what_ran_out_of_memory_and_all_that_is_as_large_fits_no_more() -> None:
    memory = MEMORY.after([config(96), config(80)], [config(16)])
    assert memory.limit == 1000 + 800 + 500
    assert not memory.fits(config(80)) and not memory.fits(config(160, accumulation=2))
    assert memory.fits(config(160, accumulation=4))


def test_what_went_through_goes_on_to_fit() -> None:
    memory = MEMORY.after([config(80)], [config(79)])
    assert memory.fits(config(79)) and not memory.fits(config(80))


def test_a_failure_below_what_went_through_was_no_matter_of_size() -> None:
    assert MEMORY.after([config(32)], [config(64)]) == MEMORY
    assert MEMORY.after([config(32), config(96)], [config(64)]).limit == 1000 + 960 + 500
    assert MEMORY.after([], [config(64)]) == MEMORY


def test_failures_are_a_bound_also_where_nothing_was_measured() -> None:
    memory = PeakMemory().after([config(64)], [])
    assert (
        memory.largest_micro(config(512)) == math.floor(64 / (1 + BLIND_MARGIN)) and memory.peak_bytes(config()) is None
    )
    assert memory.fits(config(96, accumulation=2)) and not memory.fits(config(96))


# ---------------------------------------------------------------------------------------------------------------- knee

FREE = replace(MEMORY, limit=math.inf, evaluation_bytes=0.0, pieces_bytes=0.0)
COST = StepCost(
    micro={"fp32": ((16, 0.010), (64, 0.020), (128, 0.0398), (256, 0.0800))},
    optimizer={"adamw": 0.0},
    evaluation={},
    flops_per_sample=1.0,
    evaluation_flops=1.0,
    memory=FREE,
)


def test_the_knee_is_the_smallest_size_that_is_as_fast_as_any_that_fits() -> None:
    assert COST.knee(config(1024)) == 64
    slow_update = replace(COST, optimizer={"adamw": 0.010})
    assert slow_update.knee(config(1024)) == 256, "an update is paid for by every step"
    small = replace(COST, memory=replace(FREE, limit=FREE.upper(config(63))))
    assert small.knee(config(1024)) == 16
    tiny = replace(COST, memory=replace(FREE, limit=FREE.upper(config(9))))
    assert tiny.knee(config(1024)) == 9, "none of the measured ones fits"


def test_a_training_that_does_not_fit_is_split_at_the_knee() -> None:
    small = replace(COST, memory=replace(FREE, limit=FREE.upper(config(70))))
    assert small.split(config(70), is_pinned=False) == {}
    assert small.split(config(1000), is_pinned=False) == {"batch.accumulation": 16, "evaluate.batch": 64}
    assert small.split(config(1000, accumulation=8), is_pinned=False)["batch.accumulation"] == 16
    assert small.split(config(1000, accumulation=8, evaluate__batch=9), is_pinned=True) == {
        "batch.accumulation": 8,
        "evaluate.batch": 9,
    }
    none = replace(COST, memory=replace(FREE, limit=1.0))
    assert none.split(config(1000), is_pinned=False) == {}, "nothing helps"


def test_a_prediction_names_the_peak() -> None:
    assert COST.predict(changed(64)).peak_bytes == 1640
    assert replace(COST, memory=PeakMemory()).predict(changed(64)).peak_bytes is None
