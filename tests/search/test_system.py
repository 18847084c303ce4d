"""Which value of a setting that changes seconds alone is taken, from what was measured of it."""

from __future__ import annotations

from math import sqrt

import pytest

from autoaccel.cost.effects import Effect
from autoaccel.search.system import fastest
from autoaccel.space.files import load_space


@pytest.mark.parametrize(
    ("ratios", "error", "expected"),
    [
        ((9.0, 0.8, 0.8), 0.01, 0.8),  # the smallest size is for prices, and decides nothing
        ((1.0, 0.86, 0.79), 0.06, sqrt(0.86 * 0.79)),  # one of them alone could be chance, both cannot
        ((1.0, 0.98, 0.92), 0.01, sqrt(0.98 * 0.92)),
        ((1.0, 0.98, 0.97), 0.05, 1.0),
        ((1.0, 1.2, 0.6), 0.01, 1.2),
        ((1.0, 1.02, 0.6), 0.05, sqrt(1.02 * 0.6)),  # a loss that could be chance
        ((1.0, 1.1, 1.3), 0.01, 1.3),
    ],
)
def test_a_value_wins_by_what_it_saves_beyond_chance_on_steps_of_a_trainings_size(
    ratios: tuple[float, ...], error: float, expected: float
) -> None:
    effect = Effect(
        path="system.threads",
        value=2,
        sizes=(8, 32, 128),
        plain_s=(1e-4,) * 3,
        changed_s=tuple(1e-4 * r for r in ratios),
        error=(error,) * 3,
    )
    best = fastest(load_space("minimal"), "system.threads", {("system.threads", 2): effect})
    assert best == (2, pytest.approx(expected))
    assert fastest(load_space("minimal"), "memory.format", {("system.threads", 2): effect}) is None
