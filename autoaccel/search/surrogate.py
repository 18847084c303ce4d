"""The model of the search: a Gaussian process over knobs, samples trained and share of the horizon.

It predicts the margin to the target (see `evidence`) of any training at its horizon, tells apart what seeds do at
random from what is not known yet, and continues a running training's own curve. Must not know budgets, seconds or
decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from autoaccel.search.encoding import Array, Encoding
from autoaccel.search.evidence import BELIEF, Curve

MOST_POINTS = 300
"""Evaluations the model is conditioned on; the hyperparameters are fitted on fewer."""
_FIT_POINTS = 120
_DOUBT = 0.5
"""Standard deviation of a belief's margin."""
_OWN_SCALE = 1.5
"""How fast a training's own luck fades along its curve, in log samples."""


@dataclass(frozen=True)
class Scales:
    """Hyperparameters: logs of the length scales (knobs, log samples, share) and of the three standard deviations."""

    logs: Array

    @property
    def lengths(self) -> Array:
        return np.exp(self.logs[:-3])

    @property
    def signal(self) -> float:
        return float(np.exp(self.logs[-3]))

    @property
    def seed_sd(self) -> float:
        """Between trainings that differ in the seed alone."""
        return float(np.exp(self.logs[-2]))

    @property
    def evaluation_sd(self) -> float:
        """Between evaluations of one training."""
        return float(np.exp(self.logs[-1]))

    @property
    def aleatoric_sd(self) -> float:
        return math.hypot(self.seed_sd, self.evaluation_sd)


def prior_scales(n_knobs: int) -> tuple[Array, Array]:
    """Mean and standard deviation of the logs, in natural units: margins are logs of errors."""
    mean = [math.log(0.8)] * n_knobs + [math.log(2.0), math.log(0.7), math.log(0.6), math.log(0.08), math.log(0.04)]
    spread = [0.8] * n_knobs + [0.6, 0.6, 0.5, 0.8, 0.8]
    return np.array(mean), np.array(spread)


# Linear part of the mean: [1, log samples, 1 - share], in the order of its prior.
_LINE_MEAN = np.array([-0.5, 0.35, -0.3])
_LINE_SD = np.array([1.5, 0.3, 0.4])


@dataclass(frozen=True)
class Points:
    """Evaluations as rows: knobs, log samples (0 at the full horizon), share of the horizon, and whose they are."""

    knobs: Array
    log_samples: Array
    share: Array
    owner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.log_samples)

    def line(self) -> Array:
        return np.stack([np.ones(len(self)), self.log_samples, 1.0 - self.share], axis=1)

    def take(self, index: NDArray[np.int64]) -> Points:
        return Points(self.knobs[index], self.log_samples[index], self.share[index], self.owner[index])


@cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(compute: Callable[P, R]) -> Callable[P, R]:
    """Keeps BLAS to one thread: matrices are small, and other cores are training (5 times faster on 2 busy cores)."""

    @wraps(compute)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _pools().limit(limits=1, user_api="blas"):
            return compute(*args, **kwargs)

    return limited


class Surrogate:
    """The model, conditioned on curves. Values in, values out; nothing changes after construction."""

    @on_one_thread
    def __init__(self, encoding: Encoding, unit: float, curves: Sequence[Curve], scales: Scales | None = None) -> None:
        """Args:
        encoding: of the space.
        unit: samples of one full default training (log samples are relative to it).
        curves: the evidence.
        scales: hyperparameters; None: the prior's.
        """
        self.encoding, self.unit = encoding, unit
        self.scales = scales or Scales(prior_scales(encoding.n_groups)[0])
        self.points, self.margins = gather(encoding, unit, curves, MOST_POINTS)
        self._factor: Array | None = None
        if len(self.points):
            covariance = self._shared(self.points, self.points) + self._own(self.points, self.points)
            doubted = np.array([curve.outcome == BELIEF for curve in curves])[self.points.owner]
            covariance[np.diag_indices_from(covariance)] += self.scales.evaluation_sd**2 + 1e-8 + _DOUBT**2 * doubted
            self._factor = cholesky(covariance, lower=True, check_finite=False)
            residual = self.margins - self.points.line() @ _LINE_MEAN
            self._alpha = cho_solve((self._factor, True), residual, check_finite=False)

    def rows(self, params: Sequence[Mapping[str, Any]]) -> Array:
        """Encoded points, shape (n, columns)."""
        return np.array([self.encoding.row(p) for p in params], dtype=float).reshape(len(params), -1)

    @on_one_thread
    def predict(self, rows: Array, samples: Array, share: Array | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation of the expected margin (seeds averaged out) of new trainings.

        Args:
            rows: encoded knobs, shape (n, columns).
            samples: samples trained, shape (n,).
            share: share of the horizon, shape (n,); None: at the horizon.
        """
        n = len(samples)
        new = Points(
            rows, np.log(samples / self.unit), np.ones(n) if share is None else share, np.full(n, -1, dtype=np.int64)
        )
        mean = new.line() @ _LINE_MEAN
        variance = self.scales.signal**2 + ((new.line() * _LINE_SD) ** 2).sum(axis=1)
        if self._factor is None:
            return mean, np.sqrt(variance)
        cross = self._shared(new, self.points)
        mean = mean + cross @ self._alpha
        variance = variance - (solve_triangular(self._factor, cross.T, lower=True, check_finite=False) ** 2).sum(axis=0)
        return mean, np.sqrt(np.maximum(variance, 1e-10))

    @on_one_thread
    def joint(self, rows: Array, samples: Array) -> tuple[Array, Array]:
        """Mean and covariance of the expected margins of several trainings at their horizons."""
        new = Points(
            rows, np.log(samples / self.unit), np.ones(len(samples)), np.full(len(samples), -1, dtype=np.int64)
        )
        mean, covariance = new.line() @ _LINE_MEAN, self._shared(new, new)
        if self._factor is None:
            return mean, covariance
        cross = self._shared(new, self.points)
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        return mean + cross @ self._alpha, covariance - half.T @ half

    @on_one_thread
    def continued(self, curve: Curve) -> tuple[float, float]:
        """Mean and standard deviation of a running training's margin at its horizon, luck included.

        The training itself must not be among the curves of the model.
        """
        own, margins = gather(self.encoding, self.unit, [curve], 12, per_curve=12)
        end = Points(own.knobs[:1], np.array([math.log(curve.horizon / self.unit)]), np.ones(1), own.owner[:1])
        both = Points(*(np.concatenate([a, b]) for a, b in zip(_parts(own), _parts(end), strict=True)))
        mean = both.line() @ _LINE_MEAN
        covariance = self._shared(both, both) + self._own(both, both)
        if self._factor is not None:
            cross = self._shared(both, self.points)
            mean = mean + cross @ self._alpha
            half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
            covariance = covariance - half.T @ half
        k = len(own)
        seen = covariance[:k, :k] + (self.scales.evaluation_sd**2 + 1e-6) * np.eye(k)
        gain = cho_solve(cho_factor(seen, lower=True, check_finite=False), covariance[:k, k])
        variance = covariance[k, k] - gain @ covariance[:k, k] + self.scales.evaluation_sd**2
        return float(mean[k] + gain @ (margins - mean[:k])), math.sqrt(max(float(variance), 1e-10))

    def _shared(self, a: Points, b: Points) -> Array:
        lines = (a.line() * _LINE_SD**2) @ b.line().T
        shared: Array = lines + self.scales.signal**2 * _matern(self._scaled(a), self._scaled(b))
        return shared

    def _scaled(self, points: Points) -> Array:
        lengths = self.scales.lengths
        columns = [points.knobs / lengths[self.encoding.group_of_column]]
        columns += [points.log_samples[:, None] / lengths[-2], points.share[:, None] / lengths[-1]]
        return np.concatenate(columns, axis=1)

    def _own(self, a: Points, b: Points) -> Array:
        return self.scales.seed_sd**2 * _same_training(a, b)


def _parts(points: Points) -> tuple[Array, Array, Array, NDArray[np.int64]]:
    return points.knobs, points.log_samples, points.share, points.owner


def gather(
    encoding: Encoding, unit: float, curves: Sequence[Curve], most: int, per_curve: int = 4
) -> tuple[Points, Array]:
    """The evaluations worth conditioning on: of each curve its last and a few before, fewer when there are many.

    Past `most` the curves that came nearest to the target are kept with the newest.
    """
    known = [(i, c) for i, c in enumerate(curves) if c.samples and c.samples[0] > 0]
    per_curve = max(1, min(per_curve, most // max(1, len(known))))
    if len(known) > most:
        near = sorted(known, key=lambda pair: -max(pair[1].margins))[: most // 2]
        kept = {i for i, _ in near} | {i for i, _ in known[-(most - len(near)) :]}
        known = [pair for pair in known if pair[0] in kept]
    rows, log_samples, share, owner, margins = [], [], [], [], []
    for i, curve in known:
        row = encoding.row(curve.params)
        for j in _chosen(curve, per_curve):
            rows.append(row)
            log_samples.append(math.log(curve.samples[j] / unit))
            share.append(min(1.0, curve.samples[j] / curve.horizon))
            owner.append(i)
            margins.append(curve.margins[j])
    n_columns = len(encoding.group_of_column)
    points = Points(
        np.array(rows, dtype=float).reshape(len(rows), n_columns),
        np.array(log_samples),
        np.array(share),
        np.array(owner, dtype=np.int64),
    )
    return points, np.array(margins)


def _chosen(curve: Curve, most: int) -> list[int]:
    """Indices of a curve's evaluations, evenly spread in log samples, the last among them."""
    n = len(curve.samples)
    if n <= most:
        return list(range(n))
    wanted = [curve.samples[-1] * (1 / 8) ** (j / most) for j in range(most)]
    return sorted({min(range(n), key=lambda i: abs(math.log(curve.samples[i] / w))) for w in wanted})


def _distances(a: Points, b: Points, encoding: Encoding) -> Array:
    """Squared distances by length scale, shape (groups + 2, len(a), len(b))."""
    out = np.zeros((encoding.n_groups + 2, len(a), len(b)))
    for column, group in enumerate(encoding.group_of_column):
        out[group] += (a.knobs[:, column, None] - b.knobs[None, :, column]) ** 2
    out[-2] = (a.log_samples[:, None] - b.log_samples[None, :]) ** 2
    out[-1] = (a.share[:, None] - b.share[None, :]) ** 2
    return out


def _matern(a: Array, b: Array) -> Array:
    """Matern 5/2 between rows already divided by their length scales."""
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * a @ b.T
    r = np.sqrt(5.0 * np.maximum(squared, 0.0))
    kernel: Array = (1.0 + r + r * r / 3.0) * np.exp(-r)
    return kernel


def _same_training(a: Points, b: Points) -> Array:
    same = a.owner[:, None] == b.owner[None, :]
    fading: Array = np.exp(-np.abs(a.log_samples[:, None] - b.log_samples[None, :]) / _OWN_SCALE)
    return np.where(same, fading, 0.0)


@on_one_thread
def fit_scales(encoding: Encoding, unit: float, curves: Sequence[Curve], start: Scales | None = None) -> Scales:
    """Hyperparameters by maximum a posteriori (L-BFGS on the logs with analytic gradients)."""
    points, margins = gather(encoding, unit, curves, _FIT_POINTS)
    mean, spread = prior_scales(encoding.n_groups)
    if len(points) < 3:
        return start or Scales(mean)
    line = points.line()
    fixed = (line * _LINE_SD**2) @ line.T + 1e-6 * np.eye(len(points))
    residual = margins - line @ _LINE_MEAN
    squared = _distances(points, points, encoding)
    flat = squared.reshape(len(squared), -1)
    same = _same_training(points, points)

    def loss(logs: Array) -> tuple[float, Array]:
        lengths, (signal, own, noise) = np.exp(logs[:-3]), np.exp(2 * logs[-3:])
        r = np.sqrt(5.0 * np.tensordot(1.0 / lengths**2, squared, axes=1))
        decay = np.exp(-r)
        matern = signal * (1.0 + r + r * r / 3.0) * decay
        factor = cholesky(fixed + matern + own * same + noise * np.eye(len(margins)), lower=True, check_finite=False)
        alpha = cho_solve((factor, True), residual, check_finite=False)
        weight = cho_solve((factor, True), np.eye(len(margins)), check_finite=False) - np.outer(alpha, alpha)
        off = (logs - mean) / spread
        value = 0.5 * residual @ alpha + np.log(np.diag(factor)).sum() + 0.5 * off @ off
        slope = weight * (signal * (5.0 / 3.0) * (1.0 + r) * decay)
        gradient = np.concatenate(
            [
                0.5 * (flat @ slope.ravel()) / lengths**2,
                [(weight * matern).sum(), own * (weight * same).sum(), noise * np.trace(weight)],
            ]
        )
        return float(value), gradient + off / spread

    first = start.logs if start is not None else mean
    # Without bounds a line search may step to where the covariance is no longer positive definite.
    bounds = np.stack([mean - 4 * spread, mean + 4 * spread], axis=1)
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 15, "maxfun": 20})
    return Scales(found.x)
