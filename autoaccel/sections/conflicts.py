"""Settings that exclude each other, of all sections: each pair with the reason and what to do.

What a task, a model or a machine cannot use stands in `trainer.applicability`. Must not know how settings are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoaccel.sections.optimization import KERNELS


@dataclass(frozen=True)
class Conflict:
    """Settings that exclude each other."""

    holds: Callable[[Any], bool]
    """Of a `TrainerConfig`."""
    reason: str
    """Begins with a path and names all settings that take part."""
    hint: str


ELEMENTWISE = ("adamw", "sgd", "nadam", "lion")
"""Optimizers that move every weight by itself."""

WHOLE_MODEL: tuple[tuple[str, Any, Callable[[Any], bool], str], ...] = (
    ("optim.name", "adamw", lambda c: c.optim.name not in ELEMENTWISE, "it reads whole matrices, or keeps a copy"),
    ("optim.kernel", "auto", lambda c: c.optim.kernel != "auto", "there is one kernel for parts of matrices"),
    ("optim.state", "fp32", lambda c: c.optim.state != "fp32", "8-bit states hold whole matrices"),
    ("optim.sam_rho", 0.0, lambda c: c.optim.sam_rho > 0, "its steps need the norm of all gradients"),
    ("average.name", "none", lambda c: c.average.name != "none", "averages are of whole models"),
    ("precision.dtype", "bf16", lambda c: c.precision.dtype in ("fp16", "float8"), "it scales what one process has"),
    ("model.lora_rank", 0, lambda c: c.model.lora_rank > 0, "adapters replace whole layers"),
    ("compile.mode", "off", lambda c: c.compile.mode != "off", "compiling whole models does not go"),
    ("memory.format", "contiguous", lambda c: c.memory.format != "contiguous", "parts of kernels are contiguous"),
    ("memory.offload", "none", lambda c: c.memory.offload != "none", "activations stay on their device"),
)
"""What needs the whole model in one process: path, the value without it, when it holds, why."""


def smallest_step(config: Any) -> int:
    """Samples of the smallest step of a training."""
    size: int = config.batch.size
    return max(1, size // 4) if config.batch.ramp > 0 else size


def _needs_whole_model(path: str, value: Any, holds: Callable[[Any], bool], why: str) -> Conflict:
    return Conflict(
        lambda c: c.parallel.splits_model and holds(c),
        f"{path}: {why} with a parallel.strategy that splits the model",
        f"Set {path} to {value!r}, or parallel.strategy to 'ddp'.",
    )


CONFLICTS: tuple[Conflict, ...] = (
    Conflict(
        lambda c: c.data.order != "shuffled" and c.data.sampling != "uniform",
        "data.order easy_to_hard and data.sampling both decide which samples are drawn",
        "Set data.sampling to uniform, or data.order to shuffled.",
    ),
    Conflict(
        lambda c: c.loader.pin and not c.loader.workers,
        "loader.pin needs loader.workers: only they can copy into page-locked memory ahead of the training",
        "Set loader.workers to 1 or more, or loader.pin to false.",
    ),
    Conflict(
        lambda c: bool(c.loader.workers) and not c.data.known_ahead,
        "loader.workers: what this data.sampling or data.order draws next depends on losses, nobody can read it ahead",
        "Set loader.workers to 0.",
    ),
    Conflict(
        lambda c: bool(c.augment.mixup or c.augment.cutmix) and not c.data.known_ahead,
        "augment.mixup, augment.cutmix: data.sampling or data.order learns from the losses of single samples",
        "Set both to 0, or data.sampling to 'uniform'.",
    ),
    Conflict(
        lambda c: c.curriculum.resolution < 1 and c.curriculum.sequence < 1,
        "curriculum.resolution and curriculum.sequence: samples are images or sequences, not both",
        "Set one of them to 1.",
    ),
    Conflict(
        lambda c: bool(c.steps_vary and c.loader.workers and c.horizon.unit != "samples"),
        "loader.workers with batch.ramp or curriculum.batch 'larger' need a horizon in samples: else nobody knows "
        "ahead how large a step will be",
        "Set horizon.samples alone, or loader.workers to 0, or batch.ramp to 0 and curriculum.batch to 'same'.",
    ),
    Conflict(
        lambda c: c.optim.kernel not in ("auto", *KERNELS[c.optim.name]),
        "optim.kernel: this optim.name has no such kernel",
        "Set optim.kernel to 'auto'.",
    ),
    Conflict(
        lambda c: c.optim.state == "int8" and (c.optim.name, c.optim.kernel) != ("adamw", "auto"),
        "optim.state: 8-bit states are those of optim.name 'adamw' with optim.kernel 'auto'",
        "Set optim.state to 'fp32'.",
    ),
    Conflict(
        lambda c: c.optim.is_schedule_free and c.schedule.name != "constant",
        "schedule.name: a schedule-free optim.name averages instead of following a schedule",
        "Set schedule.name to 'constant'; schedule.warmup may stay.",
    ),
    Conflict(
        lambda c: c.optim.is_schedule_free and c.average.name != "none",
        "average.name: a schedule-free optim.name averages the weights itself",
        "Set average.name to 'none'.",
    ),
    Conflict(
        lambda c: c.schedule.name == "wsd" and c.schedule.warmup + c.schedule.cooldown > 1,
        "schedule.cooldown: with schedule.warmup it is longer than the whole horizon",
        "Make their sum at most 1.",
    ),
    Conflict(
        lambda c: c.schedule.name == "one_cycle" and c.optim.state == "int8",
        "schedule.name: 'one_cycle' moves the momentum, for which 8-bit optim.state would be compiled anew each step",
        "Set schedule.name to 'cosine', or optim.state to 'fp32'.",
    ),
    Conflict(
        lambda c: c.data.echo > 1 and not c.data.known_ahead,
        "data.echo uses a batch again, but data.sampling or data.order changes what is drawn by what was learned of it",
        "Set data.echo to 1, or data.sampling to uniform and data.order to shuffled.",
    ),
    Conflict(
        lambda c: c.data.echo > 1 and c.steps_vary,
        "data.echo repeats a batch in several steps, which batch.ramp or curriculum.batch makes of different sizes",
        "Set data.echo to 1, or batch.ramp to 0 and curriculum.batch to 'same'.",
    ),
    Conflict(
        lambda c: c.curriculum.batch == "larger" and c.curriculum.resolution == 1 == c.curriculum.sequence,
        "curriculum.batch 'larger' has nothing to follow: curriculum.resolution and curriculum.sequence are 1",
        "Set one of them below 1, or curriculum.batch to 'same'.",
    ),
    Conflict(
        lambda c: c.memory.budget < 1 and c.compile.mode == "off",
        "memory.budget is kept to by the compiler, and compile.mode is 'off'",
        "Set compile.mode, or memory.checkpointing instead.",
    ),
    Conflict(
        lambda c: c.memory.budget < 1 and c.memory.checkpointing != "none",
        "memory.budget and memory.checkpointing both decide what is computed again",
        "Use one of the two.",
    ),
    Conflict(
        lambda c: c.model.drop_path_ramp > 0 and c.model.drop_path <= 0,
        "model.drop_path_ramp has nothing to ramp: model.drop_path is not above 0",
        "Set model.drop_path, or leave the ramp out.",
    ),
    Conflict(
        lambda c: c.model.drop_path_ramp > 0 and c.compile.mode != "off",
        "model.drop_path_ramp changes the model at every step, and compile.mode would compile it as often",
        "Use one of the two.",
    ),
    Conflict(
        lambda c: c.model.lora_rank > 0 and c.model.init != "default",
        "model.lora_rank keeps the weights the model starts with, model.init changes them",
        "Use one of the two.",
    ),
    Conflict(
        lambda c: c.model.lora_rank > 0 and c.precision.dtype == "float8",
        "model.lora_rank and precision.dtype 'float8' replace the same layers",
        "Use one of the two.",
    ),
    Conflict(
        lambda c: c.parallel.splits_batches and smallest_step(c) < c.parallel.n_processes,
        "parallel.n_processes: the smallest steps of this batch.size and batch.ramp have fewer samples than processes",
        "Set batch.size larger, or parallel.n_processes smaller.",
    ),
    Conflict(
        lambda c: c.parallel.n > 1 and not c.data.known_ahead,
        "parallel.strategy: what this data.sampling or data.order draws depends on losses, of which each process has "
        "a part",
        "Set data.sampling to 'uniform' and data.order to 'shuffled', or parallel.strategy to 'none'.",
    ),
    Conflict(
        lambda c: c.parallel.n > 1 and c.model.freeze > 0,
        "parallel.strategy: processes wait for the gradients of all layers, and model.freeze ends some of them",
        "Set model.freeze to 0, or parallel.strategy to 'none'.",
    ),
    *(_needs_whole_model(*row) for row in WHOLE_MODEL),
    Conflict(
        lambda c: c.parallel.strategy in ("tensor", "pipeline") and c.optim.clip > 0,
        "optim.clip: no process has the norm of all gradients with this parallel.strategy",
        "Set optim.clip to 0, or parallel.strategy to 'fsdp2'.",
    ),
    Conflict(
        lambda c: c.parallel.strategy == "pipeline" and (c.steps_vary or c.curriculum.resolution != 1),
        "parallel.strategy 'pipeline' hands on pieces of one shape, which batch.ramp and curriculum change",
        "Set batch.ramp to 0 and curriculum.resolution to 1, or another parallel.strategy.",
    ),
    Conflict(
        lambda c: c.parallel.strategy == "pipeline" and c.curriculum.sequence < 1,
        "parallel.strategy 'pipeline' hands on pieces of one shape, which curriculum.sequence changes",
        "Set curriculum.sequence to 1, or another parallel.strategy.",
    ),
    Conflict(
        lambda c: c.parallel.offload != "none" and c.parallel.strategy != "fsdp2",
        "parallel.offload is a part of parallel.strategy 'fsdp2'",
        "Set parallel.offload to 'none', or parallel.strategy to 'fsdp2'.",
    ),
)
"""Every pair that excludes each other; what a task or a machine cannot use stands in `trainer.applicability`."""
