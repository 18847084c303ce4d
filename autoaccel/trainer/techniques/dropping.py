"""Dropout and stochastic depth: parts of a network left out at random in training.

What it does: sets the probability of a model's dropout, and that of leaving out residual branches: small at the
first block, the given one at the last. A ramp lets stochastic depth grow from nothing over a share of the horizon.
When it pays: long trainings of networks that overfit; a short one wants less. As a curriculum, early steps learn faster
with the whole network.
Cost: none; branches are computed and thrown away.
Source: dropout JMLR 15 (2014); stochastic depth arXiv 1603.09382; growing from nothing arXiv 1703.06229.
Order: on the model as the task makes it, after its start; the ramp is a function of progress.
Conflicts: needs nn.Dropout layers or timm's `drop_rate`, and places for timm's DropPath; a ramp needs a strength, and
would have a compiled model compiled again at every step. Dropout with a number of the code's own stays as it is.

Must not know the loss or the optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from autoaccel.trainer.look import Given, arguments, look, output, tells_apart
from autoaccel.trainer.parts import LoadedTask

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_PLACE = re.compile(r"drop_path\d*")
Place = tuple[nn.Module, str]
"""A block, and the name of its attribute that drops a branch."""


def set_dropout(loaded: LoadedTask, model: nn.Module, probability: float) -> None:
    """Every dropout of a model at one probability."""
    for layer in _dropout_layers(model):
        layer.p = probability
    for owner in _owners_of_rates(loaded, model):
        owner.drop_rate = probability


def no_dropout(loaded: LoadedTask, model: nn.Module) -> str:
    """Why dropout cannot be set; empty if it can."""
    found = _dropout_layers(model) or _owners_of_rates(loaded, model)
    return "" if found else "the model has no dropout layer, nor a drop_rate that it uses"


def _dropout_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, _DROPOUT)]


def _owners_of_rates(loaded: LoadedTask, model: nn.Module) -> list[Any]:
    """Modules whose attribute `drop_rate` (timm's name) is what dropout is called with, found by trying."""
    held: list[Any] = [m for m in model.modules() if isinstance(vars(m).get("drop_rate"), int | float)]
    before = [owner.drop_rate for owner in held]
    marks = [0.25 + i * 2.0**-20 for i in range(len(held))]
    calls = _DropoutCalls()
    try:
        for owner, mark in zip(held, marks, strict=True):
            owner.drop_rate = mark
        with calls:
            look(loaded, model)
    finally:
        for owner, rate in zip(held, before, strict=True):
            owner.drop_rate = rate
    return [owner for owner, mark in zip(held, marks, strict=True) if mark in calls.seen]


class _DropoutCalls(TorchFunctionMode):
    """Notes the probabilities with which dropout is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[float] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.dropout:
            self.seen.add((kwargs or {}).get("p", args[1] if len(args) > 1 else 0.5))
        return func(*args, **(kwargs or {}))


def drop_paths(loaded: LoadedTask, model: nn.Module, strength: float) -> Callable[[float], None]:
    """Have residual branches left out; returns what sets the share of their strength.

    Args:
        loaded: the task; a few of its samples show which branches can be left out.
        model: changed in place.
        strength: probability at the last block; at block l of L it is l / L of that.
    """
    from timm.layers.drop import DropPath

    places = places_of_paths(loaded, model)
    owners = list(dict.fromkeys(owner for owner, _ in places))
    drops = []
    for owner, name in places:
        if not _is_drop_path(getattr(owner, name)):
            setattr(owner, name, DropPath())
        drops.append((getattr(owner, name), strength * (owners.index(owner) + 1) / len(owners)))

    def follow(share: float) -> None:
        for drop, probability in drops:
            drop.drop_prob = probability * share

    follow(1.0)
    return follow


def no_paths(loaded: LoadedTask, model: nn.Module) -> str:
    """Why no residual branch can be left out; empty if one can."""
    found = places_of_paths(loaded, model)
    return "" if found else "the model has no place for DropPath, as timm's residual blocks have"


def places_of_paths(loaded: LoadedTask, model: nn.Module) -> list[Place]:
    """Where a model's blocks drop a branch, or would if it had been made with a drop-path rate.

    These are attributes named like timm's. They count if they are used, and if there is a way around what goes through
    them: not every block has one.
    """
    named = [(owner, name) for owner in model.modules() for name in _names(owner)]
    given = arguments(loaded, model, {owner for owner, _ in named})
    return [(owner, name) for owner, name in named if owner in given and _can_drop(owner, name, given[owner])]


def _names(owner: nn.Module) -> list[str]:
    held = {**vars(owner), **owner._modules}
    return [name for name, value in held.items() if _PLACE.fullmatch(name) and _is_place(value)]


def _is_place(value: Any) -> bool:
    return value is None or isinstance(value, nn.Identity) or _is_drop_path(value)


def _is_drop_path(value: Any) -> bool:
    return isinstance(value, nn.Module) and type(value).__name__ == "DropPath" and hasattr(value, "drop_prob")


def _can_drop(owner: nn.Module, name: str, given: Given) -> bool:
    nothing = _Nothing()
    with _in_place_of(owner, name, nothing):
        return tells_apart(output(owner, given)) and nothing.was_called


@contextmanager
def _in_place_of(owner: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, module)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _Nothing(nn.Module):
    """Lets nothing through."""

    was_called = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.was_called = True
        return torch.zeros_like(x)
