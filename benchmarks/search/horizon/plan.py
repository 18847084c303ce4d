"""Which trainings are recorded: most spread over knobs and horizon, some near good ones, repeats, the default recipe.

A plan is deterministic; its later parts depend on the results of its first. Must not know how a training runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import qmc

from benchmarks.search.horizon.setups import Setup

DEFAULTS: Final = 16
"""Seeds of the default recipe at its full horizon."""
REPEATS: Final = 3
"""Further seeds of a point that is repeated."""
SPREAD, NEAR, REPEATED = "spread", "near", "repeated"
DEFAULT: Final = "default"


@dataclass(frozen=True)
class Job:
    """One training to record."""

    part: str
    index: int
    params: dict[str, Any]
    horizon: int
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """Its place in the plan."""
        return self.part, self.index


def first_part(setup: Setup, count: int) -> list[Job]:
    """The default recipe's seeds and the spread points: about three quarters of `count`."""
    defaults = [
        Job(DEFAULT, index, dict(setup.default), setup.full_horizon, 10_000 + index)
        for index in range(min(DEFAULTS, count))
    ]
    names = list(setup.space)
    points = qmc.Sobol(len(names) + 1, seed=20261121).random_base2(max(1, math.ceil(math.log2(max(2, count)))))
    spread = []
    for index in range(count * 3 // 4 - len(defaults)):
        params = {name: from_unit(setup.space[name], points[index, k]) for k, name in enumerate(names)}
        spread.append(Job(SPREAD, index, params, _horizon(setup, points[index, -1]), 20_000 + index))
    return defaults + spread


def second_part(setup: Setup, count: int, results: Sequence[tuple[Job, float]]) -> list[Job]:
    """Points near good ones, and repeats of points (half of them good) with other seeds: the rest of `count`."""
    spread = sorted((pair for pair in results if pair[0].part == SPREAD), key=lambda pair: pair[0].index)
    if not spread:
        return []
    rng = np.random.default_rng(20261121)
    good = _good(setup, spread)
    room = count - len(results)
    close = [near(setup, good[index % len(good)], index, rng) for index in range(room * 3 // 5)]
    jobs = [job for job, _ in spread]
    repeated: list[Job] = []
    while len(close) + len(repeated) < room:
        group = len(repeated) // REPEATS
        pool = good if group % 2 else jobs
        one = pool[int(rng.integers(len(pool)))]
        seeds = range(40_000 + len(repeated), 40_000 + len(repeated) + REPEATS)
        repeated += [Job(REPEATED, len(repeated) + k, one.params, one.horizon, seed) for k, seed in enumerate(seeds)]
    return close + repeated[: room - len(close)]


def _good(setup: Setup, spread: Sequence[tuple[Job, float]]) -> list[Job]:
    """The best sixth of each fifth of the horizons."""
    by_horizon = sorted(spread, key=lambda pair: pair[0].horizon)
    bins = np.array_split(np.arange(len(by_horizon)), min(5, len(by_horizon)))
    sign = -1.0 if setup.direction == "max" else 1.0
    good = []
    for rows in bins:
        ranked = sorted(
            (by_horizon[row] for row in rows if math.isfinite(by_horizon[row][1])), key=lambda p: sign * p[1]
        )
        good += [job for job, _ in ranked[: max(1, len(rows) // 6)]]
    return good


def near(setup: Setup, job: Job, index: int, rng: np.random.Generator) -> Job:
    """A point some way off another, in its knobs and its horizon."""
    params = {}
    for name, knob in setup.space.items():
        if isinstance(knob, CategoricalDistribution):
            params[name] = job.params[name] if rng.random() < 0.9 else from_unit(knob, rng.random())
        else:
            unit = to_unit(knob, job.params[name]) + rng.normal(0, 0.1)
            params[name] = from_unit(knob, min(max(unit, 0.0), 1.0))
    horizon = job.horizon * math.exp(rng.normal(0, 0.6))
    return Job(NEAR, index, params, int(min(max(horizon, setup.horizon_low), setup.horizon_high)), 30_000 + index)


def to_unit(knob: BaseDistribution, value: float) -> float:
    """Place of a numeric knob's value between its ends, on the knob's scale."""
    assert isinstance(knob, FloatDistribution | IntDistribution)
    if knob.log:
        return math.log(value / knob.low) / math.log(knob.high / knob.low)
    return (value - knob.low) / (knob.high - knob.low)


def from_unit(knob: BaseDistribution, unit: float) -> Any:
    """The value at a place in 0..1."""
    if isinstance(knob, CategoricalDistribution):
        return knob.choices[min(int(unit * len(knob.choices)), len(knob.choices) - 1)]
    assert isinstance(knob, FloatDistribution | IntDistribution)
    value = knob.low * (knob.high / knob.low) ** unit if knob.log else knob.low + unit * (knob.high - knob.low)
    if isinstance(knob, IntDistribution):
        return min(max(round(value), knob.low), knob.high)
    return min(max(float(value), knob.low), knob.high)


def _horizon(setup: Setup, unit: float) -> int:
    return round(setup.horizon_low * (setup.horizon_high / setup.horizon_low) ** unit)
