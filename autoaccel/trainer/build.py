"""Build time: a task's data on a device, and from a config the parts of one training.

Techniques that change these parts enter here, in one written order (`build`). Must not run a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
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
from autoaccel.trainer.parts import LoadedTask, Parts, Prepare, Spread, Stateful, Step
from autoaccel.trainer.prepare import n_classes_of, preparation, step_size
from autoaccel.trainer.schedule import ramp, share_done
from autoaccel.trainer.spread import spread_model
from autoaccel.trainer.team import team_of
from autoaccel.trainer.techniques import memory_format, precision
from autoaccel.trainer.techniques.adapters import add_adapters
from autoaccel.trainer.techniques.averaging import averaged, new_average
from autoaccel.trainer.techniques.batch_norm import layers_with_statistics, refreshed, refreshing_batches
from autoaccel.trainer.techniques.compilation import compile_model
from autoaccel.trainer.techniques.dropping import drop_paths, set_dropout
from autoaccel.trainer.techniques.echo import Held
from autoaccel.trainer.techniques.freezing import freezing
from autoaccel.trainer.techniques.initialization import start_at_zero, whiten
from autoaccel.trainer.techniques.loader import Ahead, Fetch, InOrder, Wanted, in_pieces
from autoaccel.trainer.techniques.offload import offloading
from autoaccel.trainer.techniques.optimizers import at_average, new_optimizer, update_of
from autoaccel.trainer.techniques.recompute import recompute_blocks
from autoaccel.trainer.weights import read_weights, start_from

_BETWEEN_SEEDS = 1_000_003
"""Between the seeds of what the processes of a team draw; those of trials are neighbours."""


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    # Without check_available=True torch names `cuda` on machines that have none.
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_data(task: Task, device: torch.device) -> LoadedTask:
    """All splits of a task where the device can read them, and its weights. One UsageError holds all problems."""
    splits: dict[str, Split] = {}
    problems = []
    for name in ("train", "validation", "test"):
        if name == "test" and task.test is None:
            continue
        try:
            splits[name] = load_split(getattr(task, name), name, device)
        except UsageError as error:
            problems.append(error)
    weights = None
    if task.weights is not None:
        try:
            weights = read_weights(Path(task.weights))
        except UsageError as error:
            problems.append(error)
    if problems:
        raise combined(problems)
    return LoadedTask(task, device, splits["train"], splits["validation"], splits.get("test"), weights=weights)


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
    # 1 The model, and how it computes.
    shaped = shaped_model(loaded, config)
    model, at_end = shaped.model, shaped.at_end
    autocast, loss = _around_forward(config, model, loaded.device), loss_of(loaded.task, config.regularize)
    prepare = _prepare(loaded, config, model)
    model, spread = spread_model(loaded, config, model, loss, autocast)
    # 2 What it is trained on.
    order = new_order(loaded.train, config.data, config.seed)
    reading = _reading(loaded, config, spread)
    # 3 What trains it: everything that changes the parameters is done.
    optimizer = new_optimizer(model, config.optim, loaded.device)
    scaler = precision.new_scaler(config.precision.dtype, loaded.device)
    # 4 What compiles it, as it is now.
    if config.compile.mode != "off":
        at_end = (compile_model(model, config.compile.mode), *at_end)
    state: list[tuple[str, Stateful]] = [("scaler", scaler)] if scaler else []
    parts = Parts(
        config=config,
        model=model,
        optimizer=optimizer,
        loss=loss,
        evaluation_loss=loss_of(loaded.task),
        order=order,
        autocast=autocast,
        scale=scaler.scale if scaler else Parts.scale,
        update=update_of(model, optimizer, config.optim.clip, scaler),
        prepare=prepare,
        progressive=shaped.progressive,
        state=(*state, *reading.pop("state", ())),
        spread=spread,
        at_end=at_end,
        **reading,
    )
    # 5 What is evaluated.
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
    if spread.splits_batches and spread.team.rank:
        torch.manual_seed(_seed_of(config))  # dropout falls elsewhere in each part of a batch
    return _with_fitting_statistics(loaded, parts) if parts.for_evaluation else parts


def _seed_of(config: TrainerConfig) -> int:
    """Of what this process draws for its part of a batch; the leader's is the config's."""
    rank = team_of(config.parallel.n).rank if config.parallel.splits_batches else 0
    return (config.seed + rank * _BETWEEN_SEEDS) % 2**63


def _reading(loaded: LoadedTask, config: TrainerConfig, spread: Spread) -> dict[str, Any]:
    """The parts that read data: here or in worker processes, each batch for one step or for several."""
    reading: dict[str, Any] = {"fetch": lambda indices, _position: loaded.train.take(indices)}
    if config.loader.workers:
        reading = _reading_ahead(loaded, config, spread)
    if config.data.echo > 1:
        held = Held(reading["fetch"], loaded.device)
        reading |= {"fetch": held, "state": (("held batch", held),)}
    return reading


def _reading_ahead(loaded: LoadedTask, config: TrainerConfig, spread: Spread) -> dict[str, Any]:
    """By workers. They are told what will be drawn by an order of their own: one that does not learn draws the same."""
    times = config.data.echo
    order = new_order(loaded.train, replace(config.data, echo=1), config.seed)

    def wanted_from(position: int) -> Iterator[Wanted]:
        while True:
            size = step_size(loaded, config, share_done(config, steps=0, samples=position, elapsed_s=0.0, flops=0.0))
            drawn = spread.part(order.draw(position // times, size, 0.0))
            yield from in_pieces(drawn.indices, position, spread.n_pieces(config.batch, size))
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


@dataclass(frozen=True)
class Shaped:
    """A model as a config wants it."""

    model: nn.Module
    progressive: tuple[Callable[[float], None], ...]
    """What of it follows the share of the horizon that is done."""
    at_end: tuple[Callable[[], object], ...]
    """What gives it back the form in which the task made it, in this order."""


def shaped_model(loaded: LoadedTask, config: TrainerConfig) -> Shaped:
    """A fresh model as a config wants it.

    Raises:
        UsageError: the config asks for something this task cannot have.
    """
    model = new_model(loaded).to(loaded.device)
    refuse(loaded, config, model)
    progressive: list[Callable[[float], None]] = []
    at_end: list[Callable[[], object]] = []
    # 1 How it starts, and what of it is left out at random.
    if config.model.init == "zero_residual":
        start_at_zero(loaded, model)
    if config.model.init == "whitening":
        at_end.append(whiten(loaded, model))
    if config.regularize.dropout >= 0:
        set_dropout(loaded, model, config.regularize.dropout)
    if config.model.drop_path >= 0:
        follow, length = drop_paths(loaded, model, config.model.drop_path), config.model.drop_path_ramp
        progressive += [lambda done: follow(ramp(done, length))] if length else []
    # 2 Which of its layers learn, and how they compute.
    if config.model.lora_rank:
        at_end.append(add_adapters(model, config.model.lora_rank))
    if config.model.freeze:
        freeze, free = freezing(model, config.model.freeze)
        progressive.append(freeze)
        at_end.append(free)
    if config.precision.dtype == "float8":
        at_end.append(precision.use_float8(model))
    # 3 Where its values lie, and which are computed twice.
    if config.memory.format == "channels_last":
        model = memory_format.channels_last(model)
    if config.memory.checkpointing != "none":
        at_end.append(recompute_blocks(model, config.memory.checkpointing))
    return Shaped(model, tuple(progressive), tuple(reversed(at_end)))


def _around_forward(
    config: TrainerConfig, model: nn.Module, device: torch.device
) -> Callable[[], AbstractContextManager[Any]]:
    """What a forward pass runs in."""
    autocast = precision.autocast(config.precision.dtype, device)
    if config.memory.offload == "none":
        return autocast
    offload = offloading(config.memory.offload, model, device)

    @contextmanager
    def both() -> Iterator[None]:
        with offload(), autocast():
            yield

    return both


def _prepare(loaded: LoadedTask, config: TrainerConfig, model: nn.Module) -> Prepare:
    """What becomes of a batch before the model sees it."""
    seeded = replace(config, seed=_seed_of(config))
    prepare = preparation(loaded, seeded, lambda: n_classes_of(loaded, model))
    if config.memory.format == "channels_last":
        return lambda batch, indices, step: memory_format.channels_last_batch(prepare(batch, indices, step))
    return prepare


def new_model(loaded: LoadedTask) -> nn.Module:
    """A fresh model of the task, with its weights if it has any.

    Raises:
        UsageError: it is no module, has nothing to train, or the weights are not of it.
    """
    model = loaded.task.model()
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
    if loaded.weights is not None:
        start_from(model, loaded.weights)
    return model
