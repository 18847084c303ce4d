"""The order of an image's values in memory.

What it does: *channels_last* keeps the channels of one pixel beside each other, in weights and in batches.
When it pays: convolutions under autocast on tensor cores, 1.2 to 1.5x for ResNets; on a CPU 0 to 25 %. Grouped
convolutions (RegNet, NFNet) can lose half of their speed, fp32 on a GPU a tenth: to be measured per model.
Cost: none beside one reordering of each batch. Dropout draws in the order of memory, so its masks fall elsewhere.
Source: torch's channels_last; public figures of timm's benchmark tables.
Order: after the layers are what they will be; batches last of all that prepares them.
Conflicts: needs a two-dimensional convolution; batches that are no images stay as they are.

Must not know the loss or the optimizer.
"""

from __future__ import annotations

import torch
from torch import nn

from autoaccel.trainer.data import Batch, map_batch


def channels_last(model: nn.Module) -> nn.Module:
    """The model with four-dimensional weights in that order."""
    return model.to(memory_format=torch.channels_last)


def channels_last_batch(batch: Batch) -> Batch:
    """A batch with its four-dimensional tensors in that order."""
    return map_batch(batch, lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t)


def no_convolution(model: nn.Module) -> str:
    """Why the order is nothing to a model; empty if it is."""
    found = any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in model.modules())
    return "" if found else "the model has no two-dimensional convolution"
