"""What a fresh model does, seen in one forward pass on a few samples; it is left as it was.

Must not know what is made of it.
"""

from __future__ import annotations

import torch
from torch import nn

from autoaccel.trainer.losses import forward, loss_of
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.randomness import seeded

N_SAMPLES = 4


def look(loaded: LoadedTask, model: nn.Module) -> None:
    """One forward pass in evaluation mode on the first samples, with gradients (torch then takes no short cuts)."""
    was_training = model.training
    model.eval()
    try:
        with seeded(0):
            batch = loaded.train.take(torch.arange(min(N_SAMPLES, loaded.train.n)))
            forward(loaded.task, model, loss_of(loaded.task), batch)
    finally:
        model.train(was_training)
