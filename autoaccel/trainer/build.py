"""Build time: a task's data on a device, and from a config the model, optimizer and loss of one training.

Techniques that change these parts enter here, in one written order. Must not run a step.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autoaccel.config import Optim, TrainerConfig
from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.trainer.data import Batch, SampleOrder, Split, load_split

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LoadedTask:
    """A task whose data is where the device can read it; shared by all trainings of a process."""

    task: Task
    device: torch.device
    train: Split
    validation: Split
    test: Split | None
    flops_per_sample: float = 0.0
    """Forward and backward of one training sample; 0 if not counted."""
    evaluation_flops: float = 0.0
    """One pass over the validation set; 0 if not counted."""
    own_loss: bool = False
    """The task's `step` computes the loss itself, so that no setting can change it."""


@dataclass(frozen=True)
class Parts:
    """What one training is made of."""

    config: TrainerConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    update: Callable[[], Any]
    """The optimizer's step."""
    loss: LossFunction
    evaluation_loss: LossFunction
    """The loss without label smoothing: what the metrics loss and perplexity are made of."""
    order: SampleOrder
    autocast: Callable[[], Any]


@dataclass(frozen=True)
class StepOutput:
    """One forward pass: outputs and targets for the metric, the mean loss, and over how many items it is the mean."""

    outputs: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor
    n: float


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    # Without check_available=True torch names `cuda` on machines that have none.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_data(task: Task, device: torch.device) -> LoadedTask:
    """Put all splits of a task where the device can read them. One UsageError holds the problems of all of them."""
    splits: dict[str, Split] = {}
    problems = []
    for name in ("train", "validation", "test"):
        if name == "test" and task.test is None:
            continue
        try:
            splits[name] = load_split(getattr(task, name), name, device)
        except UsageError as error:
            problems.append(error)
    if problems:
        raise combined(problems)
    return LoadedTask(task, device, splits["train"], splits["validation"], splits.get("test"))


def combined(problems: list[UsageError]) -> UsageError:
    """One error that says everything that is wrong, each with what to do."""
    if len(problems) == 1:
        return problems[0]
    lines = [f"{error.message}. {error.hint}" for error in problems]
    return UsageError(f"{len(problems)} problems\n  " + "\n  ".join(lines), "Fix them and run again.")


def build(loaded: LoadedTask, config: TrainerConfig) -> Parts:
    """Model, optimizer, loss and sample order of one training.

    Raises:
        UsageError: the config asks for something this task cannot have, or there is nothing to train.
    """
    smoothing = config.regularize.label_smoothing
    if smoothing and (loaded.task.loss != "cross_entropy" or loaded.own_loss):
        raise UsageError(
            f"regularize.label_smoothing {smoothing}: needs the cross_entropy loss, task {loaded.task.name!r} has its "
            "own",
            "Set it to 0.",
        )
    model = new_model(loaded.task).to(loaded.device)
    optimizer = _optimizer(model, config.optim, loaded.device)
    return Parts(
        config=config,
        model=model,
        optimizer=optimizer,
        update=partial(torch.no_grad()(inspect.unwrap(type(optimizer).step)), optimizer),  # see `spare_compiler`
        loss=_loss(loaded.task, smoothing),
        evaluation_loss=_loss(loaded.task, 0.0),
        order=SampleOrder(loaded.train, config.data, config.seed),
        autocast=_autocast(config, loaded.device),
    )


def new_model(task: Task) -> nn.Module:
    """A fresh model of the task; UsageError if it is no module or has nothing to train."""
    model = task.model()
    if not isinstance(model, nn.Module):
        raise UsageError(f"model() returned a {type(model).__name__}", "Return a torch.nn.Module.")
    parameters = list(model.parameters())
    if not parameters:
        raise UsageError("the model has no parameters", "Return a module with parameters to train.")
    if not any(p.requires_grad for p in parameters):
        raise UsageError(
            f"the model has no trainable parameters: all {len(parameters)} have requires_grad=False",
            "Leave some of them unfrozen.",
        )
    return model


def forward(task: Task, model: nn.Module, loss: LossFunction, batch: Batch) -> StepOutput:
    """One forward pass and its loss, through the task's `step` if it has one."""
    if task.step is not None:
        found = task.step(model, batch)
        outputs, targets = found["outputs"], found["targets"]
        own = found["loss"] if "loss" in found else loss(outputs, targets)
        return StepOutput(outputs, targets, own, float(found.get("n", len(targets))))
    inputs, targets = batch
    outputs = model(inputs)
    return StepOutput(outputs, targets, loss(outputs, targets), float(len(targets)))


def classes_last(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class scores as (items, classes) and targets as (items,).

    Accepts (N, C) with (N,), (N, T, C) with (N, T), and torch's own (N, C, ...) with (N, ...).
    """
    if outputs.shape[:-1] == targets.shape:
        return outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
    return outputs.movedim(1, -1).reshape(-1, outputs.shape[1]), targets.reshape(-1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All random generators seeded, and put back afterwards: the caller's own draws are not disturbed."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # Without a list, torch forks the generators of all devices and warns that it does.
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def spare_compiler(*functions: Any) -> None:
    """Keep torch from importing its compiler for functions that it wraps only to exempt them from compilation.

    The first call of such a function, and every optimizer's wrapped step, imports torch._dynamo: 1.2 s of every process
    (Xeon, one core, torch 2.15, 2026-11-21). Here they are never called from compiled code, so each is its own exempt
    version. A torch that does not wrap them is left alone.
    """
    for function in functions:
        plain = getattr(function, "__wrapped__", None)
        if plain is not None and "torch._dynamo" not in sys.modules:
            vars(plain).setdefault("__dynamo_disable", plain)


def _optimizer(model: nn.Module, config: Optim, device: torch.device) -> torch.optim.Optimizer:
    kind = torch.optim.Optimizer
    spare_compiler(kind.add_param_group, kind.zero_grad, kind.state_dict, kind.load_state_dict)
    trainable = [p for p in model.parameters() if p.requires_grad]
    # Biases and norm scales are not decayed: they are few, and decay only shifts them.
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused kernels exist for CPU and CUDA; one AdamW step of 11M parameters took 10.5 ms instead of 43 ms on a CPU.
    fused = device.type in ("cpu", "cuda")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)


def _loss(task: Task, smoothing: float) -> LossFunction:
    if not isinstance(task.loss, str):
        return task.loss
    if task.loss == "cross_entropy":
        return lambda out, y: F.cross_entropy(*classes_last(_full(out), y), label_smoothing=smoothing)
    one_each = F.mse_loss if task.loss == "mse" else F.binary_cross_entropy_with_logits

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        outputs = _full(outputs)
        return one_each(outputs.reshape(targets.shape), targets.to(outputs.dtype))

    return loss


def _full(outputs: torch.Tensor) -> torch.Tensor:
    """Losses are computed in fp32: bf16 has 8 bits, too few for a logarithm or a mean."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def _autocast(config: TrainerConfig, device: torch.device) -> Callable[[], Any]:
    enabled = config.precision.dtype == "bf16"
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
