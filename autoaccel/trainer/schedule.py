"""Values that are functions of progress through the horizon: the learning rate, and progress itself.

Pure functions of the config; must not know the optimizer.
"""

from __future__ import annotations

import math

from autoaccel.config import TrainerConfig
from autoaccel.sections import Schedule

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


def lr_factor(schedule: Schedule, done: float, step: float) -> float:
    """Share of the peak learning rate at one step.

    The rate rises linearly over the warm-up, is at its peak on the first step after it, and falls to zero at the
    horizon (linear and cosine), so that every trial is a complete short training (arXiv 1905.04753).

    Args:
        schedule: shape and warm-up share.
        done: share of the horizon before the step.
        step: share of the horizon that the step takes.
    """
    warm = schedule.warmup
    if done + step < warm:
        return (done + step) / warm
    after = min(1.0, max(0.0, (done - warm) / max(step, 1.0 - warm)))
    if schedule.name == "linear":
        return 1.0 - after
    if schedule.name == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * after))
    return 1.0


def freezing_stage(done: float) -> int:
    """Stages of freezing that have begun: the first at half of the horizon, the others at even distances."""
    return min(N_FREEZING, max(0, math.floor((2.0 * done - 1.0) * N_FREEZING) + 1))


def ramp(done: float, share: float) -> float:
    """From 0 to 1 over the first `share` of the horizon, then 1."""
    return min(1.0, done / share) if share > 0 else 1.0
