"""Statistics of batch normalization that fit averaged weights.

What it does: while weights that were never trained with are evaluated (an average, a schedule-free optimizer's), the
statistics of all batch normalization layers are computed anew from a few training batches; then the trained ones are
put back, bit for bit.
When it pays: always, where weights are averaged: with the statistics of other weights the average can be far off.
Cost: a forward pass over at most 512 training samples per evaluation; nothing for a model without such layers.
Source: arXiv 1803.05407 (weight averaging), section 3.2.
Order: enters for evaluation, after the averaged weights are in place.
Conflicts: none.

Must not know how the weights were averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

_N_BATCHES, _BATCH = 4, 128
"""Statistics are means over so many batches; each has enough samples for its variance to be nearly unbiased."""

BatchNorm = nn.modules.batchnorm._BatchNorm


def layers_with_statistics(model: nn.Module) -> list[BatchNorm]:
    """Batch normalization layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]


def refreshing_batches(n_train: int) -> list[torch.Tensor]:
    """Indices of the training samples that are used, spread over the whole set, in batches."""
    n = min(n_train, _N_BATCHES * _BATCH)
    spread = (torch.arange(n) * n_train) // n
    # In an order without period, so that no batch is of one class where the data is sorted.
    mixed = spread[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    return list(mixed.tensor_split(max(1, min(_N_BATCHES, n // 2))))


@contextmanager
def refreshed(
    model: nn.Module, batches: list[torch.Tensor], forward: Callable[[torch.Tensor], object]
) -> Iterator[None]:
    """Statistics of `batches` inside, the trained ones again outside.

    Args:
        model: with averaged weights in place.
        batches: sample indices.
        forward: runs the model on the samples of some indices.
    """
    layers = layers_with_statistics(model)
    kept = [{name: value.clone() for name, value in layer.named_buffers(recurse=False)} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    model.eval()  # no dropout: an evaluation draws no random numbers
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # plain means
        layer.train()
    try:
        with torch.no_grad():
            for indices in batches:
                forward(indices)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        yield
    finally:
        for layer, momentum, buffers in zip(layers, momenta, kept, strict=True):
            layer.momentum = momentum
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)
