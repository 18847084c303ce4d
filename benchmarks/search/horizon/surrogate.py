"""A fitted surrogate: mean curves of a network ensemble, the risk of learning nothing, seed noise, and seconds.

Plain numbers and numpy only, so that a replay is the same everywhere; stored as Parquet. Must not know how it was
fitted, nor what a problem is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.search.horizon.features import FRACTIONS, Array, encode, look_work, step_count, work
from benchmarks.search.problem import Params

CLASSES = ("learns", "chance", "diverges")


@dataclass(frozen=True)
class Outlook:
    """What is to be expected of one training, on the surrogate's scale, at the fixed fractions of its horizon."""

    learns: Array
    chance: Array
    risk: Array
    """Probability of each of CLASSES."""
    deviation: Array
    """Between seeds, of a training that learns."""


@dataclass(frozen=True)
class Surrogate:
    """Arrays by name; the shapes are those of `fitting`."""

    arrays: Mapping[str, Array]
    digest: str
    """Of the records that it was fitted to."""

    def outlook(self, params: Params, horizon: int) -> Outlook:
        """The expectation for one training."""
        a = self.arrays
        inputs = (encode(params, horizon) - a["center"]) / a["spread"]
        hidden = np.tanh(inputs @ a["weight1"] + a["bias1"])
        hidden = np.tanh(np.einsum("mh,mhk->mk", hidden, a["weight2"]) + a["bias2"])
        out = np.einsum("mh,mhk->mk", hidden, a["weight3"]) + a["bias3"]
        count = len(FRACTIONS)
        logits = out[:, 2 * count :]
        risk = np.exp(logits - logits.max(axis=1, keepdims=True))
        risk = (risk / risk.sum(axis=1, keepdims=True)).mean(axis=0) * a["possible"]
        curves = out[:, : 2 * count].mean(axis=0) * a["out_spread"] + a["out_center"]
        learns = curves[:count]
        terms = noise_terms(params, horizon, learns)
        deviation = np.exp(np.clip(terms @ a["noise"], a["noise_range"][0], a["noise_range"][1]))
        return Outlook(learns, curves[count:], risk / risk.sum(), deviation)

    def draw(self, params: Params, horizon: int, rng: np.random.Generator) -> Array:
        """One seed's curve at the fixed fractions; NaN from some evaluation on when it diverges."""
        outlook = self.outlook(params, horizon)
        kind = int(np.searchsorted(np.cumsum(outlook.risk), rng.random(), side="right"))
        shock = self.arrays["mixing"] @ rng.standard_normal(len(FRACTIONS))
        if kind == 0:
            return outlook.learns + outlook.deviation * shock
        if kind == 1:
            return outlook.chance + self.arrays["chance_deviation"] * shock
        return np.where(np.arange(len(FRACTIONS)) < rng.integers(len(FRACTIONS)), outlook.chance, np.nan)

    def seconds_per_sample(self, params: Params) -> float:
        """CPU seconds of training on one sample."""
        return float(work(params) @ self.arrays["step_s"]) / float(params["batch"])

    def look_seconds(self, params: Params) -> float:
        """CPU seconds of one evaluation."""
        return float(look_work(params) @ self.arrays["look_s"])


def noise_terms(params: Params, horizon: int, mean: Array) -> Array:
    """What the deviation between seeds depends on, at each fraction: level, learning rate left, length."""
    left = np.array([_left(str(params["schedule"]), float(params["warmup"]), fraction) for fraction in FRACTIONS])
    steps = np.full(len(FRACTIONS), np.log10(step_count(params, horizon)))
    return np.stack([np.ones(len(FRACTIONS)), mean, left, steps], axis=1)


def _left(schedule: str, warmup: float, fraction: float) -> float:
    if fraction < warmup:
        return fraction / warmup
    done = (fraction - warmup) / (1 - warmup)
    return {"constant": 1.0, "linear": 1 - done}.get(schedule, 0.5 * (1 + np.cos(np.pi * done)))


def save(surrogate: Surrogate, file: Path) -> None:
    """A row per array."""
    arrays = list(surrogate.arrays.items())
    table = pa.table(
        {
            "name": [name for name, _ in arrays],
            "shape": [list(value.shape) for _, value in arrays],
            "values": pa.array([value.ravel() for _, value in arrays], type=pa.list_(pa.float32())),
        }
    )
    parquet.write_table(table.replace_schema_metadata({"digest": surrogate.digest}), file, compression="zstd")


def load(file: Path) -> Surrogate:
    """What `save` wrote."""
    table = parquet.read_table(file)
    rows = table.to_pydict()
    arrays = {
        name: np.array(values, dtype=np.float64).reshape(shape)
        for name, shape, values in zip(rows["name"], rows["shape"], rows["values"], strict=True)
    }
    return Surrogate(arrays, (table.schema.metadata or {})[b"digest"].decode())
