"""Settings of the optimization: batch, optimizer, schedule, average, horizon, evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from autoaccel.errors import UsageError
from autoaccel.sections.checks import check, positive_int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """How many samples make one optimizer step, and in how many pieces their gradient is computed."""

    size: int = 128
    """Effective batch: samples per optimizer step."""
    accumulation: int = 1
    """Micro-batches per step, of equal size up to one sample. The gradient is exact."""
    ramp: float = 0.0
    """Share of the horizon in which steps are smaller: a quarter of `size`, then half (arXiv 2604.26687); 0: none."""

    def __post_init__(self) -> None:
        check(positive_int(self.size), "batch.size", self.size, "a whole number >= 1")
        ok = positive_int(self.accumulation) and self.accumulation <= self.size
        check(ok, "batch.accumulation", self.accumulation, f"a whole number from 1 to batch.size ({self.size})")
        check(0 <= self.ramp <= 1, "batch.ramp", self.ramp, "between 0 and 1")

    @property
    def micro(self) -> int:
        """Samples in the largest micro-batch."""
        return math.ceil(self.size / self.accumulation)

    def n_pieces(self, n: int) -> int:
        """Micro-batches of a step of `n` samples: a smaller step has fewer, not smaller ones; one with more samples,
        which are smaller then, has no more."""
        return self.accumulation if n >= self.size else math.ceil(n / self.micro)


KERNELS: dict[str, tuple[str, ...]] = {
    "adamw": ("foreach", "fused", "loop"),
    "sgd": ("foreach", "fused", "loop"),
    "nadam": ("foreach", "loop"),
    "lion": ("foreach", "loop"),
    "muon": (),
    "lamb": ("foreach", "loop"),
    "lars": ("foreach", "loop"),
    "schedule_free_adamw": ("foreach", "loop"),
    "schedule_free_sgd": ("foreach", "loop"),
}
"""Every optimizer, with the kernels there are of it beside 'auto'."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer and its constants."""

    name: Literal[
        "adamw", "sgd", "nadam", "lion", "muon", "lamb", "lars", "schedule_free_adamw", "schedule_free_sgd"
    ] = "adamw"
    """adamw: decoupled weight decay (arXiv 1711.05101); sgd: with Nesterov momentum; nadam: Nesterov's Adam with
    decoupled decay; lion: the sign of an average (arXiv 2302.06675); muon: orthogonalised momentum of weight matrices,
    AdamW for the rest; lamb and lars: steps in proportion to each layer's weights, for large batches (arXiv 1904.00962,
    1708.03888); schedule_free_*: averages its iterates instead of following a schedule (arXiv 2405.15682)."""
    lr: float = 1e-3
    """Peak learning rate, reached after the warm-up; before `lr_scaling`."""
    weight_decay: float = 0.0
    """Decay of the weights per step, times the learning rate; biases and norms are exempt."""
    momentum: float = 0.9
    """Momentum of sgd, lars, muon and schedule_free_sgd; first beta of all others."""
    beta2: float = 0.999
    """Second beta: memory of squared gradients (of lion: of its average). sgd, lars and schedule_free_sgd have none."""
    kernel: Literal["auto", "foreach", "fused", "loop"] = "auto"
    """How the update is computed; the same numbers up to rounding. auto: fused on CPU and CUDA where there is one."""
    state: Literal["fp32", "int8"] = "fp32"
    """Memory of the optimizer: int8 holds that of adamw's large matrices in 8 bits (arXiv 2110.02861)."""
    clip: float = 0.0
    """Largest norm of the gradient, all parameters together; longer ones are shortened to it. 0: none are."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """The peak rate times (batch.size / 256), or its square root: linear for sgd (arXiv 1706.02677), sqrt for the
    likes of Adam (arXiv 2405.14578)."""
    sam_rho: float = 0.0
    """How far weights climb to where the gradient is taken: sharpness-aware minimization (arXiv 2010.01412). 0: off."""
    sam_every: int = 1
    """Every so many steps; a larger one wants a `sam_rho` larger in proportion."""

    def __post_init__(self) -> None:
        check(self.name in KERNELS, "optim.name", self.name, "one of " + ", ".join(map(repr, KERNELS)))
        check(0 < self.lr < math.inf, "optim.lr", self.lr, "a finite number > 0")
        check(0 <= self.weight_decay < math.inf, "optim.weight_decay", self.weight_decay, "a finite number >= 0")
        check(0 < self.momentum < 1, "optim.momentum", self.momentum, "between 0 and 1, exclusive")
        check(0 < self.beta2 < 1, "optim.beta2", self.beta2, "between 0 and 1, exclusive")
        kernels = ("auto", "foreach", "fused", "loop")
        check(self.kernel in kernels, "optim.kernel", self.kernel, "'auto', 'foreach', 'fused' or 'loop'")
        check(self.state in ("fp32", "int8"), "optim.state", self.state, "'fp32' or 'int8'")
        check(0 <= self.clip < math.inf, "optim.clip", self.clip, "a finite number >= 0")
        scalings = ("none", "linear", "sqrt")
        check(self.lr_scaling in scalings, "optim.lr_scaling", self.lr_scaling, "'none', 'linear' or 'sqrt'")
        check(0 <= self.sam_rho < math.inf, "optim.sam_rho", self.sam_rho, "a finite number >= 0")
        check(positive_int(self.sam_every), "optim.sam_every", self.sam_every, "a whole number >= 1")

    @property
    def is_schedule_free(self) -> bool:
        return self.name.startswith("schedule_free")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a function of progress through the horizon."""

    name: Literal["linear", "cosine", "constant", "rex", "wsd", "one_cycle"] = "constant"
    """All but constant end at zero at the horizon (arXiv 1905.04753). linear; cosine; rex: slow at first, then ever
    faster (2107.04197); wsd: stable, then a linear cooldown (2405.18392); one_cycle: along cosines up from a 25th of
    the peak and down, momentum the other way (1708.07120)."""
    warmup: float = 0.0
    """Share of the horizon over which the learning rate rises: linearly from zero, of one_cycle its rising part."""
    cooldown: float = 0.2
    """Share of the horizon over which wsd falls to zero."""

    def __post_init__(self) -> None:
        names = ("linear", "cosine", "constant", "rex", "wsd", "one_cycle")
        check(self.name in names, "schedule.name", self.name, "one of " + ", ".join(map(repr, names)))
        check(0 <= self.warmup <= 0.9, "schedule.warmup", self.warmup, "between 0 and 0.9")
        check(0 < self.cooldown <= 1, "schedule.cooldown", self.cooldown, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Average:
    """Which average of the weights is evaluated and returned, in place of the last ones."""

    name: Literal["none", "ema", "lawa", "swa", "lookahead"] = "none"
    """ema: exponential, forgetting by half over `half_life` (arXiv 2502.06761); lawa: of six points across the latest
    `window` (2209.14981); swa: of all steps in the last `window` of the horizon (1803.05407); lookahead: every `every`
    steps weights are pulled halfway back to a slow copy (1907.08610)."""
    half_life: float = 0.01
    """Share of the horizon; of ema."""
    window: float = 0.1
    """Share of the horizon; of lawa and swa."""
    every: int = 5
    """Steps between two pulls; of lookahead."""

    def __post_init__(self) -> None:
        names = ("none", "ema", "lawa", "swa", "lookahead")
        check(self.name in names, "average.name", self.name, "one of " + ", ".join(map(repr, names)))
        check(0 < self.half_life <= 1, "average.half_life", self.half_life, "above 0 and at most 1")
        check(0 < self.window <= 1, "average.window", self.window, "above 0 and at most 1")
        check(positive_int(self.every), "average.every", self.every, "a whole number >= 1")


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The length the schedules are annealed to, and at which training ends."""

    samples: int = 1_000_000
    """Training samples, repeats counted (epochs x size of the training set)."""
    steps: int = 0
    """Optimizer steps; if not 0, instead of samples."""
    seconds: float = 0.0
    """Training seconds, evaluations included; if not 0, instead of samples: schedules are annealed by elapsed time."""
    flops: float = 0.0
    """FLOPs of training and evaluations; if not 0, instead of samples. Needs a model whose FLOPs can be counted."""

    def __post_init__(self) -> None:
        check(positive_int(self.samples), "horizon.samples", self.samples, "a whole number >= 1")
        check(self.steps == 0 or positive_int(self.steps), "horizon.steps", self.steps, "a whole number >= 0")
        check(0 <= self.seconds < math.inf, "horizon.seconds", self.seconds, "a finite number >= 0")
        check(0 <= self.flops < math.inf, "horizon.flops", self.flops, "a finite number >= 0")
        given = [name for name in ("steps", "seconds", "flops") if getattr(self, name)]
        if len(given) > 1:
            hint = "Keep one of them; without any the horizon is horizon.samples."
            raise UsageError(f"config.horizon: {' and '.join(given)} are both set", hint)

    @property
    def unit(self) -> Literal["samples", "steps", "seconds", "flops"]:
        """What the horizon is counted in."""
        return "steps" if self.steps else "seconds" if self.seconds else "flops" if self.flops else "samples"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """When the validation metric is looked at; each look is on the clock."""

    every_samples: int = 50_000
    """Training samples between evaluations; the end of the horizon is always evaluated."""
    batch: int = 256
    """Samples that are evaluated at once; the metric is the same for any number, memory is not."""

    def __post_init__(self) -> None:
        for name in ("every_samples", "batch"):
            value = getattr(self, name)
            check(positive_int(value), f"evaluate.{name}", value, "a whole number >= 1")
