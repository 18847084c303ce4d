"""Repeated augmentation: every sample that is drawn occurs several times in its batch.

Card
    What: a batch of size n holds n / m different samples, each m times; the sequence of samples is stretched, so that
        batches of any size follow each other without a gap.
    When it pays: with augmentation, whose random views differ between the copies: their gradients agree more, which
        helps large batches and long trainings (0.5 to 1 point of accuracy in the paper; part of the recipes of arXiv
        2110.00476). Without augmentation the copies are equal, and the batch is only smaller than it looks.
    Cost: none in a step; m times the horizon for the same number of passes.
    Source: arXiv 1901.09335.
    Order: around the order that draws the samples, before data echoing and selective backprop.
    Conflicts: none.

Must not know which order it repeats.
"""

from __future__ import annotations

from autoaccel.trainer.data import Drawn
from autoaccel.trainer.draws import Draw


def repeated(draw: Draw, position: int, size: int, done: float, times: int) -> Drawn:
    """Number `position` .. `position + size - 1` of the sequence in which each sample comes `times` times in a row."""
    first, end = position // times, -(-(position + size) // times)
    once = draw(first, end - first, done)
    rows = slice(position - first * times, position - first * times + size)
    weights = None if once.weights is None else once.weights.repeat_interleave(times)[rows]
    return Drawn(once.indices.repeat_interleave(times)[rows], weights)
