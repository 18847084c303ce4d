"""The horizon tables as search problems: a training is replayed from the fitted surrogate, with a seed's noise.

Reads the Parquet files only; needs neither torch nor data. Deterministic in (params, horizon, seed). Must not know how
the tables were made, nor any method.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import final

import numpy as np

from benchmarks.search.horizon.features import FRACTIONS, step_count, unscaled
from benchmarks.search.horizon.records import read
from benchmarks.search.horizon.setups import CONDITIONS, EVALUATIONS, SETUPS, Setup, looks
from benchmarks.search.horizon.surrogate import Surrogate, load
from benchmarks.search.problem import Description, Params, Point, Problem


def horizon_problems() -> list[Problem]:
    """The problems whose tables are there."""
    there = [setup for setup in SETUPS.values() if setup.table.is_file() and setup.surrogate.is_file()]
    return [HorizonTable(setup, load(setup.surrogate), read(setup).target()) for setup in there]


@final
class HorizonTable(Problem):
    """One table, replayed."""

    def __init__(self, setup: Setup, surrogate: Surrogate, target: float) -> None:
        self._setup, self._surrogate = setup, surrogate
        self.description = Description(
            name=setup.name,
            family="table",
            space=setup.space,
            conditions=CONDITIONS,
            horizon_low=setup.horizon_low,
            horizon_high=setup.horizon_high,
            full_horizon=setup.full_horizon,
            default=setup.default,
            target=target,
            direction=setup.direction,
            floor=0.5 / setup.n_val if setup.direction == "max" else 1e-3,
            full_s=self._seconds(setup.default, step_count(setup.default, setup.full_horizon), EVALUATIONS),
        )

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        horizon = int(horizon)
        steps = step_count(params, horizon)
        stops = looks(steps)
        rng = np.random.default_rng(self._entropy(params, horizon, seed))
        curve = self._surrogate.draw(params, horizon, rng)
        fractions = np.array(stops) / steps
        values = unscaled(self._setup, np.interp(fractions, FRACTIONS, curve))
        for done, (step, value) in enumerate(zip(stops, values, strict=True), 1):
            yield Point(horizon * step / steps, self._seconds(params, step, done), float(value))
            if not math.isfinite(value):
                return

    def seconds_per_sample(self, params: Params) -> float:
        return self._surrogate.seconds_per_sample(params)

    def _seconds(self, params: Params, steps: int, evaluations: int) -> float:
        training_s = steps * int(params["batch"]) * self._surrogate.seconds_per_sample(params)
        return training_s + evaluations * self._surrogate.look_seconds(params)

    def _entropy(self, params: Params, horizon: int, seed: int) -> int:
        """Of everything that has an effect, so that a knob without one changes nothing."""
        active = [
            (name, str(params[name]) if isinstance(params[name], str) else float(params[name]))
            for name in self._setup.space
            if name not in CONDITIONS or params[CONDITIONS[name][0]] == CONDITIONS[name][1]
        ]
        text = repr((active, horizon, int(seed)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
