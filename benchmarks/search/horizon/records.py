"""Reads the recorded trainings of a table into arrays. Must not know what is fitted to them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyarrow import parquet

from benchmarks.search.horizon.features import FRACTIONS, Array, encode, scaled, step_count
from benchmarks.search.horizon.setups import Setup
from benchmarks.search.problems.data import Absent


@dataclass(frozen=True)
class Records:
    """The trainings of one table."""

    setup: Setup
    part: list[str]
    params: list[dict[str, Any]]
    horizon: list[int]
    seed: list[int]
    diverged: list[bool]
    samples: list[Array]
    train_s: list[Array]
    evaluation_s: list[Array]
    metric: list[Array]

    def __len__(self) -> int:
        return len(self.part)

    def steps_done(self, row: int) -> int:
        """Optimizer steps of a training, up to its horizon or its divergence."""
        horizon = self.horizon[row]
        return round(step_count(self.params[row], horizon) * self.samples[row][-1] / horizon)

    def inputs(self) -> Array:
        """A row per training: what a surrogate sees."""
        return np.array([encode(params, horizon) for params, horizon in zip(self.params, self.horizon, strict=True)])

    def curves(self) -> Array:
        """A row per training: the metric on the surrogate's scale at the fixed fractions; NaN where it had diverged."""
        rows = []
        for horizon, samples, metric in zip(self.horizon, self.samples, self.metric, strict=True):
            row = np.interp(FRACTIONS, samples / horizon, scaled(self.setup, metric))
            rows.append(np.where(samples[-1] / horizon + 1e-6 < FRACTIONS, np.nan, row))
        return np.array(rows)

    def groups(self) -> Array:
        """A number per configuration, horizon left out: what is held out is held out with all of its repeats."""
        known: dict[str, int] = {}
        return np.array([known.setdefault(repr(sorted(params.items())), len(known)) for params in self.params])

    def repeats(self) -> list[list[int]]:
        """Rows of the same configuration and horizon, where there are several."""
        found: dict[str, list[int]] = {}
        for row, (params, horizon) in enumerate(zip(self.params, self.horizon, strict=True)):
            found.setdefault(repr((sorted(params.items()), horizon)), []).append(row)
        return [rows for rows in found.values() if len(rows) > 1]

    def default_finals(self) -> Array:
        """Final metric of the default recipe, seed by seed."""
        return np.array([metric[-1] for part, metric in zip(self.part, self.metric, strict=True) if part == "default"])

    def target(self) -> float:
        """What nine in ten of the default trainings end at or better, eased to four digits."""
        if self.setup.direction == "max":
            return math.floor(float(np.quantile(self.default_finals(), 0.1)) * 1e4) / 1e4
        return math.ceil(float(np.quantile(self.default_finals(), 0.9)) * 1e4) / 1e4


def read(setup: Setup) -> Records:
    """The trainings of a problem.

    Raises:
        Absent: there is no table.
    """
    columns = _columns(setup)
    knobs = [
        dict(zip(setup.space, values, strict=True)) for values in zip(*(columns[k] for k in setup.space), strict=True)
    ]
    lists = {name: [np.array(row, dtype=np.float64) for row in columns[name]] for name in LISTS}
    return Records(
        setup=setup,
        params=knobs,
        part=columns["part"],
        horizon=columns["horizon"],
        seed=columns["seed"],
        diverged=columns["diverged"],
        **lists,
    )


LISTS = ("samples", "train_s", "evaluation_s", "metric")


def _columns(setup: Setup) -> dict[str, list[Any]]:
    if not setup.table.is_file():
        raise Absent(f"{setup.table.name} is not there; python -m benchmarks.search.make_tables makes it")
    columns: dict[str, list[Any]] = parquet.read_table(setup.table).to_pydict()
    return columns


def digest(setup: Setup) -> str:
    """Of the table's file, so that a fit can name the records that it was made from."""
    return hashlib.sha256(setup.table.read_bytes()).hexdigest()[:16]
