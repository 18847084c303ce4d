"""Settings of the model and of what computes it: precision, memory, compiler, regularization, process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoaccel.sections.checks import check, one_of, positive_int


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
class Memory:
    """What lies where between forward and backward; the mathematics stays the same."""

    format: Literal["contiguous", "channels_last"] = "contiguous"
    """Order of the values of images and convolution weights in memory; needs a convolution in the model."""
    checkpointing: Literal["none", "selective", "full"] = "none"
    """Blocks whose activations are computed again in backward (arXiv 1604.06174): every one, or every second."""
    budget: float = 1.0
    """Share of the activations that a compiled model may keep for backward; the compiler chooses what it computes
    again. Counted as one more forward pass, which it is at most."""
    offload: Literal["none", "host", "disk"] = "none"
    """Where activations wait for backward: host is for accelerators; disk is the temporary folder."""

    def __post_init__(self) -> None:
        one_of(("contiguous", "channels_last"), "memory.format", self.format)
        one_of(("none", "selective", "full"), "memory.checkpointing", self.checkpointing)
        check(0 <= self.budget <= 1, "memory.budget", self.budget, "between 0 and 1")
        one_of(("none", "host", "disk"), "memory.offload", self.offload)


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
