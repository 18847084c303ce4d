"""Data echoing: a batch that was slow to read is used for several steps.

Card
    What: each batch is read once and used for e consecutive optimizer steps; augmentation on the device, which comes
        after reading, differs between them.
    When it pays: only where reading is the bottleneck: up to e times the steps in the same time, each worth a little
        less (3.25x for ResNet-50 on images read over a network, in the paper). If the device is the bottleneck the
        same samples are merely seen more often in a row.
    Cost: a batch that stays on the device.
    Source: arXiv 1907.05550 (batch echoing).
    Order: around the order that draws the samples, and around what reads them.
    Conflicts: everything that draws by losses (what a batch teaches would change the batch that is to be used again);
        data that is in memory already.

Must not know which order it echoes, nor how batches are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autoaccel.trainer.data import Batch, Drawn, map_batch
from autoaccel.trainer.draws import Draw


def echoed(draw: Draw, position: int, size: int, done: float, times: int) -> Drawn:
    """The batch of `times` consecutive steps; the batches of the order follow each other without a gap."""
    return draw(position // (times * size) * size, size, done)


class Held:
    """Reads each batch once: its pieces stay until others are asked for, at another step."""

    def __init__(self, fetch: Callable[[torch.Tensor, int], Batch], device: torch.device) -> None:
        self._fetch, self._device = fetch, device
        self._pieces: list[tuple[torch.Tensor, Batch]] = []
        self._position = -1

    def __call__(self, indices: torch.Tensor, position: int) -> Batch:
        """The batch of these samples, for the step at this position."""
        known = next((batch for held, batch in self._pieces if torch.equal(held, indices)), None)
        if known is not None:
            return known
        if position != self._position:
            self._pieces, self._position = [], position
        self._pieces.append((indices, self._fetch(indices, position)))
        return self._pieces[-1][1]

    def state_dict(self) -> dict[str, Any]:
        """The data themselves: reading them again may give another view of them."""
        return {"pieces": self._pieces, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        to_device = lambda tensor: tensor.to(self._device)  # noqa: E731
        self._pieces = [(to_device(indices), map_batch(batch, to_device)) for indices, batch in state["pieces"]]
        self._position = state["position"]
