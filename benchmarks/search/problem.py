"""A search problem: knobs, horizon, target, and trainings that can be run or replayed point by point.

Every method of the benchmark sees exactly this. Must not know any method, budget or study.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One evaluation inside a training."""

    samples: float
    """Samples (or epochs: the unit of the problem's horizon) trained so far."""
    seconds: float
    """Training time so far on the problem's simulated clock, evaluations included."""
    value: float
    """Validation metric; NaN when the training has diverged."""


@dataclass(frozen=True)
class Description:
    """What every method is told of a problem."""

    name: str
    family: str
    """lcbench, miniature, table, ...: the problems of one family weigh as much as their number."""
    space: Mapping[str, BaseDistribution]
    """Learning knobs, the horizon not among them."""
    conditions: Mapping[str, tuple[str, Any]]
    """Knob -> (parent, value): the knob has an effect only where its parent has that value."""
    horizon_low: int
    horizon_high: int
    """Shortest and longest horizon; log scale. `full_horizon` lies between."""
    full_horizon: int
    """Of one full default training."""
    default: Params
    """The default recipe."""
    target: float
    direction: str = "max"
    """max: the metric is an accuracy in 0..1. min: a loss."""
    floor: float = 1e-3
    """About half a validation example, in units of the metric."""
    n_fresh: int = 20
    """Fresh seeds on which an answer is judged; 1 where trainings are deterministic."""
    full_s: float = 1.0
    """Seconds of one full default training (mean over seeds, to its horizon without stopping): the unit of budgets."""

    def reached(self, value: float) -> bool:
        """Whether an evaluation is a hit; a NaN never is."""
        return value >= self.target if self.direction == "max" else value <= self.target


class Problem(ABC):
    """One problem. `train` is deterministic in its arguments."""

    description: Description

    @abstractmethod
    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        """One training annealed to `horizon`, evaluation by evaluation, lazily; the last point is at the horizon.

        A diverged training yields a last point with a NaN value. A curve without annealing is simply cut.
        """

    @abstractmethod
    def seconds_per_sample(self, params: Params) -> float:
        """True seconds of one sample (or epoch) without evaluations: what a probe of a few steps measures."""
