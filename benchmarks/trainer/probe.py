"""The stopwatch of all contestants. It sits in the model, which every training loop calls once per step.

From the end of one forward pass to the end of the k-th after it lie exactly k whole steps: backward, optimizer,
learning rate, bookkeeping, the next batch, forward. Between two blocks the training waits inside the model. Must not
know who trains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import nn

Saw = Callable[[torch.Tensor, torch.Tensor], Any]
"""Called with inputs and outputs of every forward pass of a training."""


class Over(BaseException):
    """Ends a training from inside its model; no `except Exception` on the way may hold it up."""


class Probe(nn.Module):
    """A model that is watched while it trains; evaluations are not seen."""

    def __init__(self, model: nn.Module, saw: Saw) -> None:
        super().__init__()
        self.model = model
        # Where the model is compiled, what watches it is not: it waits for the next block.
        self.saw = torch.compiler.disable(saw) if torch.cuda.is_available() else saw

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model(inputs)
        if self.training:
            self.saw(inputs, outputs)
        return outputs


def blocks(
    ask: Callable[[], tuple[int, int] | None], answer: Callable[[float, float], None], device: torch.device
) -> Generator[None]:
    """Timed blocks of steps; to be resumed at every step.

    Args:
        ask: waits for (steps to run first, steps to time), or None to end the training.
        answer: given the seconds of wall clock and of processor time that the timed steps took.
        device: whose queue is drained at both ends.
    """
    while True:
        wanted = ask()
        if wanted is None:
            raise Over
        for _ in range(wanted[0]):
            yield
        began = _now(device)
        for _ in range(wanted[1]):
            yield
        ended = _now(device)
        answer(ended[0] - began[0], ended[1] - began[1])


def _now(device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()
