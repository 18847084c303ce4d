"""Expected running times; means and medians with their bootstrap intervals. Pure; must not know what is measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 4000

Array = NDArray[np.float64]


def ert_s(times_s: Sequence[float], hits: Sequence[bool], penalty_s: float) -> float:
    """Seconds of all attempts over hits, at most the penalty, which also stands for an answer without a hit."""
    return min(penalty_s, sum(times_s) / sum(hits)) if any(hits) else penalty_s


def selections(n: int, seed: int = 0) -> NDArray[np.int64]:
    """Bootstrap selections of what there are n of, a row each."""
    return np.random.default_rng(seed).integers(0, n, (DRAWS, n))


def drawn_means(values: ArrayLike, seed: int = 0) -> Array:
    """The mean of each selection."""
    found = np.asarray(values, dtype=np.float64)
    return np.asarray(found[selections(len(found), seed)].mean(axis=1))


def interval(drawn: Array) -> list[float]:
    """95 % of what was drawn."""
    return [float(q) for q in np.quantile(drawn, (0.025, 0.975))]


def geometric_mean(logs: ArrayLike) -> float | None:
    """Of what these are the logarithms of; None of nothing."""
    return float(np.exp(np.mean(logs))) if np.size(logs) else None


def geometric_interval(logs: ArrayLike) -> list[float] | None:
    """The interval of the same."""
    return [float(np.exp(q)) for q in interval(drawn_means(logs))] if np.size(logs) else None


def median_interval(values: ArrayLike) -> list[float]:
    """The interval of the median."""
    found = np.asarray(values, dtype=np.float64)
    return interval(np.median(found[selections(len(found))], axis=1))
