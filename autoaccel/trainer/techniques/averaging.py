"""Averages of the weights along the training, evaluated and returned in place of the last ones.

What it does: *ema* forgets by half over a share of the horizon; *lawa* is the mean of the weights now and at five
points across the latest window; *swa* the mean of all steps in the last window; *lookahead* pulls the weights halfway
back to a slow copy every few steps, and goes on from there.
When it pays: where the learning rate is still high, so early targets are hit sooner; 10 % of the time in the sources.
With a rate annealed to zero little is left to gain.
Cost: one more copy of the weights (lawa five) and a pass over them every step (lawa: at its points, lookahead: at its
pulls); one more copy and, with batch normalization, a few training batches forward per evaluation.
Source: EMA arXiv 2502.06761 (a half-life of 1 % of the steps); LAWA 2209.14981; SWA 1803.05407; lookahead 1907.08610.
Order: after the optimizer's step; enters for evaluation before batch normalization is refreshed.
Conflicts: schedule-free optimizers, which average themselves.

Buffers are not averaged: what batch normalization needs is computed anew for the average (see `batch_norm`), other
buffers are as trained. Ours, because torch's AveragedModel copies the whole module, has no windows, and keeps no share
of the horizon.

Must not know the optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from autoaccel.sections import Average
from autoaccel.trainer.parts import Step

_N_POINTS = 5
"""Earlier points that lawa averages with the weights as they are."""
_PULL = 0.5
"""How far lookahead's slow copy moves towards the weights."""

Weights = list[torch.Tensor]


class Averaging(Protocol):
    """An average that follows a training."""

    def follow(self, step: Step) -> None:
        """Take the weights after a step into account; may change them."""
        ...

    def values(self) -> Weights | None:
        """What is to be evaluated, a tensor for each parameter; None: the weights as they are."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


def new_average(model: nn.Module, config: Average) -> Averaging | None:
    """The average that is asked for; None if none is."""
    weights: Weights = list(model.parameters())
    if config.name == "ema":
        return Ema(weights, config.half_life)
    if config.name == "lawa":
        return Lawa(weights, config.window)
    if config.name == "swa":
        return Swa(weights, config.window)
    return Lookahead(weights, config.every) if config.name == "lookahead" else None


@contextmanager
def averaged(model: nn.Module, average: Averaging) -> Iterator[None]:
    """The average in place of the weights inside; the trained weights again outside, bit for bit."""
    weights: Weights = list(model.parameters())
    values = average.values()
    if values is None:
        yield
        return
    trained = _copies(weights)
    with torch.no_grad():
        torch._foreach_copy_(weights, values)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, trained)


class Ema:
    """Exponential average; in the first steps it forgets faster, so that it does not hang on to the start."""

    def __init__(self, weights: Weights, half_life: float) -> None:
        self._weights, self._half_life = weights, half_life
        self._average = _copies(weights)
        self._done = 0.0

    @torch.no_grad()
    def follow(self, step: Step) -> None:
        kept = 0.5 ** ((step.done - self._done) / self._half_life)
        kept = min(kept, (1 + step.number) / (10 + step.number))
        self._done = step.done
        torch._foreach_lerp_(self._average, self._weights, 1.0 - kept)

    def values(self) -> Weights | None:
        return self._average

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load(self._average, state["average"])
        self._done = state["done"]


class Lawa:
    """Mean of the weights now and at the latest points, which are a fifth of the window apart."""

    def __init__(self, weights: Weights, window: float) -> None:
        self._weights, self._interval = weights, window / _N_POINTS
        self._points: list[Weights] = []
        self._passed = 0
        """Intervals behind the latest point."""

    def follow(self, step: Step) -> None:
        passed = int(step.done / self._interval + 1e-9)  # shares miss multiples by rounding
        if passed > self._passed:
            self._passed = passed
            self._points = [*self._points, _copies(self._weights)][-_N_POINTS:]

    @torch.no_grad()
    def values(self) -> Weights | None:
        if not self._points:
            return None
        total = _copies(self._weights)
        for point in self._points:
            torch._foreach_add_(total, point)
        torch._foreach_div_(total, len(self._points) + 1)
        return total

    def state_dict(self) -> dict[str, Any]:
        return {"points": self._points, "passed": self._passed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._points = [_copies(self._weights) for _ in state["points"]]
        for point, saved in zip(self._points, state["points"], strict=True):
            _load(point, saved)
        self._passed = state["passed"]


class Swa:
    """Mean of the weights after every step of the last window."""

    def __init__(self, weights: Weights, window: float) -> None:
        self._weights, self._begins = weights, 1.0 - window
        self._average = _copies(weights)
        self._n = 0

    @torch.no_grad()
    def follow(self, step: Step) -> None:
        if step.done >= self._begins:
            self._n += 1
            torch._foreach_lerp_(self._average, self._weights, 1.0 / self._n)

    def values(self) -> Weights | None:
        return self._average if self._n else None

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load(self._average, state["average"])
        self._n = state["n"]


class Lookahead:
    """A slow copy, pulled towards the weights every few steps; then the weights go on from it.

    Between two pulls, what a pull would give is evaluated.
    """

    def __init__(self, weights: Weights, every: int) -> None:
        self._weights, self._every = weights, every
        self._slow = _copies(weights)

    @torch.no_grad()
    def follow(self, step: Step) -> None:
        if (step.number + 1) % self._every == 0:
            torch._foreach_lerp_(self._slow, self._weights, _PULL)
            torch._foreach_copy_(self._weights, self._slow)

    @torch.no_grad()
    def values(self) -> Weights | None:
        return list(torch._foreach_lerp(self._slow, self._weights, _PULL))

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self._slow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        _load(self._slow, state["slow"])


def _copies(weights: Weights) -> Weights:
    return [w.detach().clone() for w in weights]


@torch.no_grad()
def _load(into: Weights, saved: Weights) -> None:
    if len(into) != len(saved):
        raise ValueError(f"{len(saved)} averaged tensors for {len(into)} parameters")
    torch._foreach_copy_(into, saved)
