"""Importance sampling: samples with a large loss are drawn more often and weigh less.

Card
    What: after a first pass over everything, a sample is drawn, with replacement, with a probability that is for the
        one part proportional to its last loss and for the other the same for all; it weighs one over n times that
        probability, so that the gradient's expectation is that of uniform sampling, and its variance mostly smaller.
    When it pays: losses that differ much between samples, several passes. Nothing in a training of one pass.
    Cost: a few passes over the table of losses per step (0.4 ms for 50 000 samples, 20 ms for a million, on one core
        of an AMD EPYC); the losses come from the forward passes of the training itself.
    Source: arXiv 1803.00942 and 1511.06343 (the loss stands for the gradient's norm); the uniform part bounds the
        weights, Owen and Zhou, Safe and effective importance sampling (2000).
    Order: enters at build time, as the order of the training.
    Conflicts: data.echo and easy_to_hard. Needs a loss that can be told for every sample.

Must not know models.
"""

from __future__ import annotations

from typing import Any

import torch

from autoaccel.trainer.data import Drawn
from autoaccel.trainer.draws import Draw, LastLosses, generator_for, joined

UNIFORM_SHARE = 0.25
"""Of every draw; no weight exceeds its inverse."""


class ImportanceOrder:
    """A first pass as `first` draws it, then by the last losses; a function of seed, position and losses."""

    wants_losses = True

    def __init__(self, first: Draw, n: int, device: torch.device, seed: int) -> None:
        self._first, self._n, self._seed = first, n, seed
        self._losses = LastLosses(n, device)

    def draw(self, position: int, size: int, done: float) -> Drawn:
        """Samples number `position` .. `position + size - 1` of the sequence."""
        n_first = min(size, max(0, self._n - position))
        pieces = [self._first(position, n_first, done)] if n_first else []
        if n_first < size:
            generator = generator_for(self._seed, position + n_first)
            uniform = torch.rand(size - n_first, generator=generator, dtype=torch.float64)
            pieces.append(drawn(probabilities(self._losses.filled), uniform))
        return joined(pieces)

    def learn(self, indices: torch.Tensor, losses: torch.Tensor) -> None:
        """What the forward pass found."""
        self._losses.learn(indices, losses)

    def state_dict(self) -> dict[str, Any]:
        return self._losses.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses.load_state_dict(state)


def probabilities(losses: torch.Tensor) -> torch.Tensor:
    """Of every sample, shape (n,), in double precision where the device has it; sums to 1.

    Args:
        losses: shape (n,), not negative.
    """
    wide = losses.to(torch.float32 if losses.device.type == "mps" else torch.float64).clamp_min(0)
    mixed = (1 - UNIFORM_SHARE) * wide / wide.sum().clamp_min(1e-30) + UNIFORM_SHARE / len(wide)
    return mixed / mixed.sum()


def drawn(chances: torch.Tensor, uniform: torch.Tensor) -> Drawn:
    """Samples drawn independently, with the weights that make the weighted mean unbiased.

    Args:
        chances: of every sample, shape (n,).
        uniform: random numbers in [0, 1), one per draw.
    """
    upto = chances.cumsum(0)
    places = torch.searchsorted(upto, uniform.to(upto) * upto[-1], right=True)
    indices = places.clamp_max(len(chances) - 1)  # rounding, or losses that are no numbers
    return Drawn(indices, (1 / (len(chances) * chances[indices])).float())
