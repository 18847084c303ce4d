"""Values that are functions of progress through the horizon: learning rate, momentum, and progress itself.

Pure functions of the config; must not know the optimizer.
"""

from __future__ import annotations

import math

from autoaccel.config import TrainerConfig
from autoaccel.sections import Schedule

_LOW = 0.04
"""Share of the peak rate at which one_cycle begins."""

N_FREEZING = 4
"""Stages in which layers are frozen."""


def share_done(config: TrainerConfig, *, steps: int, samples: int, elapsed_s: float, flops: float) -> float:
    """Share of the horizon that is behind, in the horizon's own unit; 1 or more: it is over."""
    horizon = config.horizon
    if horizon.unit == "samples":
        return samples / (config.n_steps * config.batch.size)
    return {
        "steps": steps / max(1, horizon.steps),
        "seconds": elapsed_s / horizon.seconds if horizon.seconds else 0.0,
        "flops": flops / horizon.flops if horizon.flops else 0.0,
    }[horizon.unit]


def peak_lr(config: TrainerConfig) -> float:
    """The learning rate after the warm-up; batches other than 256 scale it if `optim.lr_scaling` says so.

    Linear for SGD (arXiv 1706.02677), as the square root for Adam and its kin (arXiv 2405.14578).
    """
    power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[config.optim.lr_scaling]
    return config.optim.lr * (config.batch.size / 256) ** power


def lr_factor(schedule: Schedule, done: float, step: float) -> float:
    """Share of the peak learning rate at one step.

    The rate rises over the warm-up, is at its peak on the first step after it, and falls to zero at the horizon (all
    but constant), so that every trial is a complete short training (arXiv 1905.04753). Sources of the shapes stand in
    `sections.Schedule`.

    Args:
        schedule: shape, warm-up and cooldown shares.
        done: share of the horizon before the step.
        step: share of the horizon that the step takes.
    """
    warm = schedule.warmup
    if done + step < warm:
        risen = (done + step) / warm
        return _LOW + (1.0 - _LOW) * (1.0 - _cosine(risen)) if schedule.name == "one_cycle" else risen
    after = min(1.0, max(0.0, (done - warm) / max(step, 1.0 - warm)))
    if schedule.name == "linear":
        return 1.0 - after
    if schedule.name in ("cosine", "one_cycle"):
        return _cosine(after)
    if schedule.name == "rex":
        return (1.0 - after) / (1.0 - 0.5 * after)
    if schedule.name == "wsd":
        return min(1.0, max(0.0, (1.0 - done) / schedule.cooldown))
    return 1.0


def momentum(config: TrainerConfig, factor: float) -> float:
    """Momentum (or first beta) of a step whose learning rate is `factor` of its peak.

    one_cycle lowers it by up to a tenth while the rate is high (arXiv 1708.07120); all others leave it as it is.
    """
    return config.optim.momentum * (1.0 - 0.1 * factor * (config.schedule.name == "one_cycle"))


def _cosine(share: float) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * share))


def freezing_stage(done: float) -> int:
    """Stages of freezing that have begun: the first at half of the horizon, the others at even distances."""
    return min(N_FREEZING, max(0, math.floor((2.0 * done - 1.0) * N_FREEZING) + 1))


def ramp(done: float, share: float) -> float:
    """From 0 to 1 over the first `share` of the horizon, then 1."""
    return min(1.0, done / share) if share > 0 else 1.0
