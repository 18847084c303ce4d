"""Effects of settings on a step: how they enter a price, and over how much of the horizon."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoaccel.config import TrainerConfig, to_params, with_params
from autoaccel.cost.effects import KINDS, OFF, Effect, key_of, kind_of
from autoaccel.cost.step_cost import READS, StepCost
from autoaccel.space.files import folder, load_space
from autoaccel.trainer.techniques.curriculum import batch_size

BASE = with_params(TrainerConfig(), {"batch.size": 64, "horizon.samples": 6400, "evaluate.every_samples": 10**9})
COST = StepCost({"fp32": ((32, 0.05), (64, 0.1))}, {"adamw": 0.01}, {"fp32": 1.0}, 10.0, 0.0)
UPDATE_S = 0.01


def effect(path: str, value: Any, changed: float, small: float | None = None, **more: Any) -> Effect:
    """Of steps of 0.06 s (32 samples) and 0.11 s (64) without it, which take so many seconds with it."""
    small = changed * 0.06 / 0.11 if small is None else small
    known = {"error": (0.01, 0.01), "update_s": UPDATE_S, **more}
    return Effect(path, value, (32, 64), (0.06 / 32, 0.11 / 64), (small / 32, changed / 64), **known)


def priced(*effects: Effect) -> StepCost:
    return COST.with_effects({key_of(e.path, e.value): e for e in effects})


def step_s(params: dict[str, Any], *effects: Effect) -> float:
    return priced(*effects).predict(with_params(BASE, params)).step_s


def test_what_multiplies_is_a_share_of_forward_and_backward_and_what_adds_is_seconds() -> None:
    """Half of forward and backward is not half of the step: the update stays."""
    assert step_s({}) == pytest.approx(0.11)
    faster, flips = effect("memory.format", "channels_last", 0.06, 0.035), effect("augment.flip", "random", 0.13, 0.07)
    assert step_s({"memory.format": "channels_last"}, faster, flips) == pytest.approx(0.05 + 0.01)
    assert step_s({"augment.flip": "random"}, faster, flips) == pytest.approx(0.1 + 0.01 + 0.02)
    both = {"memory.format": "channels_last", "augment.flip": "random"}
    assert step_s(both, faster, flips) == pytest.approx(0.05 + 0.01 + 0.02)


def test_a_difference_within_the_spread_is_none() -> None:
    params = {"augment.flip": "random"}
    assert step_s(params, effect("augment.flip", "random", 0.115, error=(0.05, 0.05))) == pytest.approx(0.11)
    assert step_s(params, effect("augment.flip", "random", 0.115, error=(0.01, 0.01))) > 0.11


def test_what_adds_follows_a_line_and_is_in_proportion_beyond_what_was_measured() -> None:
    found = effect("augment.policy", "trivial", 0.11 + 0.03, 0.06 + 0.02)
    assert [found.extra_s(n) for n in (32, 48, 64, 128)] == pytest.approx([0.02, 0.025, 0.03, 0.05])
    steep = effect("augment.policy", "trivial", 0.11 + 0.03, 0.06 + 0.01)  # its line would be negative below 16
    assert [steep.extra_s(n) for n in (8, 32, 64, 128)] == pytest.approx([0.00375, 0.015, 0.03, 0.06])
    falling = effect("augment.policy", "trivial", 0.11 + 0.01, 0.06 + 0.02)
    assert [falling.extra_s(n) for n in (8, 64, 640)] == pytest.approx([0.015, 0.015, 0.015])


@given(small=st.floats(0.3, 3.0), large=st.floats(0.3, 3.0), size=st.integers(1, 4096))
def test_an_added_effect_never_turns_over(small: float, large: float, size: int) -> None:
    found = effect("augment.policy", "trivial", 0.11 * large, 0.06 * small)
    assert found.extra_s(size) * found.extra_s(64) >= 0


def test_a_ratio_is_on_the_line_between_two_sizes_and_as_at_the_nearest_beyond_them() -> None:
    found = effect("memory.format", "channels_last", 0.01 + 0.1 * 0.5, 0.01 + 0.05 * 0.8)
    assert [found.ratio(n) for n in (1, 32, 48, 64, 999)] == pytest.approx([0.8, 0.8, 0.65, 0.5, 0.5])


def test_a_micro_batch_has_the_effect_of_its_size() -> None:
    found = effect("memory.checkpointing", "full", 0.01 + 0.1 * 1.2, 0.01 + 0.05 * 1.6)
    split = {"memory.checkpointing": "full", "batch.accumulation": 2}
    assert step_s(split, found) == pytest.approx(2 * 0.05 * 1.6 + 0.01)


def test_what_was_not_measured_is_believed_to_cost_what_the_literature_says() -> None:
    assert step_s({"optim.sam_rho": 0.1}) == pytest.approx(2 * 0.1 + 0.01)
    assert step_s({"augment.policy": "rand"}) == pytest.approx(0.11)
    known = priced(effect("optim.sam_rho", 0.05, 0.2)).predict(with_params(BASE, {"optim.sam_rho": 0.1}))
    unknown = COST.predict(with_params(BASE, {"optim.sam_rho": 0.1}))
    assert COST.predict(BASE).error < known.error < unknown.error, "what is believed is less certain"
    assert unknown.flops == 2 * COST.predict(BASE).flops


def test_sharpness_every_other_step_costs_half_and_its_radius_nothing() -> None:
    found = effect("optim.sam_rho", 0.05, 0.01 + 0.1 * 2.2, flops_ratio=2.0)
    for rho in (0.05, 0.5):
        params = {"optim.sam_rho": rho, "optim.sam_every": 2}
        assert step_s(params, found) == pytest.approx(0.1 * 1.6 + 0.01)
        assert priced(found).predict(with_params(BASE, params)).flops == pytest.approx(6400 * 10.0 * 1.5)


def test_a_training_pays_once_for_what_its_first_step_takes() -> None:
    cost = priced(effect("compile.mode", "default", 0.11, setup_s=30.0))
    plain, paid = (cost.predict(with_params(BASE, p)) for p in ({}, {"compile.mode": "default"}))
    assert paid.seconds == pytest.approx(plain.seconds + 30.0)
    assert paid.step_s == pytest.approx(plain.step_s)


def test_what_computes_faster_evaluates_faster_and_what_trains_otherwise_does_not() -> None:
    cost = priced(effect("memory.format", "channels_last", 0.06, 0.035), effect("optim.sam_rho", 0.05, 0.21))
    steps = 100
    for params, evaluation_s in (({"memory.format": "channels_last"}, 0.5), ({"optim.sam_rho": 0.05}, 1.0)):
        found = cost.predict(with_params(BASE, params))
        assert found.seconds - steps * found.step_s == pytest.approx(evaluation_s)


def test_sizes_that_grow_until_a_share_of_the_horizon_save_so_much_of_it() -> None:
    """Measured as they grow over all of it."""
    same = effect("curriculum.resolution", 0.5, 0.01 + 0.1 * 0.6, 0.01 + 0.05 * 0.6, flops_ratio=0.5)
    larger = replace(same, changed_s=tuple(0.9 * s for s in same.changed_s))
    cost = COST.with_effects(
        {key_of("curriculum.resolution", 0.5): same, key_of("curriculum.resolution", 0.5, larger=True): larger}
    )
    params = {"curriculum.resolution": 0.5, "curriculum.until": 0.5}
    found = cost.predict(with_params(BASE, params))
    assert found.step_s == pytest.approx(0.1 * 0.8 + 0.01)
    assert found.flops == pytest.approx(6400 * 10.0 * 0.75)
    assert cost.predict(with_params(BASE, {**params, "curriculum.batch": "larger"})).step_s < found.step_s


def test_choosing_costs_as_many_looks_as_it_takes_in_a_part_of_the_horizon() -> None:
    kind = kind_of("data.sampling", "selective")
    assert kind.multiplies and not kind_of("data.sampling", "importance").multiplies
    assert kind.share({"data.keep": 0.5, "data.keep_from": 0.0, "data.keep_until": 1.0}) == 1
    assert kind.share({"data.keep": 0.25, "data.keep_from": 0.5, "data.keep_until": 0.9}) == pytest.approx(0.4 * 2)


@pytest.mark.parametrize("ramp", [0.25, 0.5, 1.0])
def test_a_ramp_of_the_batch_takes_more_steps_of_fewer_samples(ramp: float) -> None:
    config = with_params(BASE, {"batch.ramp": ramp, "batch.accumulation": 2})
    params = {path: value for path, value in to_params(config).items() if path in READS}
    seconds, done, total = 0.0, 0, 6400
    while done < total:
        size = batch_size(done / total, ramp, 64)
        seconds += COST.step_seconds(params, size)
        done += size
    assert COST.predict(config).seconds == pytest.approx(seconds + 1.0, rel=0.02)


def test_every_setting_has_a_default_that_is_free_and_everything_off_is_a_config() -> None:
    default = to_params(TrainerConfig())
    assert all(kind.free[0] == default[path] for path, kind in KINDS.items())
    assert with_params(TrainerConfig(), OFF) == TrainerConfig()
    assert COST.predict(BASE).flops == 6400 * 10.0


def test_every_choice_of_the_spaces_that_can_change_a_step_is_measured() -> None:
    """What is left changes nothing but numbers that a step computes with."""
    free = {"schedule", "horizon", "evaluate"}
    apart = {"batch.size", "batch.accumulation", "batch.ramp", "precision.dtype", "regularize.label_smoothing"}
    apart |= {"optim.name", "optim.kernel", "optim.state", "optim.lr", "optim.weight_decay", "optim.momentum"}
    apart |= {"optim.beta2", "optim.lr_scaling", "optim.sam_every", "average.half_life", "average.window"}
    apart |= {"average.every", "data.prune", "data.prune_until", "data.order_until", "augment.level"}
    apart |= {"model.drop_path_ramp", "curriculum.until", "curriculum.batch", "loader.prefetch", "loader.pin"}
    apart |= {"data.keep", "data.keep_from", "data.keep_until", "parallel.n_processes"}
    paths = {path for file in folder().glob("*.toml") for path in load_space(file.stem).paths}
    assert {p for p in paths if p.partition(".")[0] not in free} - apart == KINDS.keys()


def test_the_interval_of_a_prediction_is_as_wide_as_what_is_not_known() -> None:
    found = COST.predict(BASE)
    low, high = found.interval
    assert low < found.seconds < high and math.isclose(low * high, found.seconds**2)
