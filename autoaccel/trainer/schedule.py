"""Values that are functions of progress through the horizon: today, the learning rate.

Pure functions of the config; must not know the optimizer.
"""

from __future__ import annotations

import math

from autoaccel.config import Schedule


def lr_factor(schedule: Schedule, step: int, n_steps: int) -> float:
    """Share of the peak learning rate at one step.

    The rate rises linearly over the warm-up, is at its peak on the first step after it, and falls to zero at the
    horizon (linear and cosine), so that every trial is a complete short training (arXiv 1905.04753).

    Args:
        schedule: shape and warm-up share.
        step: 0 .. n_steps - 1.
        n_steps: optimizer steps in the horizon.
    """
    warm = schedule.warmup * n_steps
    if step + 1 < warm:
        return (step + 1) / warm
    done = min(1.0, max(0.0, (step - warm) / max(1.0, n_steps - warm)))
    if schedule.name == "linear":
        return 1.0 - done
    if schedule.name == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
