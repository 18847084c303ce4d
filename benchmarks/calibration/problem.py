"""Made-up tasks drawn by seed: how accuracy grows, what it depends on, how much seeds and evaluations scatter, costs.

A task has a target that at least one configuration reaches in nine trainings of ten. Must not know how a study
chooses its trials.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from autoaccel.config import Params, TrainerConfig, keras_recipe, to_params, with_params
from autoaccel.cost.step_cost import StepCost
from autoaccel.execution.simulated import Course, Point, play
from autoaccel.search.system import decided
from autoaccel.space.files import load_space
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from autoaccel.trial import Ended, Target, TrialSpec

N_TRAIN, N_VALIDATION = 1000, 400
BASELINE = keras_recipe(N_TRAIN)
N_RANDOM = 200
"""Configurations among which the best one sets what can be reached."""
CERTAIN = 1.7
"""Standard deviations of the seeds' noise below its mean that a configuration reaches in 95 trainings of 100."""
LOWEST = 0.1
"""Accuracy of guessing."""


@dataclass(frozen=True)
class Nature:
    """What a task is like; none of it is told to a study."""

    ceiling: float
    """Accuracy of endless training at the best learning rate."""
    gap: float
    """Accuracy missing after `first` steps."""
    first: float
    slope: float
    """Of the power law in steps."""
    bowl: float
    """Accuracy lost per squared log distance from the best learning rate."""
    best_lr: dict[str, float]
    """By optimizer, at a batch of 64."""
    batch_power: dict[str, float]
    """How the best learning rate grows with the batch."""
    optimizer_gain: float
    """Of SGD over AdamW."""
    annealing_gain: float
    best_decay: float
    decay_bowl: float
    smoothing_gain: float
    warmup_gain: float
    seed_noise: float
    """Standard deviation of the accuracy between seeds."""
    evaluation_noise: float
    """The same between evaluations of one training."""
    jitter: float
    """Standard deviation of the log of a training's speed."""
    misprediction: float
    """How many times longer trainings take than their step cost says."""


@dataclass(frozen=True)
class Problem:
    """One task with its target, its measured step cost and the seconds that setting up a training takes."""

    seed: int
    nature: Nature
    cost: StepCost
    target: Target
    setup_s: float

    def course(self, spec: TrialSpec) -> Course:
        """What a training would do; the same for equal configurations and seeds."""
        assert spec.config is not None
        config = spec.config
        rng = random.Random(f"{self.seed} {config.identity} {config.seed}")
        seconds = self.cost.predict(config).seconds * self.nature.misprediction
        seconds *= math.exp(rng.gauss(0, self.nature.jitter))
        luck = rng.gauss(0, self.nature.seed_noise)
        points: list[Point] = []
        for step in evaluations(config):
            share, samples = step / config.n_steps, step * config.batch.size
            noise = luck + rng.gauss(0, self.nature.evaluation_noise)
            value = min(1.0, max(0.0, expected(self.nature, config, share) + noise))
            value = round(value * N_VALIDATION) / N_VALIDATION
            flops = samples * self.cost.flops_per_sample + (len(points) + 1) * self.cost.evaluation_flops
            points.append(Point(share * seconds, value, samples, flops))
        return Course(tuple(points), setup_s=self.setup_s)

    def attempt(self, config: TrainerConfig, seed: int) -> tuple[float, bool]:
        """Training seconds and hit of one uncut training."""
        spec = TrialSpec(0, "benchmark", replace(config, seed=seed), self.target)
        ended = play(spec, self.course(spec))[-1]
        assert isinstance(ended, Ended)
        return ended.elapsed_s, ended.outcome == "hit"


def evaluations(config: TrainerConfig) -> Iterator[int]:
    """Steps after which the accuracy is looked at."""
    step, between = 0, math.ceil(config.evaluate.every_samples / config.batch.size)
    while step < config.n_steps:
        step = min(config.n_steps, step + between)
        yield step


def expected(nature: Nature, config: TrainerConfig, share: float) -> float:
    """Accuracy without noise after a share of the horizon."""
    name, schedule = config.optim.name, config.schedule
    grown = nature.batch_power[name] * math.log(config.batch.size / 64)
    away = math.log(config.optim.lr / nature.best_lr[name]) - grown
    decay = math.log(max(config.optim.weight_decay, 1e-6) / nature.best_decay)
    behind = math.exp(-nature.slope * math.log(max(1.0, share * config.n_steps) / nature.first))
    value = nature.ceiling - nature.gap * behind
    value -= nature.bowl * away**2 + nature.decay_bowl * decay**2
    value += nature.optimizer_gain * (name == "sgd")
    value += nature.smoothing_gain * (config.regularize.label_smoothing > 0)
    value += nature.warmup_gain * math.sqrt(schedule.warmup)
    # Annealing pays at its end only; while the rate is still high the accuracy is behind.
    value -= nature.annealing_gain * (1.0 if schedule.name == "constant" else 1 - share**2)
    return max(LOWEST, value)


def draw(seed: int) -> Problem:
    """The task of a seed; its target is set so that it is feasible, comfortably or tightly."""
    rng = random.Random(f"calibration {seed}")
    noise = _log_uniform(rng, 0.001, 0.012)
    nature = Nature(
        ceiling=rng.uniform(0.85, 0.99),
        gap=rng.uniform(0.1, 0.4),
        first=rng.uniform(4, 16),
        slope=rng.uniform(0.5, 1.0),
        bowl=rng.uniform(0.008, 0.04),
        best_lr={"adamw": _log_uniform(rng, 1e-3, 2e-2), "sgd": _log_uniform(rng, 0.03, 0.5)},
        batch_power={"adamw": rng.uniform(0.2, 0.8), "sgd": rng.uniform(0.4, 1.0)},
        optimizer_gain=rng.uniform(-0.02, 0.02),
        annealing_gain=rng.uniform(0.0, 0.04),
        best_decay=_log_uniform(rng, 1e-5, 1e-2),
        decay_bowl=_log_uniform(rng, 1e-5, 5e-4),
        smoothing_gain=rng.uniform(-0.004, 0.004),
        warmup_gain=rng.uniform(0.0, 0.01),
        seed_noise=noise,
        evaluation_noise=noise * _log_uniform(rng, 0.1, 1.0),
        jitter=_log_uniform(rng, 0.01, 0.15),
        misprediction=_log_uniform(rng, 0.8, 1.25),
    )
    cost = _cost(rng)
    target = Target(_reachable(nature, rng) or LOWEST + 0.05)
    return Problem(seed, nature, cost, target, rng.uniform(0.0, 0.05) * cost.predict(BASELINE).seconds)


@cache
def space() -> Space:
    """The shipped space as preparation would leave it for such a task."""
    whole = load_space("minimal").in_samples(N_TRAIN).narrow("batch.size", 1, N_TRAIN)
    whole = whole.narrow("horizon.samples", 1, 4 * BASELINE.horizon.samples)
    whole = whole.without_choice("precision.dtype", "bf16", "slower here")
    return decided(whole, StepCost({}, {}, {}, 0.0, 0.0), BASELINE)


def anywhere(rng: random.Random, longest: int) -> TrainerConfig:
    """A random configuration of the space with at most this horizon."""
    where = space().narrow("horizon.samples", 1, longest)
    point: Params = {**to_params(BASELINE), **where.fixed}
    for knob in where.knobs:
        if knob in where.active(point):
            point[knob.path] = rng.choice(knob.choices) if knob.choices else _between(knob, rng)
    return with_params(BASELINE, point)


def _between(knob: Knob, rng: random.Random) -> float:
    return knob.from_unit(rng.random())


def _reachable(nature: Nature, rng: random.Random) -> float:
    """A target which the best of random configurations, no longer than the baseline, reaches in 95 of 100 trainings at
    least; its error is up to 1.6 times what that one could be asked for."""
    found = [anywhere(rng, BASELINE.horizon.samples) for _ in range(N_RANDOM)]
    noise = math.hypot(nature.seed_noise, nature.evaluation_noise)
    best = max(expected(nature, config, 1.0) for config in found) - CERTAIN * noise
    return math.floor((1 - (1 - best) * rng.uniform(1.0, 1.6)) * N_VALIDATION) / N_VALIDATION


def _cost(rng: random.Random) -> StepCost:
    """A machine: seconds of micro-batches, updates and evaluations."""
    scale = _log_uniform(rng, 1.0, 20.0)
    fixed, slope = scale * rng.uniform(0.0005, 0.002), scale * rng.uniform(1e-5, 5e-5)
    sizes = (16, 64, 256, 1024)
    return StepCost(
        micro={"fp32": tuple((size, fixed + slope * size) for size in sizes)},
        optimizer={"sgd": 0.0002 * scale, "adamw": 0.0004 * scale},
        evaluation={"fp32": slope * N_VALIDATION * rng.uniform(0.3, 1.0)},
        flops_per_sample=1e6,
        evaluation_flops=2e8,
    )


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
