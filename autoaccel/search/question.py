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
from autoaccel.cost.memory import settings_of
from autoaccel.cost.step_cost import Prediction, StepCost
from autoaccel.search.crowding import Crowding
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
LONGEST = 4
"""A race is never longer than a full training; so many times its length is room for targets that misses."""
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
    n_devices: int = 1
    crowding: Crowding | None = None
    """How much trials at once disturb each other; None: not measured."""
    past: Past = field(default_factory=Past)
    """What earlier studies of the task found; frozen when the study begins."""

    @property
    def is_crowded(self) -> bool:
        """Whether trials at once may disturb each other, so that what is claimed is timed alone."""
        return self.crowding is None or self.crowding.disturbs

    @property
    def n_slots(self) -> int:
        """Trials at once, on all devices together."""
        return 1 if self.crowding is None else self.crowding.n_slots

    @property
    def crowded(self) -> float:
        """How much longer a training takes beside others in all slots."""
        return 1.0 if self.crowding is None else self.crowding.ratio

    @cached_property
    def conditional(self) -> dict[str, Any]:
        """Settings that the baseline has under conditions of the space, and what they are where those do not hold."""
        have, default = to_params(self.baseline), to_params(TrainerConfig())
        return {k.path: default[k.path] for k in self.space.knobs if k.when and k.exists({**have, **self.space.fixed})}

    @cached_property
    def full_samples(self) -> int:
        """Length of a full training: the baseline's, or a quarter of the longest that is searched where the baseline is
        an earlier answer, which is short (see `prepare._restrict`)."""
        longest = max((k.high for k in self.space.knobs if k.path == HORIZON), default=0.0)
        return max(self.baseline.horizon.samples, round(longest / LONGEST))


@dataclass(frozen=True)
class Left:
    """What may still be spent."""

    seconds: float
    """Of the machine at its best, in which all trials are compared and predicted."""
    flops: float
    share: float
    """Of the scarcest limit, 0..1."""
    slowdown: float = 1.0
    """Seconds of the budget, which go by the clock, that one of `seconds` takes now (see `cost.drift`)."""


def left_of(question: Question, spent: Spent, slowdown: float = 1.0) -> Left:
    """What is left after `spent`, with the time for writing the answer set aside."""
    budget = question.budget
    seconds = (budget.seconds_left(spent, question.n_devices) - question.finish_s) / slowdown
    return Left(seconds, budget.flops_left(spent), max(0.0, 1.0 - budget.share(spent)), slowdown)


def slowed(question: Question, slowdown: float) -> Question:
    """The question on a machine that is so many times slower now: its time limits hold as many fewer of the seconds in
    which trials are compared and predicted."""
    if slowdown == 1.0:
        return question
    budget = question.budget
    seconds = None if budget.seconds is None else budget.seconds / slowdown
    device_seconds = None if budget.device_seconds is None else budget.device_seconds / slowdown
    return replace(question, budget=replace(budget, seconds=seconds, device_seconds=device_seconds))


def predict(question: Question, config: TrainerConfig) -> Prediction:
    """Cost of a training to its horizon."""
    return question.cost.predict(config)


def share_of(question: Question, seconds: float, flops: float, n_trials: int = 1) -> float:
    """Share of the budget that trials of this cost take, one after another."""
    return question.budget.share(Spent(seconds, flops, question.n_devices * seconds, n_trials))


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
    what the point does not have. Seed 0. Micro-batches that do not fit into memory are split, unless accumulation is
    pinned, and evaluations are then in batches that are no larger.

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
    return _split(question, replace(question.baseline, seed=0, **changed))


def fits(question: Question, config: TrainerConfig) -> bool:
    """Whether a training fits into memory, as far as that is known."""
    memory = question.cost.memory
    return math.isinf(memory.limit) or memory.fits(settings_of(config))


def _split(question: Question, config: TrainerConfig) -> TrainerConfig:
    """The config in micro-batches that fit into memory."""
    if math.isinf(question.cost.memory.limit):
        return config
    split = question.cost.split(settings_of(config), "batch.accumulation" in question.space.fixed)
    if not split:
        return config
    batch = replace(config.batch, accumulation=split["batch.accumulation"])
    return replace(config, batch=batch, evaluate=replace(config.evaluate, batch=split["evaluate.batch"]))


def seed_of(question: Question, number: int) -> int:
    """A seed no other trial has, nor any of the last studies of the task."""
    return question.seed * _SEEDS + number + _SEEDS_BETWEEN * (question.past.generation % 100)
