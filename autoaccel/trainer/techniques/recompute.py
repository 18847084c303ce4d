"""Activation checkpointing: activations inside a block are not kept for backward but computed again.

What it does: *full* keeps only the input of every block, *selective* of every second one. The gradients are the same to
the last bit: random numbers are drawn again alike, and statistics that a forward pass moves are moved once.
When it pays: never by itself; where the fastest micro-batch, resolution or model does not fit into memory without it.
Cost: the forward pass of these blocks once more, about a third of a step when full; it counts in the FLOPs.
Source: arXiv 1604.06174; torch.utils.checkpoint.
Order: after everything that changes the modules inside blocks, before compiling.
Conflicts: needs a model with blocks (see `blocks`).

Must not know the loss or the optimizer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import checkpoint as library

from autoaccel.trainer.blocks import blocks


def recompute_blocks(model: nn.Module, which: str) -> Callable[[], None]:
    """Have blocks computed again in backward ('full': all, 'selective': every second); returns what ends it."""
    # The first checkpointed step reads settings of the compiler, which takes over a second to import: not on the clock.
    importlib.import_module("torch._dynamo")
    chosen = blocks(model)[:: 1 if which == "full" else 2]
    for block in chosen:
        # A partial of a module's function, not a closure: a copy of the model then computes with its own weights.
        block.forward = partial(_recomputed, block, block.forward)
    return partial(_plain_again, chosen)


def no_blocks(model: nn.Module) -> str:
    """Why a model has nothing to recompute; empty if it has."""
    return "" if blocks(model) else "the model has no blocks: no nn.Sequential or nn.ModuleList of compound modules"


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():  # which traces what changes buffers out of what is recomputed
        return library.checkpoint(forward, *args, use_reentrant=False, **kwargs)
    both = partial(_forward_and_again, block)
    return library.checkpoint(forward, *args, use_reentrant=False, context_fn=both, **kwargs)


def _forward_and_again(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _buffers_kept(block)


@contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Statistics of normalization layers and the like are as before in the end: the first forward pass moved them."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _plain_again(chosen: list[nn.Module]) -> None:
    for block in chosen:
        del block.forward
