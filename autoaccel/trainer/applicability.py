"""What a task, its data, its model or the device cannot use, and why: read before a search and at build time.

Conflicts between settings stand in `sections.conflicts`; here is what a config alone does not show. Must not know
search spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autoaccel.config import TrainerConfig, to_params
from autoaccel.errors import UsageError
from autoaccel.hardware.profile import usable_cores
from autoaccel.tasks.load import describe
from autoaccel.trainer.look import look
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.prepare import images_of, takes_shorter, takes_smaller
from autoaccel.trainer.team import too_few_devices
from autoaccel.trainer.techniques import (
    adapters,
    attention,
    compilation,
    dropping,
    freezing,
    initialization,
    memory_format,
    offload,
    precision,
    recompute,
)
from autoaccel.trainer.techniques.optimizers import FUSED_DEVICES


@dataclass(frozen=True)
class Need:
    """What some values of a setting need of the task, the data or the device."""

    path: str
    off: Any
    """The value that needs nothing."""
    why_not: Callable[[LoadedTask], str]
    """Why this task cannot have it; empty if it can."""
    values: Sequence[Any] | None = None
    """The values that need it; None: all but `off`."""

    def concerns(self, value: Any) -> bool:
        return value in self.values if self.values is not None else value != self.off


def _no_class_labels(loaded: LoadedTask) -> str:
    return "" if loaded.train.labels is not None else "it needs one integer label per sample"


def _no_cross_entropy(loaded: LoadedTask) -> str:
    own = loaded.task.loss != "cross_entropy" or loaded.own_loss
    return "it needs the cross_entropy loss, the task has its own" if own else ""


def _is_resident(loaded: LoadedTask) -> str:
    return "" if loaded.train.tensors is None else "the data are in memory already: there is nothing to read"


def _no_images(loaded: LoadedTask) -> str:
    return "" if images_of(loaded) is not None else "it needs images as inputs"


def _no_bytes(loaded: LoadedTask) -> str:
    images = images_of(loaded)
    if images is None:
        return _no_images(loaded)
    return "" if images.dtype == torch.uint8 else f"its operations need uint8 images, these are {images.dtype}"


def _no_mixing(loaded: LoadedTask) -> str:
    return _no_images(loaded) or _no_cross_entropy(loaded) or _no_class_labels(loaded)


def _no_fused_kernels(loaded: LoadedTask) -> str:
    ok = loaded.device.type in FUSED_DEVICES
    return "" if ok else f"there are fused kernels on {' and '.join(FUSED_DEVICES)} only"


def _no_compiled_optimizer(loaded: LoadedTask) -> str:
    # On 2 CPU cores its kernels took a minute to compile, and without that an update two hundred times its usual time.
    return "" if loaded.device.type == "cuda" else "8-bit optimizer states are worth their time on CUDA only"


def _no_loss_of_each(loaded: LoadedTask) -> str:
    if not isinstance(loaded.task.loss, str) or loaded.own_loss:
        return "it needs the loss of every sample, the task has a loss of its own"
    return "" if loaded.row_per_sample else "it needs the loss of every sample, the task's step gives no row for each"


def _too_few_cores(n: int, loaded: LoadedTask) -> str:
    if loaded.device.type != "cpu":
        return f"the {loaded.device.type} device computes, not threads"
    cores = usable_cores()
    return "" if n <= cores else f"there {'is' if cores == 1 else 'are'} {cores} core{'s' * (cores > 1)} for it"


def _too_few_devices(n: int, loaded: LoadedTask) -> str:
    return too_few_devices(n, loaded.device)


def _no_tensor_plan(loaded: LoadedTask) -> str:
    return "" if loaded.task.plan and loaded.task.plan.tensor else "the task has no plan of which matrices are cut"


def _no_stages(loaded: LoadedTask) -> str:
    if loaded.task.plan is None or loaded.task.plan.stages is None:
        return "the task has no plan of stages"
    return "" if loaded.task.step is None else "stages take inputs and targets, the task has a step of its own"


def _has_weights(loaded: LoadedTask) -> str:
    return "" if loaded.weights is None else "the task starts from weights that were trained before, it would undo them"


def _no_cuda(loaded: LoadedTask) -> str:
    return "" if loaded.device.type == "cuda" else "it needs a CUDA device"


def _tried(why_not: Callable[[LoadedTask, nn.Module], str], model: nn.Module) -> Callable[[LoadedTask], str]:
    """The reason that is found by running a model; that it cannot be run so is one, too."""

    def reason(loaded: LoadedTask) -> str:
        try:
            return why_not(loaded, model)
        except Exception as error:  # the user's model, in evaluation mode
            return f"trying the model out failed: {describe(error)}"

    return reason


def _no_attention(loaded: LoadedTask, model: nn.Module) -> str:
    with attention.AttentionCalls() as calls:
        look(loaded, model)
    return "" if calls.seen else "the model does not call torch's scaled dot-product attention"


def _kernel(name: str) -> Need:
    return Need("system.attention", "auto", lambda loaded: attention.no_kernel(loaded.device, name), (name,))


THREADS = (2, 4, 8, 16, 32)
"""Numbers that a search may try."""
PROCESSES = (4, 8, 16, 32, 64)
"""Of one training, that a search may try; two in any case."""
NEEDS: tuple[Need, ...] = (
    Need("loader.workers", 0, _is_resident),
    Need("loader.pin", False, _no_cuda),
    Need("optim.kernel", "auto", _no_fused_kernels, ("fused",)),
    Need("optim.state", "fp32", _no_compiled_optimizer),
    Need("data.sampling", "uniform", _no_class_labels, ("class_balanced",)),
    Need("augment.flip", "none", _no_images),
    Need("augment.translate", 0, _no_images),
    Need("augment.cutout", 0, _no_images),
    Need("augment.policy", "none", _no_bytes),
    Need("augment.mixup", 0.0, _no_mixing),
    Need("augment.cutmix", 0.0, _no_mixing),
    Need("data.sampling", "uniform", _no_loss_of_each, ("importance", "infobatch", "selective")),
    Need("regularize.objective", "task", _no_cross_entropy),
    Need("data.echo", 1, _is_resident),
    Need("data.order", "shuffled", _no_loss_of_each),
    Need("regularize.label_smoothing", 0.0, _no_cross_entropy),
    Need("precision.dtype", "fp32", lambda loaded: precision.no_float8(loaded.device), ("float8",)),
    Need("precision.matmul", "highest", lambda loaded: precision.same_products(loaded.device, "high"), ("high",)),
    Need("precision.matmul", "highest", lambda loaded: precision.same_products(loaded.device, "medium"), ("medium",)),
    Need("memory.offload", "none", lambda loaded: offload.no_other_memory(loaded.device), ("host",)),
    Need("compile.mode", "off", lambda loaded: compilation.no_compiler(loaded.device)),
    Need("compile.mode", "off", lambda loaded: compilation.no_cuda_graphs(loaded.device), compilation.CUDA_GRAPHS),
    Need("system.cudnn_benchmark", False, _no_cuda),
    Need("model.init", "default", _has_weights),
    Need("model.lora_rank", 0, lambda _: adapters.no_peft()),
    Need("parallel.strategy", "none", _no_tensor_plan, ("tensor",)),
    Need("parallel.strategy", "none", _no_stages, ("pipeline",)),
    *(_kernel(name) for name in attention.KERNELS),
)


SEARCHED: tuple[Need, ...] = (
    *(Need("system.threads", 0, partial(_too_few_cores, n), (n,)) for n in THREADS),
    Need("parallel.strategy", "none", partial(_too_few_devices, 2)),
    *(Need("parallel.n_processes", 2, partial(_too_few_devices, n), (n,)) for n in PROCESSES),
)
"""What a search should not try; a config that asks for it is trained all the same."""


def model_needs(model: nn.Module) -> tuple[Need, ...]:
    """What settings need of a model; it is tried, and left as it was.

    Args:
        model: fresh, as the task makes it, on the device.
    """
    return (
        Need("curriculum.resolution", 1.0, _tried(takes_smaller, model)),
        Need("curriculum.sequence", 1.0, _tried(takes_shorter, model)),
        Need("precision.dtype", "fp32", lambda _: precision.no_float8_layers(model), ("float8",)),
        Need("memory.format", "contiguous", lambda _: memory_format.no_convolution(model)),
        Need("memory.checkpointing", "none", lambda _: recompute.no_blocks(model)),
        Need("system.attention", "auto", _tried(_no_attention, model)),
        Need("model.init", "default", _tried(initialization.no_residual, model), ("zero_residual",)),
        Need("model.init", "default", _tried(initialization.no_whitening, model), ("whitening",)),
        Need("model.freeze", 0.0, lambda _: freezing.no_layers(model)),
        Need("model.drop_path", -1.0, _tried(dropping.no_paths, model)),
        Need("model.lora_rank", 0, lambda _: adapters.no_linear_layers(model)),
        Need("regularize.dropout", -1.0, _tried(dropping.no_dropout, model)),
    )


def _config_needs(config: TrainerConfig) -> tuple[Need, ...]:
    """What settings need of the device together."""
    kernel, dtype = config.system.attention, config.precision.dtype
    devices = Need("parallel.strategy", "none", partial(_too_few_devices, config.parallel.n))
    return (
        devices,
        Need("system.attention", "auto", lambda loaded: attention.no_kernel(loaded.device, kernel, dtype)),
    )


def unavailable(loaded: LoadedTask, model: nn.Module) -> list[dict[str, Any]]:
    """Plain rows {path, off, values or None, reason} of everything this task cannot use. `model`: see `model_needs`."""
    rows = [(need, need.why_not(loaded)) for need in (*NEEDS, *SEARCHED, *model_needs(model))]
    return [
        {"path": need.path, "off": need.off, "values": list(need.values) if need.values else None, "reason": reason}
        for need, reason in rows
        if reason
    ]


def refuse(loaded: LoadedTask, config: TrainerConfig, model: nn.Module) -> None:
    """UsageError with everything in a config that this task cannot use. `model`: see `model_needs`."""
    params = to_params(config)
    found = [
        (f"{need.path} {params[need.path]!r}: {reason}", f"Set {need.path} to {need.off!r}.")
        for need in (*NEEDS, *model_needs(model), *_config_needs(config))
        if need.concerns(params[need.path]) and (reason := need.why_not(loaded))
    ]
    if found:
        texts, hints = (dict.fromkeys(column) for column in zip(*found, strict=True))
        raise UsageError("\n  ".join(texts), " ".join(hints))
