"""The sections of TrainerConfig: every setting of the trainer with its meaning and its range.

A field's dotted path (`optim.lr`) is its name everywhere. Each has an effect in the trainer. Must not know torch, the
task or other sections; what two settings exclude of each other stands in `config`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from autoaccel.errors import UsageError


def check(ok: bool, path: str, value: object, allowed: str) -> None:
    """Refuse a value that a setting cannot have."""
    if not ok:
        raise UsageError(f"config.{path}: {value!r} is not {allowed}", f"Set {path} to {allowed}.")


def one_of(names: tuple[str, ...], path: str, value: object) -> None:
    """Refuse a value that is none of these names."""
    check(value in names, path, value, ", ".join(map(repr, names[:-1])) + f" or {names[-1]!r}")


def positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


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
        """Micro-batches of a step of `n` samples: a smaller step has fewer, not smaller ones."""
        return self.accumulation if n == self.size else math.ceil(n / self.micro)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Arithmetic of forward and backward; weights and optimizer state stay fp32."""

    dtype: Literal["fp32", "bf16", "fp16", "float8"] = "fp32"
    """bf16 and fp16 run forward and backward under autocast, fp16 with a scaled loss (arXiv 1710.03740); float8
    multiplies in linear layers with 8 bits (arXiv 2209.05433) and does the rest in bf16."""
    matmul: Literal["highest", "high", "medium"] = "highest"
    """How exact products of fp32 matrices are: high may use TF32, medium bf16 inside."""

    def __post_init__(self) -> None:
        one_of(("fp32", "bf16", "fp16", "float8"), "precision.dtype", self.dtype)
        one_of(("highest", "high", "medium"), "precision.matmul", self.matmul)


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
class Data:
    """Which samples a batch is made of."""

    sampling: Literal["uniform", "class_balanced", "importance", "infobatch", "selective"] = "uniform"
    """uniform: every sample once per epoch. class_balanced: every class equally often, with replacement. importance:
    from the second epoch on by the last loss, weighted so that the mean gradient stays (arXiv 1803.00942). infobatch:
    every epoch leaves out some of the samples whose last loss is below the mean (arXiv 2303.04947). selective: a step
    looks at more samples than it trains on and takes those with the largest losses (arXiv 1910.00762)."""
    prune: float = 0.5
    """infobatch: share of the samples with a loss below the mean that is left out; the others weigh more for it."""
    prune_until: float = 0.875
    """infobatch: share of the horizon from which nothing is left out any more."""
    keep: float = 0.5
    """selective: share of the samples looked at that is trained on."""
    keep_from: float = 0.5
    """selective: share of the horizon at which choosing begins."""
    keep_until: float = 0.9
    """selective: share of the horizon at which it ends."""
    order: Literal["shuffled", "easy_to_hard"] = "shuffled"
    """easy_to_hard: from the second epoch on, a growing part of the samples, by their last loss (arXiv 1904.03626)."""
    order_until: float = 0.5
    """easy_to_hard: share of the horizon from which all samples are drawn again."""

    repeats: int = 1
    """How often each sample that is drawn occurs in its batch; only augmentation tells the copies apart (arXiv
    1901.09335)."""
    echo: int = 1
    """Consecutive steps that use a batch once it was read (arXiv 1907.05550)."""

    def __post_init__(self) -> None:
        names = ("uniform", "class_balanced", "importance", "infobatch", "selective")
        one_of(names, "data.sampling", self.sampling)
        check(0 < self.prune <= 0.9, "data.prune", self.prune, "above 0 and at most 0.9")
        check(0 < self.prune_until <= 1, "data.prune_until", self.prune_until, "above 0 and at most 1")
        check(0.1 <= self.keep < 1, "data.keep", self.keep, "at least 0.1 and below 1")
        check(0 <= self.keep_from < 1, "data.keep_from", self.keep_from, "between 0 and 1, 1 excluded")
        ok = self.keep_from < self.keep_until <= 1
        check(ok, "data.keep_until", self.keep_until, f"above data.keep_from ({self.keep_from:g}) and at most 1")
        one_of(("shuffled", "easy_to_hard"), "data.order", self.order)
        check(0 < self.order_until <= 1, "data.order_until", self.order_until, "above 0 and at most 1")
        check(positive_int(self.repeats), "data.repeats", self.repeats, "a whole number >= 1")
        check(positive_int(self.echo), "data.echo", self.echo, "a whole number >= 1")

    @property
    def known_ahead(self) -> bool:
        """Whether the samples of all steps follow from the seed alone, not from what the training finds."""
        return self.sampling in ("uniform", "class_balanced") and self.order == "shuffled"


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How samples that do not fit on the device, or are augmented when they are read, get there."""

    workers: int = 0
    """Processes that read samples ahead of the training; 0: it reads them itself."""
    prefetch: int = 2
    """Batches that every worker is ahead."""
    pin: bool = False
    """Workers put batches into page-locked memory, from where they are copied while the device computes."""

    def __post_init__(self) -> None:
        workers_ok = self.workers == 0 or positive_int(self.workers)
        check(workers_ok, "loader.workers", self.workers, "a whole number >= 0")
        check(positive_int(self.prefetch), "loader.prefetch", self.prefetch, "a whole number >= 1")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is changed in the images of a batch, on the device, before the model sees them."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirrored left to right: at random, or every other epoch (arXiv 2404.00498)."""
    translate: int = 0
    """Shifted by up to so many pixels, the edges mirrored."""
    cutout: int = 0
    """Side in pixels of one square that is blanked (arXiv 1708.04552)."""
    policy: Literal["none", "trivial", "rand"] = "none"
    """Random operations: TrivialAugment (arXiv 2103.10158) or RandAugment with two of them (arXiv 1909.13719)."""
    level: int = 9
    """Strength of RandAugment's operations, 1 to 30."""
    mixup: float = 0.0
    """Alpha of the weights with which pairs are mixed (arXiv 1710.09412); 0: not."""
    cutmix: float = 0.0
    """Alpha of the share that is pasted in from another image (arXiv 1905.04899); 0: not. With both, one a batch."""

    def __post_init__(self) -> None:
        flips, policies = ("none", "random", "alternating"), ("none", "trivial", "rand")
        check(self.flip in flips, "augment.flip", self.flip, "'none', 'random' or 'alternating'")
        for name in ("translate", "cutout"):
            value = getattr(self, name)
            check(value == 0 or positive_int(value), f"augment.{name}", value, "a whole number of pixels >= 0")
        check(self.policy in policies, "augment.policy", self.policy, "'none', 'trivial' or 'rand'")
        check(positive_int(self.level) and self.level <= 30, "augment.level", self.level, "a whole number from 1 to 30")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            check(0 <= value < math.inf, f"augment.{name}", value, "a finite number >= 0")


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Samples that are smaller early in the training."""

    resolution: float = 1.0
    """Side of the first images as a share of the full one (progressive resizing, arXiv 2104.00298); 1: always full."""
    sequence: float = 1.0
    """Length of the first sequences as a share of the full one (arXiv 2108.06084); 1: full throughout."""
    until: float = 0.6
    """Share of the horizon from which samples are full."""

    def __post_init__(self) -> None:
        for name in ("resolution", "sequence"):
            value = getattr(self, name)
            check(0.1 <= value <= 1, f"curriculum.{name}", value, "between 0.1 and 1")
        check(0 < self.until <= 1, "curriculum.until", self.until, "between 0 and 1, 0 excluded")


@dataclass(frozen=True, kw_only=True)
class Regularize:
    """What keeps the model from fitting noise."""

    objective: Literal["task", "binary_cross_entropy"] = "task"
    """What is minimised. task: the task's loss; binary_cross_entropy: each class against the rest, summed over classes
    (arXiv 2110.00476), in place of the cross-entropy loss. Evaluations keep the task's."""
    label_smoothing: float = 0.0
    """Share of the target mass spread over all classes; needs the cross-entropy loss."""
    dropout: float = -1.0
    """Probability of all dropout in the model, layers and timm's drop_rate; -1: the model's own."""

    def __post_init__(self) -> None:
        objectives = ("task", "binary_cross_entropy")
        check(self.objective in objectives, "regularize.objective", self.objective, "'task' or 'binary_cross_entropy'")
        ok = 0 <= self.label_smoothing < 1
        check(ok, "regularize.label_smoothing", self.label_smoothing, "between 0 and 1, 1 excluded")
        ok = self.dropout == -1 or 0 <= self.dropout < 1
        check(ok, "regularize.dropout", self.dropout, "-1 (the model's own), or between 0 and 1, 1 excluded")


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

    def __post_init__(self) -> None:
        ok = positive_int(self.every_samples)
        check(ok, "evaluate.every_samples", self.every_samples, "a whole number >= 1")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What lies where between forward and backward; the mathematics stays the same."""

    format: Literal["contiguous", "channels_last"] = "contiguous"
    """Order of the values of images and convolution weights in memory; needs a convolution in the model."""
    checkpointing: Literal["none", "selective", "full"] = "none"
    """Blocks whose activations are computed again in backward (arXiv 1604.06174): every one, or every second."""
    offload: Literal["none", "host", "disk"] = "none"
    """Where activations wait for backward: host is for accelerators; disk is the temporary folder."""

    def __post_init__(self) -> None:
        one_of(("contiguous", "channels_last"), "memory.format", self.format)
        one_of(("none", "selective", "full"), "memory.checkpointing", self.checkpointing)
        one_of(("none", "host", "disk"), "memory.offload", self.offload)


@dataclass(frozen=True, kw_only=True)
class Compile:
    """Whether the model is compiled."""

    mode: Literal["off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "off"
    """torch.compile's mode. Compiling is on the training's clock; what it generates is kept for later trainings."""

    def __post_init__(self) -> None:
        names = ("off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
        one_of(names, "compile.mode", self.mode)


@dataclass(frozen=True, kw_only=True)
class System:
    """Settings of the process while a training runs."""

    threads: int = 0
    """Threads of one operation on the CPU; 0 leaves the number as it is."""
    cudnn_benchmark: bool = False
    """Whether cuDNN tries its convolutions on each new shape and keeps the fastest; needs a CUDA device."""
    attention: Literal["auto", "flash", "efficient", "math", "cudnn"] = "auto"
    """The kernel of scaled dot-product attention (arXiv 2205.14135); auto leaves the choice to torch."""

    def __post_init__(self) -> None:
        check(self.threads == 0 or positive_int(self.threads), "system.threads", self.threads, "a whole number >= 0")
        ok = isinstance(self.cudnn_benchmark, bool)
        check(ok, "system.cudnn_benchmark", self.cudnn_benchmark, "true or false")
        one_of(("auto", "flash", "efficient", "math", "cudnn"), "system.attention", self.attention)


@dataclass(frozen=True, kw_only=True)
class Model:
    """How the model starts, and which parts of it learn when."""

    init: Literal["default", "zero_residual", "whitening"] = "default"
    """zero_residual: residual branches end at zero (arXiv 1706.02677); whitening: the first convolution decorrelates
    its input patches and stays so (arXiv 2404.00498)."""
    freeze: float = 0.0
    """Share of the layers, from the input on, that no longer learn at the end; begun at half of the horizon, in four
    stages (arXiv 1706.04983)."""
    drop_path: float = -1.0
    """Probability of leaving out the residual branches of the last block, rising up to it (arXiv 1603.09382); -1: the
    model's own."""
    drop_path_ramp: float = 0.0
    """Share of the horizon over which drop_path grows to its value."""
    lora_rank: int = 0
    """Rank of adapters that are trained instead of the linear layers (arXiv 2106.09685); 0: none. For fine-tuning."""

    def __post_init__(self) -> None:
        one_of(("default", "zero_residual", "whitening"), "model.init", self.init)
        check(0 <= self.freeze < 1, "model.freeze", self.freeze, "between 0 and 1, 1 excluded")
        ok = self.drop_path == -1 or 0 <= self.drop_path < 1
        check(ok, "model.drop_path", self.drop_path, "-1 (the model's own), or between 0 and 1, 1 excluded")
        check(0 <= self.drop_path_ramp <= 1, "model.drop_path_ramp", self.drop_path_ramp, "between 0 and 1")
        ok = self.lora_rank == 0 or positive_int(self.lora_rank)
        check(ok, "model.lora_rank", self.lora_rank, "a whole number >= 0")
