"""Build time: a task's data on a device, and from a config the parts of one training.

Techniques that change these parts enter here, in one written order (`build`). Must not run a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.trainer.applicability import refuse
from autoaccel.trainer.data import Split, load_split
from autoaccel.trainer.losses import forward, loss_of
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.prepare import n_classes_of, preparation
from autoaccel.trainer.schedule import share_done, step_size
from autoaccel.trainer.techniques.averaging import averaged, new_average
from autoaccel.trainer.techniques.batch_norm import layers_with_statistics, refreshed, refreshing_batches
from autoaccel.trainer.techniques.echo import Held
from autoaccel.trainer.techniques.loader import Ahead, Fetch, InOrder, Wanted, in_pieces
from autoaccel.trainer.techniques.optimizers import at_average, new_optimizer, update_of


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
    reading = _reading(loaded, config)
    prepare = preparation(loaded, config, lambda: n_classes_of(loaded, model))
    loss = loss_of(loaded.task, config.regularize)
    # 3 What trains it.
    optimizer = new_optimizer(model, config.optim, loaded.device)
    parts = Parts(
        config=config,
        model=model,
        optimizer=optimizer,
        loss=loss,
        evaluation_loss=loss_of(loaded.task),
        order=order,
        autocast=_autocast(config, loaded.device),
        update=update_of(model, optimizer, config.optim.clip),
        prepare=prepare,
        **reading,
    )
    # 4 What is evaluated.
    if config.optim.is_schedule_free:
        parts = replace(parts, for_evaluation=(partial(at_average, model, optimizer),))
    average = new_average(model, config.average)
    if average is not None:
        parts = replace(
            parts,
            after_step=(average.follow,),
            for_evaluation=(partial(averaged, model, average),),
            state=(*parts.state, ("average", average)),
        )
    return _with_fitting_statistics(loaded, parts) if parts.for_evaluation else parts


def _reading(loaded: LoadedTask, config: TrainerConfig) -> dict[str, Any]:
    """The parts that read data: here or in worker processes, each batch for one step or for several."""
    reading: dict[str, Any] = {"fetch": lambda indices, _position: loaded.train.take(indices)}
    if config.loader.workers:
        reading = _reading_ahead(loaded, config)
    if config.data.echo > 1:
        held = Held(reading["fetch"], loaded.device)
        reading |= {"fetch": held, "state": (("held batch", held),)}
    return reading


def _reading_ahead(loaded: LoadedTask, config: TrainerConfig) -> dict[str, Any]:
    """By workers. They are told what will be drawn by an order of their own: one that does not learn draws the same."""
    times = config.data.echo
    order = new_order(loaded.train, replace(config.data, echo=1), config.seed)

    def wanted_from(position: int) -> Iterator[Wanted]:
        while True:
            size = step_size(config, share_done(config, steps=0, samples=position, elapsed_s=0.0, flops=0.0))
            drawn = order.draw(position // times, size, 0.0)
            yield from in_pieces(drawn.indices, position, config.batch.n_pieces(size))
            position += times * size

    fetch = Fetch(Ahead(loaded.train, config.loader, config.seed), wanted_from)
    batches = InOrder(config.loader, config.seed)
    return {"fetch": fetch, "batches": batches, "closing": (fetch.close, batches.close)}


def _with_fitting_statistics(loaded: LoadedTask, parts: Parts) -> Parts:
    """The parts with batch normalization that fits the weights that are evaluated."""
    if not layers_with_statistics(parts.model):
        return parts
    batches = refreshing_batches(loaded.train.n)
    n_samples = sum(len(indices) for indices in batches)
    full = Step(0, 0, 1.0, n_samples)  # what follows progress (resolution) is as at the end

    def run(indices: torch.Tensor) -> None:
        batch = parts.prepare(loaded.train.take(indices), indices, full)
        with parts.autocast():
            forward(loaded.task, parts.model, parts.loss, batch)

    refresh = partial(refreshed, parts.model, batches, run)
    return replace(parts, for_evaluation=(*parts.for_evaluation, refresh), n_refreshing=n_samples)


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
