"""Everything that can be wrong with a task, found in seconds and before any trial: data, model, a step, a metric.

Also what the driver has to know about the task (sizes, FLOPs, baseline). Must not know budgets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from autoaccel.config import TrainerConfig, keras_recipe, to_dict, with_params
from autoaccel.errors import AutoaccelError, UsageError
from autoaccel.fingerprint import digest
from autoaccel.sections import Parallel
from autoaccel.tasks.base import Task
from autoaccel.tasks.load import describe
from autoaccel.trainer.allocator import give_back_freed_memory
from autoaccel.trainer.applicability import refuse, unavailable
from autoaccel.trainer.build import build, combined, default_device, load_data, new_model
from autoaccel.trainer.checks import batch_problems, data_problems, loss_problems, output_problems, step_problems
from autoaccel.trainer.data import Batch, Split, columns, titles
from autoaccel.trainer.evaluate import evaluate, few_samples
from autoaccel.trainer.flops import count_flops
from autoaccel.trainer.loop import optimizer_step
from autoaccel.trainer.losses import forward
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.run import is_out_of_memory
from autoaccel.trainer.timing import Stopwatch
from autoaccel.trainer.weights import digest_of

T = TypeVar("T")
_LONG_S = 4.0
"""A step shorter than this is timed again, warm."""


def preflight(task: Task) -> tuple[LoadedTask, dict[str, Any]]:
    """Load, check and try a task; returns it ready to train and the facts the driver needs (plain JSON).

    Raises:
        UsageError: all problems found, one per line.
    """
    try:
        with seeded(0):
            loaded = load_data(task, default_device())
            return _tried(loaded, task.baseline or keras_recipe(loaded.train.n))
    except UsageError as error:
        raise UsageError(f"task {task.name!r}: {error.message}", error.hint) from error


def _tried(loaded: LoadedTask, config: TrainerConfig) -> tuple[LoadedTask, dict[str, Any]]:
    """With this config, or where memory does not suffice with a leaner one that trains the same.

    One that several processes share is tried by this one alone.
    """
    try:
        with process_settings(config):
            loaded, facts = _preflight(loaded, replace(config, parallel=Parallel()))
            return loaded, {**facts, "baseline": to_dict(config)}
    except UsageError as error:
        leaner = _leaner(loaded.task, config) if _is_for_memory(error) else None
        if leaner is None:
            raise
    give_back_freed_memory()  # and not above: the error holds what has filled the memory
    return _tried(loaded, leaner)


def _is_for_memory(error: UsageError) -> bool:
    return isinstance(error.__cause__, Exception) and is_out_of_memory(error.__cause__)


def _leaner(task: Task, config: TrainerConfig) -> TrainerConfig | None:
    """Evaluations in batches no larger than a micro-batch; then smaller micro-batches, where their number is not the
    user's. None where there is nothing more to make smaller."""
    micro = config.batch.micro
    if config.evaluate.batch > micro:
        return replace(config, evaluate=replace(config.evaluate, batch=micro))
    if task.baseline is not None or micro < 4:  # normalization layers do not train on a single sample
        return None
    halves = replace(config.batch, accumulation=math.ceil(config.batch.size / (micro // 2)))
    return replace(config, batch=halves, evaluate=replace(config.evaluate, batch=micro // 2))


def _preflight(loaded: LoadedTask, config: TrainerConfig) -> tuple[LoadedTask, dict[str, Any]]:
    task = loaded.task
    problems = data_problems(loaded)
    try:
        parts, other = _try("building the model", loaded, lambda: (build(loaded, config), new_model(loaded)))
        batch = _try("reading a batch", loaded, lambda: loaded.train.take(torch.arange(min(2, loaded.train.n))))
        problems += _shared_problems(parts, other)
        problems += _model_problems(loaded, parts, batch, is_sound=not problems)
    except UsageError as error:
        problems.append(error)
    if problems:
        raise combined(problems)
    found = task.step(parts.model, batch) if task.step else {"targets": batch[1]}
    own_loss, row_per_sample = "loss" in found, found["targets"].shape[:1] == columns(batch)[0].shape[:1]
    loaded = replace(loaded, own_loss=own_loss, row_per_sample=row_per_sample)
    other = other.to(loaded.device)
    refuse(loaded, config, other)  # again, now that more is known of the task
    missing = unavailable(loaded, other)
    train_flops, forward_flops = count_flops(loaded, parts, other)
    evaluation_flops = forward_flops * loaded.validation.n
    loaded = replace(loaded, flops_per_sample=train_flops, evaluation_flops=evaluation_flops)
    try:
        return loaded, {**_facts(loaded, config, other), "unavailable": missing, **_try_training(loaded, parts)}
    finally:
        for close in parts.closing:
            close()


def _facts(loaded: LoadedTask, config: TrainerConfig, model: torch.nn.Module) -> dict[str, Any]:
    task = loaded.task
    facts: dict[str, Any] = {
        "task": task.name,
        "n_train": loaded.train.n,
        "n_validation": loaded.validation.n,
        "n_test": loaded.test.n if loaded.test else 0,
        "n_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "resident": loaded.train.tensors is not None,
        "device": loaded.device.type,
        "metric": task.metric_name,
        "direction": task.metric_direction,
        "target": task.target,
        "baseline": to_dict(config),
        "baseline_is_users": task.baseline is not None,
        "flops_per_sample": loaded.flops_per_sample,
        "evaluation_flops": loaded.evaluation_flops,
    }
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    step = getattr(task.step, "__name__", "step") if task.step else None
    facts["loss"] = [task.loss if isinstance(task.loss, str) else getattr(task.loss, "__name__", "loss"), step]
    # Trainings from other weights are another task, whose past says nothing of this one.
    facts["model_digest"] = digest(shapes if loaded.weights is None else [shapes, digest_of(loaded.weights)])
    facts["data_digest"] = digest([_looks(loaded, split) for split in (loaded.train, loaded.validation)])
    return facts


def _looks(loaded: LoadedTask, split: Split) -> list[Any]:
    """What tells the data of a task from other data of the same size: a few samples, by shape, type and value.

    Whole numbers count as they are; others to three digits, for they may be computed a little differently elsewhere.
    Where each reading of a sample may differ, values say nothing.
    """
    wanted = torch.arange(min(64 if split.tensors is not None else 4, split.n)) * max(1, split.n // 64)
    wanted = wanted[wanted < split.n]
    batch = _try(f"reading {split.name} samples", loaded, lambda: split.take(wanted))
    found: list[Any] = []
    for column in columns(batch):
        found.append([str(column.dtype), list(column.shape)])
        if split.tensors is None:
            continue
        flat = column.detach().cpu().flatten()
        if flat.is_floating_point():
            few = flat[:: max(1, len(flat) // 32)].double()
            found.append([f"{value:.3g}" for value in [*few.tolist(), flat.double().mean().item()]])
        else:
            found.append(digest(flat[:: max(1, len(flat) // 50_000)].tolist()))
    return found


def _model_problems(loaded: LoadedTask, parts: Parts, batch: Batch, *, is_sound: bool) -> list[UsageError]:
    """Problems of the model, its outputs and, if the data is sound, its loss, on two samples."""
    task, step, model = loaded.task, loaded.task.step, parts.model
    found = batch_problems(task, batch)
    if found:
        return found
    try:
        if step is None:
            outputs = _try("the model", loaded, lambda: model(batch[0]), batch)
            found = output_problems(loaded, batch, outputs)
        else:
            found = step_problems(_try("step", loaded, lambda: step(model, batch), batch))
        if not found and is_sound:
            found = loss_problems(_try("the loss", loaded, lambda: forward(task, model, parts.loss, batch), batch))
    except UsageError as error:
        return [error]
    return found


def _shared_problems(parts: Parts, other: torch.nn.Module) -> list[UsageError]:
    """Whether two models of the task share what is trained."""
    first = {id(p) for p in parts.model.parameters() if p.requires_grad}
    if not any(id(p) in first for p in other.parameters()):
        return []
    text = "model() returned the same parameters twice: trainings would go on from each other's weights"
    return [UsageError(text, "Build the module inside the function: model=lambda: Net().")]


def _try_training(loaded: LoadedTask, parts: Parts) -> dict[str, float]:
    """Optimizer steps and one evaluation on a slice; rough seconds of both, for the smallest-budget message."""
    task = loaded.task
    # The first step is small: it finds what fails, and warms up, at a fraction of a full one's cost.
    size = min(2, loaded.train.n, parts.config.batch.size)
    settings = with_params(parts.config, {"batch.size": size, "batch.accumulation": 1})
    # Worker processes read ahead what the baseline draws: they have no such batch and would look for it for ever.
    small = replace(parts, config=settings, fetch=lambda indices, _position: loaded.train.take(indices))
    _try("a training step", loaded, lambda: optimizer_step(loaded, small, Step(0, 0, 0.0, size)))
    first = Step(0, 0, 0.0, parts.config.batch.size)
    step_s, _ = _warm_seconds(
        loaded, lambda: _try("a training step", loaded, lambda: optimizer_step(loaded, parts, first))
    )
    looked_at = few_samples(task, loaded.validation, parts.config.evaluate.batch)
    evaluation_s, value = _warm_seconds(
        loaded, lambda: _try("the metric", loaded, lambda: evaluate(task, parts, loaded.validation, looked_at))
    )
    if not math.isfinite(value):
        raise UsageError(f"the metric is {value} after the first steps", "Return a finite number for any outputs.")
    forward_flops = loaded.evaluation_flops / loaded.validation.n
    return {
        "rough_step_s": step_s,
        "rough_evaluation_s": evaluation_s * loaded.validation.n / looked_at,
        # Two runs of each at most; charged as such.
        "flops": (size + 2 * parts.config.batch.size) * loaded.flops_per_sample + 2 * looked_at * forward_flops,
    }


def _warm_seconds(loaded: LoadedTask, run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the second of two runs, and what it gave: the first may import a library or warm up. One run if it is
    too long even for that."""
    watch = Stopwatch(loaded.device)
    value = run()
    if watch.elapsed_s() > _LONG_S:
        return watch.elapsed_s(), value
    watch = Stopwatch(loaded.device)
    value = run()
    return watch.elapsed_s(), value


def _try(what: str, loaded: LoadedTask, run: Callable[[], Any], batch: Batch | None = None) -> Any:
    """What `run` returns; whatever it raises becomes a UsageError that says what was tried on which data."""
    try:
        return run()
    except AutoaccelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            hint = "Give the task a baseline with a smaller batch.size or a larger batch.accumulation."
            raise UsageError(f"{what} ran out of memory: {describe(error)}", hint) from error
        given = "" if batch is None else f" on {_described(batch)}"
        raise UsageError(f"{what} failed{given}: {describe(error)}", _hint(batch)) from error


def _hint(batch: Batch | None) -> str:
    integral = [t for t in columns(batch)[:1] if not t.is_floating_point()] if batch is not None else []
    if integral and integral[0].dtype != torch.int64:
        return f"The inputs are {integral[0].dtype}, as given: convert or scale them, e.g. x.float() / 255."
    return "Check that the model takes the inputs as they are (shape, dtype) and the loss takes its outputs."


def _described(batch: Batch) -> str:
    """`inputs float32 (2, 3, 8, 8), targets int64 (2,)`."""
    named = zip(titles(batch), columns(batch), strict=True)
    return ", ".join(f"{title} {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for title, t in named)
