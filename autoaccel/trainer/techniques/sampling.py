"""Uniform and class-balanced sampling: orders that follow from the seed alone.

What it does: *uniform* takes every sample once per pass, in a new random order each; *class_balanced* draws with
replacement so that every class is equally frequent.
When it pays: balancing, where rare classes decide the metric.
Cost: none; an index per sample.
Source: class-balanced sampling as in arXiv 1910.09217.
Order: enters at build time, as the order of the training.
Conflicts: class_balanced needs one integer label per sample.

Must not know models or losses.
"""

from __future__ import annotations

from typing import Any

import torch

from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.trainer.data import Drawn, Split
from autoaccel.trainer.draws import generator_for


class SampleOrder:
    """The endless sequence of sample indices of one training; a function of (seed, position) alone."""

    def __init__(self, split: Split, config: Data, seed: int) -> None:
        self._n, self._seed, self._device = split.n, seed, split.device
        self._weights = _balanced_weights(split) if config.sampling == "class_balanced" else None
        self._passes: dict[int, torch.Tensor] = {}

    @property
    def wants_losses(self) -> bool:
        return False

    def draw(self, position: int, size: int, done: float) -> Drawn:
        """Samples number `position` .. `position + size - 1` of the sequence."""
        return Drawn(self._take(position, size))

    def learn(self, indices: torch.Tensor, losses: torch.Tensor) -> None:
        """Losses change nothing here."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: the sequence follows from the seed and the position."""

    def _take(self, position: int, size: int) -> torch.Tensor:
        parts = []
        while size > 0:
            index, at = divmod(position, self._n)
            part = self._pass(index)[at : at + size]
            parts.append(part)
            position, size = position + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, index: int) -> torch.Tensor:
        if index not in self._passes:
            generator = generator_for(self._seed, index)
            if self._weights is None:
                order = torch.randperm(self._n, generator=generator)
            else:
                order = torch.multinomial(self._weights, self._n, replacement=True, generator=generator)
            kept = {k: v for k, v in self._passes.items() if k == index - 1}
            self._passes = {**kept, index: order.to(self._device)}
        return self._passes[index]


def _balanced_weights(split: Split) -> torch.Tensor:
    labels = split.labels
    if labels is None:
        raise UsageError(
            "data.sampling 'class_balanced' needs one integer label per sample",
            "Give (inputs, integer labels), a dict with 'labels', or use uniform sampling.",
        )
    _, classes, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    return 1.0 / counts[classes].double()
