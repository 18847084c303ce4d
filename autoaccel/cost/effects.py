"""Settings that change what a sample costs: what is measured of each, and how it enters the price of a config.

A setting is measured as blocks of steps, with it and without, spread over the horizon, at two batch sizes. One that
changes forward and backward *multiplies* them, so that its effect is the same share of them in any precision; any other
*adds* seconds to a step. Differences within the spread of the blocks count as none. Must not run anything, nor know how
a search uses prices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Params = Mapping[str, Any]
_LEAST_RATIO = 0.05
"""What is measured of forward and backward is never believed to leave less of them."""


def _once(_: Params) -> float:
    return 1.0


@dataclass(frozen=True)
class Kind:
    """How a setting changes a step."""

    multiplies: bool = True
    """Forward and backward; else it adds seconds."""
    free: tuple[Any, ...] = ()
    """The values that change nothing; the first is the one without the setting."""
    by_value: bool = True
    """Whether each of the others is measured; else the first of them stands for all."""
    points: int = 2
    """Steps of a block, spread evenly over the horizon: more where the effect is another one early and late."""
    decides: bool = False
    """Whether the fastest value is taken, and nothing else is to be said for one: then it is measured more often, on
    steps as long as those of a training, and what is measured after it is measured with what it decided."""
    warm: int = 0
    """Steps of a block before those that count: a loader has read ahead while the other side had its turn."""
    share: Callable[[Params], float] = _once
    """How much of the measured effect a training has: the share of steps, or of the horizon, in which it acts."""
    beside: Params = field(default_factory=dict)
    """Settings that are measured with it, so that it acts throughout."""
    needs: tuple[str, ...] = ()
    """Settings without which it cannot be: they are on both sides."""
    evaluates: bool = False
    """Whether it multiplies evaluations too."""
    compiles: bool = False
    """Whether the first step takes longer, in every training."""
    prior: float = 1.0
    """The ratio that is believed until it is measured, of seconds and FLOPs; one that adds is believed to add none."""


def _every(params: Params) -> float:
    return 1.0 / int(params["optim.sam_every"])


def _growing(params: Params) -> float:
    return float(params["curriculum.until"])


def _choosing(params: Params) -> float:
    # Measured over the whole horizon, with two samples looked at for each that is kept.
    return float((params["data.keep_until"] - params["data.keep_from"]) * 0.5 / params["data.keep"])


KINDS: dict[str, Kind] = {
    "system.threads": Kind(free=(0,), decides=True, evaluates=True),
    "precision.matmul": Kind(free=("highest",), decides=True, evaluates=True),
    "memory.format": Kind(free=("contiguous",), decides=True, evaluates=True),
    "system.attention": Kind(free=("auto",), decides=True, evaluates=True),
    "system.cudnn_benchmark": Kind(free=(False,), decides=True, evaluates=True),
    "parallel.strategy": Kind(free=("none",), points=4, evaluates=True, needs=("parallel.n_processes",)),
    "loader.workers": Kind(free=(0,), multiplies=False, points=24, warm=8),
    "data.echo": Kind(free=(1,), multiplies=False, points=8),
    "augment.policy": Kind(free=("none",), multiplies=False),
    "augment.flip": Kind(free=("none",), multiplies=False),
    "augment.translate": Kind(free=(0,), multiplies=False, by_value=False),
    "augment.cutout": Kind(free=(0,), multiplies=False, by_value=False),
    "augment.mixup": Kind(free=(0.0,), multiplies=False, by_value=False),
    "augment.cutmix": Kind(free=(0.0,), multiplies=False, by_value=False),
    "data.sampling": Kind(free=("uniform",), multiplies=False),
    "data.order": Kind(free=("shuffled",), multiplies=False),
    "data.repeats": Kind(free=(1,), multiplies=False, by_value=False),
    "model.init": Kind(free=("default",)),
    "model.drop_path": Kind(free=(-1.0, 0.0), by_value=False),
    "regularize.dropout": Kind(free=(-1.0, 0.0), by_value=False),
    "regularize.objective": Kind(free=("task",), multiplies=False),
    "optim.clip": Kind(free=(0.0,), multiplies=False, by_value=False),
    "model.lora_rank": Kind(free=(0,), evaluates=True),
    "optim.sam_rho": Kind(free=(0.0,), by_value=False, share=_every, beside={"optim.sam_every": 1}, prior=2.0),
    "curriculum.resolution": Kind(free=(1.0,), points=6, share=_growing, beside={"curriculum.until": 1.0}),
    "curriculum.sequence": Kind(free=(1.0,), points=6, share=_growing, beside={"curriculum.until": 1.0}),
    "model.freeze": Kind(free=(0.0,), points=8),
    "average.name": Kind(free=("none",), multiplies=False, points=8),
    "memory.checkpointing": Kind(free=("none",), prior=4 / 3),
    "memory.offload": Kind(free=("none",), prior=1.5),
    "compile.mode": Kind(free=("off",), evaluates=True, compiles=True),
    "memory.budget": Kind(free=(1.0,), needs=("compile.mode",), compiles=True, prior=1.2),
}
"""By path, in the order in which they are measured: first what decides, then what is cheap to measure or has no good
prior, compiling last. The optimizers themselves, precision and batch are measured apart (`trainer.measure`). Priors:
checkpointing arXiv 1604.06174 (a third more), SAM 2010.01412 (two gradients)."""
SELECTIVE = Kind(
    free=("uniform",),
    share=_choosing,
    beside={"data.keep": 0.5, "data.keep_from": 0.0, "data.keep_until": 1.0},
    prior=5 / 3,
)
"""data.sampling at its value selective: more samples are looked at, in a part of the horizon."""
GROWING = ("curriculum.resolution", "curriculum.sequence")
"""Sizes of samples, which the batch may follow (`curriculum.batch`)."""
SHARES = ("optim.sam_every", "curriculum.until", "curriculum.batch", "data.keep", "data.keep_from", "data.keep_until")
"""Settings that the shares depend on."""
OFF: dict[str, Any] = {path: kind.free[0] for path, kind in KINDS.items()} | {
    "model.drop_path_ramp": 0.0,
    "loader.pin": False,
    "curriculum.batch": "same",
    "batch.accumulation": 1,
    "batch.ramp": 0.0,
}
"""A plain step: what all effects are measured against."""


def kind_of(path: str, value: Any) -> Kind:
    """How a setting at a value changes a step."""
    return SELECTIVE if (path, value) == ("data.sampling", "selective") else KINDS[path]


@dataclass(frozen=True)
class Effect:
    """What a setting does to a sample, as measured at some batch sizes."""

    path: str
    value: Any
    sizes: tuple[int, ...]
    """Samples of a step."""
    plain_s: tuple[float, ...]
    """Seconds of a sample without it, at each size, averaged over the horizon."""
    changed_s: tuple[float, ...]
    """With it."""
    error: tuple[float, ...]
    """Standard error of the log of the ratio of both, at each size."""
    update_s: float = 0.0
    """What a step takes beside forward and backward, on both sides."""
    setup_s: float = 0.0
    """What its first step takes beyond the others: compiling."""
    flops_ratio: float = 1.0
    """FLOPs of a sample with it over those without."""

    def is_seen(self, i: int) -> bool:
        """Whether the difference at a size is larger than what chance makes."""
        return abs(math.log(self.changed_s[i] / self.plain_s[i])) > 2 * self.error[i]

    def ratio(self, size: float) -> float:
        """Of one that multiplies: forward and backward with it over those without; on the line between two sizes and
        as at the nearest beyond them."""
        return _between(self.sizes, [self._ratio(i) for i in range(len(self.sizes))], size)

    def _ratio(self, i: int) -> float:
        if not self.is_seen(i):
            return 1.0
        size, plain_s, changed_s = self.sizes[i], self.plain_s[i], self.changed_s[i]
        update_s = min(self.update_s, 0.9 * size * plain_s)
        return max(_LEAST_RATIO, (size * changed_s - update_s) / (size * plain_s - update_s))

    def extra_s(self, size: float) -> float:
        """Of one that adds: seconds more for a step of so many samples, a part for the step and one for each sample.

        Both parts are of one sign: a line through two noisy points would turn over far from them.
        """
        n = self.sizes
        extras = [n[i] * (self.changed_s[i] - self.plain_s[i]) if self.is_seen(i) else 0.0 for i in range(len(n))]
        slope = (extras[-1] - extras[0]) / (n[-1] - n[0]) if len(n) > 1 else 0.0
        fixed = extras[-1] - slope * n[-1]
        if len(n) == 1 or fixed * extras[-1] < 0:
            return extras[-1] * size / n[-1]
        if slope * extras[-1] <= 0:
            return sum(extras) / len(extras)
        return fixed + slope * size


def _between(sizes: Sequence[int], values: Sequence[float], size: float) -> float:
    if len(sizes) == 1 or size <= sizes[0]:
        return values[0]
    if size >= sizes[-1]:
        return values[-1]
    above = next(i for i, known in enumerate(sizes) if known >= size)
    share = (size - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
    return values[above - 1] + share * (values[above] - values[above - 1])


Effects = Mapping[tuple[str, Any], Effect]


def key_of(path: str, value: Any, *, larger: bool = False) -> tuple[str, Any]:
    """Under which an effect is kept: settings that one value stands for share a key; growing sizes are measured for
    each way in which the batch follows them (`curriculum.batch` 'larger')."""
    if not kind_of(path, value).by_value:
        return path, None
    return path, f"{value} larger" if larger else value


def effect_of(effects: Effects, path: str, params: Params) -> Effect | None:
    """The measured effect that says what a setting does; None if it does nothing or was not measured."""
    value = params[path]
    if value in kind_of(path, value).free:
        return None
    larger = path in GROWING and params["curriculum.batch"] == "larger"
    return effects.get(key_of(path, value, larger=larger))
