"""Sharpness-aware minimization: the gradient of the worst point nearby instead of the one here.

What it does: every few steps the weights climb along their gradient by `optim.sam_rho`, the same samples are
differentiated there, and the update is made from where the weights were with the gradient of up there.
When it pays: for the last points of accuracy, where a model would overfit; seldom for the first target that is hit.
Cost: twice the step it is used in (so every step: half the throughput; every tenth: 10 %), and a copy of the weights.
Source: arXiv 2010.01412; every k-th step with a rho in proportion to k: Composer's SAM card.
Order: between the gradients and the update, before clipping. Weights are climbed together, not layer by layer; dropout
draws anew; statistics of normalization layers and losses that the sampling learns from are those of the first pass.
Conflicts: none.

Must not know the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoaccel.sections import Optim
from autoaccel.trainer.parts import Step


def climbs(config: Optim, step: Step) -> bool:
    """Whether a step takes its gradient from the worst point nearby."""
    return config.sam_rho > 0 and step.number % config.sam_every == 0


@contextmanager
def climbed(model: nn.Module, rho: float) -> Iterator[None]:
    """Weights moved by `rho` along their gradients inside, without gradients; where they were outside, bit for bit."""
    moving: list[Any] = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in moving]
    kept: list[Any] = [*moving, *model.buffers()]
    with torch.no_grad():
        values = [tensor.detach().clone() for tensor in kept]
        length = rho / (nn.utils.get_total_norm(gradients) + 1e-12)
        torch._foreach_add_(moving, torch._foreach_mul(gradients, length))
    for p in moving:
        p.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(kept, values, strict=True):
                tensor.copy_(value)
