"""How long a training takes: seconds per sample from the knobs, learned from trainings that were run.

Values in, values out. Must not know what was learned in that time, nor who measured it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoaccel.search.encoding import Array, Encoding

_MOST_RUNS = 200
"""The latest runs are enough, and they are the ones the machine is like now."""
_FIXED_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9)
_RIDGE_LINEAR, _RIDGE_PAIR = 0.02, 0.1
_BEYOND = 1.5
"""How far, in logs, a prediction may lie outside of everything that was measured."""


@dataclass(frozen=True)
class Run:
    """A training, or a part of one, that was timed."""

    params: Mapping[str, Any]
    samples: float
    seconds: float


class Seconds:
    """Predicted seconds of a training: a fixed part, and ridge regression on the log of the seconds per sample.

    Without runs a sample takes a second: only ratios matter then.
    """

    def __init__(self, encoding: Encoding, runs: Sequence[Run]) -> None:
        self._encoding = encoding
        self._known: dict[tuple[Any, ...], float] = {}
        self.fixed_s, self._center = 0.0, 0.0
        self._weights: Array | None = None
        runs = [r for r in runs if r.samples > 0 and r.seconds > 0][-_MOST_RUNS:]
        if runs:
            self._fit(runs)

    def __call__(self, params: Mapping[str, Any], samples: float) -> float:
        """Seconds of a training of these knobs on so many samples; linear in the samples."""
        return self.fixed_s + self.per_sample(params) * samples

    def per_sample(self, params: Mapping[str, Any]) -> float:
        """Seconds per sample, the fixed part left out."""
        if self._weights is None:
            return 1.0
        point = tuple(params.items())
        if point not in self._known:
            x = np.array(self._encoding.row(params)) - 0.5
            log = self._center + self._weights[0] + float(x @ (self._weights[1 : 1 + len(x)] + self._pairs @ x))
            self._known[point] = math.exp(min(max(log, self._low), self._high))
        return self._known[point]

    def _fit(self, runs: Sequence[Run]) -> None:
        samples, seconds = np.array([r.samples for r in runs]), np.array([r.seconds for r in runs])
        features = _features(np.array([self._encoding.row(r.params) for r in runs], dtype=float))
        n_columns = len(self._encoding.group_of_column)
        ridge = np.full(features.shape[1], _RIDGE_PAIR)
        ridge[0], ridge[1 : 1 + n_columns] = 1e-6, _RIDGE_LINEAR
        solve = np.linalg.solve(features.T @ features + np.diag(ridge), features.T)
        # Short and long runs tell the fixed part from the steps: it is what leaves least unexplained.
        varied = len(runs) >= 8 and samples.max() >= 2 * samples.min()
        best = math.inf
        for share in _FIXED_SHARES if varied else _FIXED_SHARES[:1]:
            fixed = share * float(seconds.min())
            logs = np.log((seconds - fixed) / samples)
            weights = solve @ (logs - logs.mean())
            predicted = fixed + np.exp(logs.mean() + features @ weights) * samples
            error = float(((np.log(predicted) - np.log(seconds)) ** 2).sum())
            if error < best - 1e-12:
                best, self.fixed_s, self._center, self._weights = error, fixed, float(logs.mean()), weights
                self._low, self._high = float(logs.min()) - _BEYOND, float(logs.max()) + _BEYOND
        assert self._weights is not None
        self._pairs = np.zeros((n_columns, n_columns))
        self._pairs[np.triu_indices(n_columns)] = self._weights[1 + n_columns :]


def _features(rows: Array) -> Array:
    """One, the columns, and their products."""
    x = rows - 0.5
    i, j = np.triu_indices(x.shape[1])
    return np.concatenate([np.ones((len(x), 1)), x, x[:, i] * x[:, j]], axis=1)
