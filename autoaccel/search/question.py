"""What a study is asked, and what follows from that alone: costs of trainings, configurations of points, seeds.

Constant while a study runs. Must not know records or how trials are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from autoaccel.budget import Budget, Spent
from autoaccel.config import TrainerConfig, to_params
from autoaccel.cost.step_cost import Prediction, StepCost
from autoaccel.space.space import Space
from autoaccel.store.library import Past
from autoaccel.trial import Target

MIN_CONFIRMATIONS = 5
"""Fresh seeds below which nothing is claimed."""
SLACK = 1.25
"""A trial is admitted if its predicted time, times this, fits."""
OVERRUN = 3.0
"""A trial that should run its course is cut at this many times its predicted time, and a second."""
HORIZON = "horizon.samples"
_SEEDS = 1_000_003
"""Seeds of one study; also the most trials it can have."""
_SEEDS_BETWEEN = 10_000
"""From one study of a task to the next of the same seed: a repeated training would be no other attempt."""


@dataclass(frozen=True)
class Question:
    """What a study is asked."""

    target: Target
    budget: Budget
    space: Space
    baseline: TrainerConfig
    cost: StepCost
    floor: float
    """Half a validation example, in units of the metric."""
    seed: int = 0
    hit_probability: float = 0.9
    finish_s: float = 1.0
    """Kept for writing the answer."""
    use_all_budget: bool = False
    """Search on even when next to nothing is to be gained."""
    past: Past = field(default_factory=Past)
    """What earlier studies of the task found; frozen when the study begins."""

    @cached_property
    def conditional(self) -> dict[str, Any]:
        """Settings that the baseline has under conditions of the space, and what they are where those do not hold."""
        have, default = to_params(self.baseline), to_params(TrainerConfig())
        return {k.path: default[k.path] for k in self.space.knobs if k.when and k.exists({**have, **self.space.fixed})}


@dataclass(frozen=True)
class Left:
    """What may still be spent."""

    seconds: float
    flops: float
    share: float
    """Of the scarcest limit, 0..1."""


def left_of(question: Question, spent: Spent) -> Left:
    """What is left after `spent`, with the time for writing the answer set aside."""
    budget = question.budget
    seconds = budget.seconds_left(spent) - question.finish_s
    return Left(seconds, budget.flops_left(spent), max(0.0, 1.0 - budget.share(spent)))


def predict(question: Question, config: TrainerConfig) -> Prediction:
    """Cost of a training to its horizon."""
    return question.cost.predict(config)


def share_of(question: Question, seconds: float, flops: float, n_trials: int = 1) -> float:
    """Share of the budget that trials of this cost take."""
    return question.budget.share(Spent(seconds, flops, seconds, n_trials))


def with_horizon(config: TrainerConfig, samples: float) -> TrainerConfig:
    """The config annealed to another length."""
    return replace(config, horizon=replace(config.horizon, samples=max(1, round(samples))))


def longest_horizon(question: Question, config: TrainerConfig, seconds: float, flops: float = math.inf) -> int:
    """The config's horizon, or the longest shorter one whose predicted cost fits; 0 if none does."""
    fits, too_long = 0, config.horizon.samples + 1
    middle = config.horizon.samples
    while too_long - fits > 1:
        predicted = predict(question, with_horizon(config, middle))
        if predicted.seconds <= seconds and predicted.flops <= flops:
            fits = middle
        else:
            too_long = middle
        middle = (fits + too_long) // 2
    return fits


def config_at(question: Question, point: Mapping[str, Any]) -> TrainerConfig:
    """The config at a point of the space; what the space does not search stays as in the baseline, unless it belongs to
    what the point does not have. Seed 0.

    Values of the space are of the right type, so that nothing is checked here but what a config checks itself: the
    search asks for the cost of hundreds of points before every trial.
    """
    mine = {*question.space.paths, *question.space.fixed}
    sections: dict[str, dict[str, Any]] = {}
    for path, value in {**question.conditional, **point}.items():
        section, _, name = path.partition(".")
        if path in mine and name:
            sections.setdefault(section, {})[name] = value
    batch = sections.setdefault("batch", {})
    size = batch.get("size", question.baseline.batch.size)
    batch["accumulation"] = min(batch.get("accumulation", question.baseline.batch.accumulation), size)
    changed: dict[str, Any] = {n: replace(getattr(question.baseline, n), **values) for n, values in sections.items()}
    return replace(question.baseline, seed=0, **changed)


def seed_of(question: Question, number: int) -> int:
    """A seed no other trial has, nor any of the last studies of the task."""
    return question.seed * _SEEDS + number + _SEEDS_BETWEEN * (question.past.generation % 100)
