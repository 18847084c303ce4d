"""What the orders of samples share: numbers drawn at random, batches joined from pieces, the last loss of every sample.

Must not know which technique draws how, nor models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from autoaccel.trainer.data import Drawn

Draw = Callable[[int, int, float], Drawn]
"""`Order.draw`: the samples of a step from its position, its size and the share of the horizon behind it."""


def generator_for(seed: int, number: int) -> torch.Generator:
    """Random numbers of one pass, or of one step, of a training: a function of both alone."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


def joined(pieces: Sequence[Drawn]) -> Drawn:
    """One batch of several pieces; what has no weights among what has some weighs 1."""
    if len(pieces) == 1:
        return pieces[0]
    indices = torch.cat([piece.indices for piece in pieces])
    if all(piece.weights is None for piece in pieces):
        return Drawn(indices)
    ones = (torch.ones_like(p.indices, dtype=torch.float32) if p.weights is None else p.weights for p in pieces)
    return Drawn(indices, torch.cat(list(ones)))


class LastLosses:
    """The loss of every sample when it was last trained on."""

    def __init__(self, n: int, device: torch.device) -> None:
        self._losses = torch.full((n,), torch.nan, device=device)

    @property
    def known(self) -> torch.Tensor:
        """Shape (n,); NaN: never seen, or not finite when it was."""
        return self._losses

    @property
    def filled(self) -> torch.Tensor:
        """Shape (n,); what is not known counts as the mean of what is, and as 1 if nothing is."""
        losses = self._losses
        return torch.where(losses.isnan(), losses.nanmean().nan_to_num(1.0), losses)

    def learn(self, indices: torch.Tensor, losses: torch.Tensor) -> None:
        """Of a sample that occurs several times the largest loss counts: the result has to depend on no order."""
        losses = torch.where(losses.isfinite(), losses.float(), torch.nan)
        self._losses.scatter_reduce_(0, indices, losses, "amax", include_self=False)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses.copy_(state["losses"])
