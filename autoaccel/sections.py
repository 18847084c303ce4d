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

    def __post_init__(self) -> None:
        check(positive_int(self.size), "batch.size", self.size, "a whole number >= 1")
        ok = positive_int(self.accumulation) and self.accumulation <= self.size
        check(ok, "batch.accumulation", self.accumulation, f"a whole number from 1 to batch.size ({self.size})")

    @property
    def micro(self) -> int:
        """Samples in the largest micro-batch."""
        return math.ceil(self.size / self.accumulation)


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


@dataclass(frozen=True, kw_only=True)
class Optim:
    """The optimizer and its constants."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw: decoupled weight decay (arXiv 1711.05101); sgd: with Nesterov momentum."""
    lr: float = 1e-3
    """Peak learning rate, reached after the warm-up."""
    weight_decay: float = 0.0
    """Decay of the weights per step, times the learning rate; biases and norms are exempt."""
    momentum: float = 0.9
    """Nesterov momentum of sgd; first beta of adamw."""

    def __post_init__(self) -> None:
        check(self.name in ("adamw", "sgd"), "optim.name", self.name, "'adamw' or 'sgd'")
        check(0 < self.lr < math.inf, "optim.lr", self.lr, "a finite number > 0")
        check(0 <= self.weight_decay < math.inf, "optim.weight_decay", self.weight_decay, "a finite number >= 0")
        check(0 < self.momentum < 1, "optim.momentum", self.momentum, "between 0 and 1, exclusive")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a function of progress through the horizon."""

    name: Literal["linear", "cosine", "constant"] = "constant"
    """linear and cosine end at zero at the horizon (arXiv 1905.04753)."""
    warmup: float = 0.0
    """Share of the horizon over which the learning rate rises linearly from zero."""

    def __post_init__(self) -> None:
        names = ("linear", "cosine", "constant")
        check(self.name in names, "schedule.name", self.name, "'linear', 'cosine' or 'constant'")
        check(0 <= self.warmup <= 0.9, "schedule.warmup", self.warmup, "between 0 and 0.9")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which samples a batch is made of."""

    sampling: Literal["uniform", "class_balanced"] = "uniform"
    """uniform: every sample once per epoch; class_balanced: every class equally often, with replacement."""

    def __post_init__(self) -> None:
        names = ("uniform", "class_balanced")
        check(self.sampling in names, "data.sampling", self.sampling, "'uniform' or 'class_balanced'")


@dataclass(frozen=True, kw_only=True)
class Regularize:
    """What keeps the model from fitting noise."""

    label_smoothing: float = 0.0
    """Share of the target mass spread over all classes; needs the cross-entropy loss."""
    dropout: float = -1.0
    """Probability of all dropout in the model, layers and timm's drop_rate; -1: the model's own."""

    def __post_init__(self) -> None:
        ok = 0 <= self.label_smoothing < 1
        check(ok, "regularize.label_smoothing", self.label_smoothing, "between 0 and 1, 1 excluded")
        ok = self.dropout == -1 or 0 <= self.dropout < 1
        check(ok, "regularize.dropout", self.dropout, "-1 (the model's own), or between 0 and 1, 1 excluded")


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
