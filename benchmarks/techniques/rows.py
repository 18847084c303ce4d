"""Every technique as a change of the baseline's settings, by family.

A literal table; must not know how it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Row:
    """One technique."""

    name: str
    family: str
    change: dict[str, Any]
    workload: Literal["images", "text"] = "images"
    beside: dict[str, Any] = field(default_factory=dict)
    """What the baseline of this row has too, because the technique is an addition to it."""


SGD = {"optim.name": "sgd", "optim.lr": 0.1, "optim.weight_decay": 5e-4}
ROWS: tuple[Row, ...] = (
    Row("random flip", "augmentation", {"augment.flip": "random"}),
    Row("alternating flip", "augmentation", {"augment.flip": "alternating"}),
    Row("translation by 2 pixels", "augmentation", {"augment.translate": 2}),
    Row("cutout of 8 pixels", "augmentation", {"augment.cutout": 8}),
    Row("TrivialAugment", "augmentation", {"augment.policy": "trivial"}),
    Row("RandAugment, level 9", "augmentation", {"augment.policy": "rand"}),
    Row("mixup 0.2", "augmentation", {"augment.mixup": 0.2}),
    Row("cutmix 1", "augmentation", {"augment.cutmix": 1.0}),
    Row("label smoothing 0.1", "regularization", {"regularize.label_smoothing": 0.1}),
    Row("stochastic depth 0.1", "regularization", {"model.drop_path": 0.1}),
    Row("dropout 0.1", "regularization", {"regularize.dropout": 0.1}, "text"),
    Row("progressive resizing from half the side", "curriculum", {"curriculum.resolution": 0.5}),
    Row(
        "progressive resizing, larger steps on smaller images",
        "curriculum",
        {"curriculum.resolution": 0.5, "curriculum.batch": "larger"},
    ),
    Row("sequence-length warm-up from a quarter", "curriculum", {"curriculum.sequence": 0.25}, "text"),
    Row("batch ramp over half of the training", "curriculum", {"batch.ramp": 0.5}),
    Row("easy to hard", "curriculum", {"data.order": "easy_to_hard"}),
    Row("class-balanced sampling", "sampling", {"data.sampling": "class_balanced"}),
    Row("importance sampling", "sampling", {"data.sampling": "importance"}),
    Row("InfoBatch, half pruned", "sampling", {"data.sampling": "infobatch", "data.prune": 0.5}),
    Row("selective backprop, half kept", "sampling", {"data.sampling": "selective", "data.keep": 0.5}),
    Row("repeated augmentation, twice", "sampling", {"data.repeats": 2}, beside={"augment.translate": 2}),
    Row("data echoing, twice", "data path", {"data.echo": 2}),
    Row("two loader workers", "data path", {"loader.workers": 2}),
    Row("pinned memory", "data path", {"loader.workers": 2, "loader.pin": True}),
    Row("cosine", "schedule", {"schedule.name": "cosine"}),
    Row("constant", "schedule", {"schedule.name": "constant"}),
    Row("REX", "schedule", {"schedule.name": "rex"}),
    Row("warm-up, stable, decay", "schedule", {"schedule.name": "wsd"}),
    Row("one-cycle", "schedule", {"schedule.name": "one_cycle", "schedule.warmup": 0.3}),
    Row("SGD with Nesterov momentum, 0.1", "optimizer", SGD),
    Row("NAdam, 3e-3", "optimizer", {"optim.name": "nadam"}),
    Row("Lion, 3e-4", "optimizer", {"optim.name": "lion", "optim.lr": 3e-4, "optim.weight_decay": 0.1}),
    Row("Muon, 1e-2", "optimizer", {"optim.name": "muon", "optim.lr": 1e-2, "optim.momentum": 0.95}),
    Row("LAMB, 1e-2", "optimizer", {"optim.name": "lamb", "optim.lr": 1e-2}),
    Row("LARS, 1", "optimizer", {"optim.name": "lars", "optim.lr": 1.0, "optim.weight_decay": 5e-4}),
    Row(
        "schedule-free AdamW, 1e-2",
        "optimizer",
        {"optim.name": "schedule_free_adamw", "optim.lr": 1e-2, "schedule.name": "constant"},
    ),
    Row(
        "schedule-free SGD, 2",
        "optimizer",
        {"optim.name": "schedule_free_sgd", "optim.lr": 2.0, "schedule.name": "constant", "optim.weight_decay": 5e-4},
    ),
    Row("foreach kernels", "optimizer", {"optim.kernel": "foreach"}),
    Row("8-bit states", "optimizer", {"optim.state": "int8"}),
    Row("gradient clipping at 1", "optimizer", {"optim.clip": 1.0}),
    Row("sharpness-aware, every step", "objective", {"optim.sam_rho": 0.05}),
    Row("sharpness-aware, every tenth step", "objective", {"optim.sam_rho": 0.5, "optim.sam_every": 10}),
    Row("binary cross-entropy", "objective", {"regularize.objective": "binary_cross_entropy"}),
    Row("EMA", "averaging", {"average.name": "ema", "average.half_life": 0.02}),
    Row("LAWA", "averaging", {"average.name": "lawa", "average.window": 0.1}),
    Row("SWA", "averaging", {"average.name": "swa", "average.window": 0.2}),
    Row("lookahead", "averaging", {"average.name": "lookahead"}),
    Row("bf16", "precision", {"precision.dtype": "bf16"}),
    Row("fp16", "precision", {"precision.dtype": "fp16"}),
    Row("float8", "precision", {"precision.dtype": "float8"}),
    Row("reduced fp32 products", "precision", {"precision.matmul": "high"}),
    Row("channels_last", "memory", {"memory.format": "channels_last"}),
    Row("accumulation of 2", "memory", {"batch.accumulation": 2}),
    Row("selective checkpointing", "memory", {"memory.checkpointing": "selective"}),
    Row("full checkpointing", "memory", {"memory.checkpointing": "full"}),
    Row("offload to the host", "memory", {"memory.offload": "host"}),
    Row("offload to disk", "memory", {"memory.offload": "disk"}),
    Row("compile", "compiler", {"compile.mode": "default"}),
    Row("compile, keeping half of the activations", "compiler", {"compile.mode": "default", "memory.budget": 0.5}),
    Row("compile with CUDA graphs", "compiler", {"compile.mode": "reduce-overhead"}),
    Row("zero-init residual", "model", {"model.init": "zero_residual"}),
    Row("whitening first convolution", "model", {"model.init": "whitening"}),
    Row("progressive freezing of half", "model", {"model.freeze": 0.5}),
    Row("low-rank adapters", "model", {"model.lora_rank": 8}, "text"),
    Row("cuDNN's trying", "system", {"system.cudnn_benchmark": True}),
    Row("flash attention", "system", {"system.attention": "flash"}, "text"),
    Row("math attention", "system", {"system.attention": "math"}, "text"),
    Row("two threads", "system", {"system.threads": 2}),
)
