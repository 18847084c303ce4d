"""A curriculum over samples: the easy ones first, then more and more of them.

Card
    What: after a first pass over everything, only the samples with the smallest last losses are drawn, a quarter of
        them at the beginning of the training and all of them from the share `data.order_until` on; each pass takes
        the part that its beginning allows, in random order.
    When it pays: noisy or very uneven data, and budgets too short to learn the hard samples anyway; on clean data it
        mostly buys nothing (arXiv 2012.03107). Nothing in a training of one pass, for then all is unseen.
    Cost: none in a step; one sort of all losses per pass.
    Source: Bengio et al., Curriculum learning (2009); pacing by a growing part, arXiv 1904.03626.
    Order: enters at build time, as the order of the training.
    Conflicts: any data.sampling but uniform; data.echo. Needs a loss that can be told for every sample.

Must not know models.
"""

from __future__ import annotations

import math

import torch

from autoaccel.trainer.data import Drawn

START = 0.25
"""Part of the samples that the pace begins with."""


def pace(done: float, until: float) -> float:
    """Part of the samples that may be drawn: grows in a straight line, and is all of them from `until` on."""
    return START + (1 - START) * min(1.0, done / until)


def easiest(losses: torch.Tensor, part: float, rng: torch.Generator) -> Drawn:
    """One pass over the samples with the smallest losses, in random order.

    Args:
        losses: last loss of every sample, shape (n,), double; NaN where it is not known: that counts as the mean.
        part: of the samples that the pass holds, 0 to 1; rounded up.
        rng: of the order.
    """
    n = max(1, math.ceil(part * len(losses)))
    easy = losses.nan_to_num(float(losses.nanmean())).argsort(stable=True)[:n]
    return Drawn(easy[torch.randperm(n, generator=rng)])
