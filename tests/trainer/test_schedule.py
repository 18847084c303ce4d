"""The learning rate as a function of progress: its shape holds for any number of steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autoaccel.sections import Schedule
from autoaccel.trainer.schedule import lr_factor

names = st.sampled_from(["linear", "cosine", "constant"])
warmups = st.floats(0, 0.9)
lengths = st.integers(1, 400)


def course(name: str, warmup: float, n_steps: int) -> list[float]:
    schedule = Schedule(name=name, warmup=warmup)  # type: ignore[arg-type]
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


@given(st.sampled_from(["linear", "cosine"]), warmups, st.integers(10, 400))
def test_decay_ends_within_a_step_of_zero(name: str, warmup: float, n_steps: int) -> None:
    decaying = (1 - warmup) * n_steps
    assume(decaying >= 2)  # with fewer steps a cosine has not begun to fall
    assert course(name, warmup, n_steps)[-1] <= 1 / decaying + 1e-9


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1.0, 0.8536, 0.5, 0.1464]),
        ("constant", 0.5, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_known_values(name: str, warmup: float, expected: list[float]) -> None:
    assert course(name, warmup, 4) == pytest.approx(expected, abs=1e-4)
