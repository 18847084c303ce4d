"""What the orders of samples share: random numbers, joined batches, the last losses, passes over chosen samples.

Must not know which technique draws how, nor models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from autoaccel.trainer.data import Drawn, Split
from autoaccel.trainer.parts import Order

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


Choose = Callable[[torch.Tensor, float, torch.Generator], Drawn]
"""What one pass holds, in order: from the last losses (shape (n,), double, on the CPU, NaN where not known), the share
of the horizon that is done, and random numbers."""


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


class ChosenPasses:
    """Passes over chosen samples: the first over all, the others over what is chosen when they begin.

    A function of the seed, of the losses and of what was asked; from a share of the horizon on all passes are whole.
    """

    wants_losses = True

    def __init__(self, split: Split, choose: Choose, until: float, seed: int) -> None:
        """Args:
        choose: what a pass holds.
        until: share of the horizon from which nothing is chosen any more; a pass over a part ends there.
        """
        self._n, self._device, self._seed = split.n, split.device, seed
        self._choose, self._until = choose, until
        self._losses = LastLosses(split.n, split.device)
        self._begin(0, 0, 0.0)

    def draw(self, position: int, size: int, done: float) -> Drawn:
        """`size` samples, from `position` on; what was drawn in an earlier pass cannot be drawn again."""
        if position < self._start:  # a training that begins once more
            self._begin(0, 0, done)
        pieces = []
        while size > 0:
            at = position - self._start
            n_in_pass = len(self._pass.indices)
            if at >= n_in_pass:
                self._begin(self._number + 1, self._start + n_in_pass, done)
            elif n_in_pass < self._n and done >= self._until:
                self._begin(self._number + 1, position, done)
            else:
                pieces.append(_rows(self._pass, at, at + size))
                n_drawn = len(pieces[-1].indices)
                position, size = position + n_drawn, size - n_drawn
        return joined(pieces)

    def _begin(self, number: int, start: int, done: float) -> None:
        """Pass number `number`, whose first sample is at position `start`."""
        generator = generator_for(self._seed, number)
        if number == 0 or done >= self._until:
            chosen = Drawn(torch.randperm(self._n, generator=generator))
        else:
            chosen = self._choose(self._losses.known.cpu().double(), done, generator)
        self._number, self._start, self._pass = number, start, _on(chosen, self._device)

    def learn(self, indices: torch.Tensor, losses: torch.Tensor) -> None:
        """What the forward pass found."""
        self._losses.learn(indices, losses)

    def state_dict(self) -> dict[str, Any]:
        return {
            **self._losses.state_dict(),
            "number": self._number,
            "start": self._start,
            "indices": self._pass.indices,
            "weights": self._pass.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses.load_state_dict(state)
        self._number, self._start = state["number"], state["start"]
        self._pass = _on(Drawn(state["indices"], state["weights"]), self._device)


def _rows(drawn: Drawn, start: int, stop: int) -> Drawn:
    return Drawn(drawn.indices[start:stop], None if drawn.weights is None else drawn.weights[start:stop])


def _on(drawn: Drawn, device: torch.device) -> Drawn:
    return Drawn(drawn.indices.to(device), None if drawn.weights is None else drawn.weights.to(device))


class Rearranged:
    """An order that is asked in another way than the training asks; what it learns and holds stays its own."""

    def __init__(self, order: Order, ask: Callable[[Draw, int, int, float], Drawn]) -> None:
        """Args:
        ask: what a step gets, from the order's own `draw` and the step's position, size and share done.
        """
        self._order, self._ask = order, ask

    @property
    def wants_losses(self) -> bool:
        return self._order.wants_losses

    def draw(self, position: int, size: int, done: float) -> Drawn:
        return self._ask(self._order.draw, position, size, done)

    def learn(self, indices: torch.Tensor, losses: torch.Tensor) -> None:
        self._order.learn(indices, losses)

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state)
