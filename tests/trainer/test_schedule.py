"""The learning rate as a function of progress: its shape holds for any number of steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autoaccel.config import TrainerConfig
from autoaccel.sections import Schedule
from autoaccel.trainer.schedule import lr_factor, momentum

ENDING = ["linear", "cosine", "rex", "wsd", "one_cycle"]
names = st.sampled_from([*ENDING, "constant"])
warmups = st.floats(0, 0.9)
lengths = st.integers(1, 400)


def course(name: str, warmup: float, n_steps: int, cooldown: float | None = None) -> list[float]:
    """Factors of all steps; without a cooldown wsd falls over all that is left after the warm-up."""
    schedule = Schedule(name=name, warmup=warmup, cooldown=cooldown or 1 - warmup)  # type: ignore[arg-type]
    return [lr_factor(schedule, step / n_steps, 1 / n_steps) for step in range(n_steps)]


@given(names, warmups, lengths)
def test_a_factor_is_a_share_of_the_peak_and_the_first_step_moves(name: str, warmup: float, n_steps: int) -> None:
    factors = course(name, warmup, n_steps)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0
    assert max(factors) == 1


@given(names, warmups, lengths)
def test_the_rate_rises_to_its_peak_and_never_rises_again(name: str, warmup: float, n_steps: int) -> None:
    factors = course(name, warmup, n_steps)
    peak = factors.index(1.0)
    assert all(a < b for a, b in pairwise(factors[: peak + 1]))
    assert all(a >= b for a, b in pairwise(factors[peak:]))
    assert peak <= warmup * n_steps


@given(warmups, lengths)
def test_a_constant_rate_stays_at_its_peak_after_the_warmup(warmup: float, n_steps: int) -> None:
    factors = course("constant", warmup, n_steps)
    assert set(factors[factors.index(1.0) :]) == {1.0}


@given(st.sampled_from(ENDING), warmups, st.integers(10, 400))
def test_decay_ends_within_a_step_of_zero(name: str, warmup: float, n_steps: int) -> None:
    decaying = (1 - warmup) * n_steps
    assume(decaying >= 2)  # with fewer steps a cosine has not begun to fall
    slope = 2 if name == "rex" else 1  # of the end
    assert course(name, warmup, n_steps)[-1] <= slope / decaying + 1e-9


@given(st.floats(0, 0.9), st.floats(0.01, 1), lengths)
def test_wsd_is_stable_between_warmup_and_cooldown(warmup: float, cooldown: float, n_steps: int) -> None:
    assume(warmup + cooldown <= 1)
    factors = course("wsd", warmup, n_steps, cooldown)
    assert max(factors) == 1
    for step, factor in enumerate(factors):
        if warmup * n_steps <= step <= (1 - cooldown) * n_steps - 1e-6:
            assert factor == 1
        elif step > (1 - cooldown) * n_steps:
            assert factor == pytest.approx((1 - step / n_steps) / cooldown)


@given(st.sampled_from(["linear", "cosine", "rex", "constant"]), warmups, lengths)
def test_only_one_cycle_moves_the_momentum(name: str, warmup: float, n_steps: int) -> None:
    config = TrainerConfig(schedule=Schedule(name=name, warmup=warmup))  # type: ignore[arg-type]
    assert {momentum(config, factor) for factor in course(name, warmup, n_steps)} == {0.9}


@given(warmups, lengths)
def test_one_cycle_moves_the_momentum_against_the_rate(warmup: float, n_steps: int) -> None:
    config, factors = TrainerConfig(schedule=Schedule(name="one_cycle")), course("one_cycle", warmup, n_steps)
    values = [momentum(config, factor) for factor in factors]
    assert all(0.9 * 0.9 - 1e-9 <= value <= 0.9 for value in values)
    assert values.index(min(values)) == factors.index(1.0)
    assert sorted(values, reverse=True) == [momentum(config, factor) for factor in sorted(factors)]


def test_no_two_schedules_are_the_same() -> None:
    courses = {name: tuple(course(name, 0.3, 20, 0.4)) for name in (*ENDING, "constant")}
    assert len(set(courses.values())) == len(courses)


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1.0, 0.8536, 0.5, 0.1464]),
        ("constant", 0.5, [0.5, 1.0, 1.0, 1.0]),
        ("rex", 0.0, [1.0, 0.8571, 0.6667, 0.4]),
        ("wsd", 0.5, [0.5, 1.0, 1.0, 0.5]),
        ("one_cycle", 0.5, [0.52, 1.0, 1.0, 0.5]),
    ],
)
def test_known_values(name: str, warmup: float, expected: list[float]) -> None:
    assert course(name, warmup, 4) == pytest.approx(expected, abs=1e-4)
