"""Build time: a task's data on a device, and from a config the parts of one training.

Techniques that change these parts enter here, in one written order (`build`). Must not run a step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.trainer.applicability import refuse
from autoaccel.trainer.data import Batch, Split, load_split
from autoaccel.trainer.losses import loss_of
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask, Parts, Stateful
from autoaccel.trainer.techniques.echo import Held
from autoaccel.trainer.techniques.optimizers import new_optimizer


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
    """All parts of one training, in the order in which they depend on each other.

    Raises:
        UsageError: the config asks for something this task cannot have, or there is nothing to train.
    """
    refuse(loaded, config)
    # 1 The model.
    model = new_model(loaded.task).to(loaded.device)
    # 2 What it is trained on, and towards what.
    order = new_order(loaded.train, config.data, config.seed)
    fetch, state = _reading(loaded, config)
    loss = loss_of(loaded.task, config.regularize.label_smoothing)
    # 3 What trains it.
    optimizer = new_optimizer(model, config.optim, loaded.device)
    return Parts(
        config=config,
        model=model,
        optimizer=optimizer,
        loss=loss,
        evaluation_loss=loss_of(loaded.task),
        order=order,
        autocast=_autocast(config, loaded.device),
        update=_update(optimizer),
        fetch=fetch,
        state=state,
    )


def _reading(
    loaded: LoadedTask, config: TrainerConfig
) -> tuple[Callable[[torch.Tensor, int], Batch], tuple[tuple[str, Stateful], ...]]:
    """What reads training samples, and what of it a checkpoint has to hold."""

    def read(indices: torch.Tensor, _position: int) -> Batch:
        return loaded.train.take(indices)

    if config.data.echo == 1:
        return read, ()
    held = Held(read, loaded.device)
    return held, (("held batch", held),)


def _update(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    """From gradients to weights."""
    return partial(torch.no_grad()(inspect.unwrap(type(optimizer).step)), optimizer)  # see `spare_compiler`


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


def _autocast(config: TrainerConfig, device: torch.device) -> Callable[[], Any]:
    enabled = config.precision.dtype == "bf16"
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
