"""What a fresh model does, seen by running it on a few samples; it is left as it was.

Must not know what is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autoaccel.trainer.losses import forward, loss_of
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.randomness import seeded

N_SAMPLES = 4
Given = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of one call."""


class Enough(Exception):
    """Raised by a hook that has seen what it wanted: the rest of the model need not run."""


def look(loaded: LoadedTask, model: nn.Module, indices: torch.Tensor | None = None) -> None:
    """One forward pass in evaluation mode on some training samples, by default the first; with gradients, for torch
    takes short cuts without them."""
    if indices is None:
        indices = torch.arange(min(N_SAMPLES, loaded.train.n))
    with seeded(0), in_evaluation(model):
        try:
            forward(loaded.task, model, loss_of(loaded.task), loaded.train.take(indices))
        except Enough:
            return


def arguments(loaded: LoadedTask, model: nn.Module, modules: Iterable[nn.Module]) -> dict[nn.Module, Given]:
    """What modules inside a model are called with, the first time in a forward pass; those that are not called lack."""
    found: dict[nn.Module, Given] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.setdefault(module, (args, kwargs))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        look(loaded, model)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def output(module: nn.Module, given: Given) -> torch.Tensor:
    """What a module returns in evaluation mode; the first tensor of several."""
    args, kwargs = given
    with in_evaluation(module):
        out = module(*args, **kwargs)
    while not isinstance(out, torch.Tensor):
        out = next(iter(out))
    return out


def tells_apart(out: torch.Tensor) -> bool:
    """Whether an output differs between samples: whether anything of the input got through."""
    return bool((out != out[:1]).any())


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode, for a while."""
    was = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in was:
            part.training = training
