"""When compiling pays, on the public runs that state every term."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoaccel.cost.break_even import break_even_steps

seconds = st.floats(min_value=1e-4, max_value=1e4)


@pytest.mark.parametrize(
    ("eager_ms", "compiled_ms", "warmup_s", "pays"),
    [(293.0, 126.3, 263.0, False), (247.0, 107.9, 274.0, False), (573.7, 446.7, 140.0, True)],
)
def test_the_rule_is_right_on_runs_of_1900_steps(
    eager_ms: float, compiled_ms: float, warmup_s: float, pays: bool
) -> None:
    """ACT in fp32 and bf16, SmolVLA in fp32: the first was 85 s slower when compiled, the last 108 s faster."""
    assert (break_even_steps(eager_ms / 1e3, compiled_ms / 1e3, warmup_s) <= 1900) == pays


def test_by_hand() -> None:
    assert break_even_steps(2.0, 1.0, 10.0, margin=1.0) == 11
    assert break_even_steps(2.0, 1.0, 10.0) == 16
    assert break_even_steps(2.0, 1.0, 0.0) == 0
    assert break_even_steps(1.0, 1.0, 10.0) == math.inf
    assert break_even_steps(1.0, 2.0, 0.0) == math.inf


@given(seconds, seconds, seconds)
def test_it_is_the_first_number_of_steps_whose_gain_covers_the_margin(
    compiled_s: float, gain_s: float, warmup_s: float
) -> None:
    eager_s = compiled_s + gain_s
    n = break_even_steps(eager_s, compiled_s, warmup_s)
    assert n * (eager_s - compiled_s) > 1.5 * warmup_s * (1 - 1e-9)
    assert (n - 1) * (eager_s - compiled_s) <= 1.5 * warmup_s * (1 + 1e-9)
