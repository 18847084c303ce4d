"""What can be wrong with a task's data, outputs and step, each found with its fix. Runs no training.

Every function returns the problems it found, so that all are said at once. Must not know who asks.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.trainer.data import Batch, Split, columns, titles
from autoaccel.trainer.losses import StepOutput, classes_last
from autoaccel.trainer.parts import LoadedTask

_STEP_HINT = "Add step=lambda model, batch: {'outputs': ..., 'targets': ...}."


def data_problems(loaded: LoadedTask) -> list[UsageError]:
    """NaN, labels of the wrong kind, a single class. Data that is read sample by sample is not looked through."""
    found = []
    for split in _splits(loaded):
        found += _not_finite(split)
        found += _target_problems(loaded.task, split)
    return found


def output_problems(loaded: LoadedTask, batch: Batch, outputs: Any) -> list[UsageError]:
    """Whether a model's outputs on a batch fit its targets, and the labels of all splits fit the outputs."""
    if not isinstance(outputs, torch.Tensor):
        return [UsageError(f"the model returns a {type(outputs).__name__}, not a tensor", _STEP_HINT)]
    task, targets = loaded.task, batch[1]
    shapes = f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}"
    if task.loss == "cross_entropy":
        if not _is_scores_for(outputs, targets):
            hint = "cross_entropy needs one score per class and item: (N, C) for targets (N,)."
            return [UsageError(shapes, f"{hint} Squeeze the targets." if 1 in targets.shape[1:] else hint)]
        n_classes = classes_last(outputs, targets)[0].shape[-1]
        return [p for split in _splits(loaded) for p in _class_problems(task, split, n_classes)]
    if task.loss in ("mse", "binary_cross_entropy"):
        if [d for d in outputs.shape if d != 1] != [d for d in targets.shape if d != 1]:
            return [UsageError(shapes, f"{task.loss} needs one output per target.")]
        if task.loss == "binary_cross_entropy" and task.metric == "auc" and loaded.test is not None:
            return _absent(loaded.test, 2)
    return []


def batch_problems(task: Task, batch: Batch) -> list[UsageError]:
    """Whether a task without `step` has batches of inputs and targets."""
    if task.step is not None or (isinstance(batch, tuple) and len(batch) == 2):
        return []
    shape = f"a dict with {sorted(map(str, batch))}" if isinstance(batch, dict) else f"a tuple of {len(batch)}"
    return [UsageError(f"a batch is {shape}, not (inputs, targets)", _STEP_HINT)]


def step_problems(found: Any) -> list[UsageError]:
    """Whether what the task's `step` returned has the keys that are needed."""
    if not isinstance(found, dict):
        return [UsageError(f"step returns a {type(found).__name__}, not a dict", "Return {'outputs', 'targets'}.")]
    missing = [key for key in ("outputs", "targets") if not isinstance(found.get(key), torch.Tensor)]
    if not missing:
        return []
    names = ", ".join(f"'{key}' ({type(found[key]).__name__})" if key in found else f"'{key}'" for key in missing)
    return [UsageError(f"step returns no tensor {names}; keys: {sorted(map(str, found))}", "The metric needs them.")]


def loss_problems(out: StepOutput) -> list[UsageError]:
    """Whether the first loss is a finite scalar that has a gradient."""
    loss = out.loss
    if not isinstance(loss, torch.Tensor) or loss.ndim:
        kind = f"of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        return [UsageError(f"the loss is {kind}, not a scalar tensor", "Return the mean over the batch.")]
    found = []
    if not loss.requires_grad:
        found.append(UsageError("the loss has no gradient", "Do not detach it from the model."))
    if not math.isfinite(float(loss.detach())):
        found.append(UsageError(f"the first loss is {float(loss.detach())}", "Check inputs and targets."))
    return found


def _splits(loaded: LoadedTask) -> list[Split]:
    return [split for split in (loaded.train, loaded.validation, loaded.test) if split is not None]


def _not_finite(split: Split) -> list[UsageError]:
    found = []
    for title, tensor in zip(titles(split.tensors), columns(split.tensors), strict=True) if split.tensors else ():
        if not tensor.is_floating_point():
            continue
        rows = (~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)).nonzero().flatten().tolist()
        if rows:
            text = f"{split.name} {title}: NaN or infinite values in {len(rows)} samples (first: {_first(rows)})"
            found.append(UsageError(text, "Remove or replace them."))
    return found


def _target_problems(task: Task, split: Split) -> list[UsageError]:
    targets = split.targets
    is_dict = isinstance(split.tensors, dict)
    if targets is None or task.loss not in ("cross_entropy", "binary_cross_entropy") or (task.step and not is_dict):
        return []
    where = f"{split.name} targets"
    if task.loss == "cross_entropy" and targets.is_floating_point():
        if task.step is not None:
            return []
        return [UsageError(f"{where}: {targets.dtype} labels", "cross_entropy needs integer classes: use y.long().")]
    values = targets.unique()
    if task.loss == "binary_cross_entropy" and task.step is None and bool(((values < 0) | (values > 1)).any()):
        text = f"{where}: values from {float(values.min()):g} to {float(values.max()):g}"
        return [UsageError(text, "binary_cross_entropy needs 0 and 1.")]
    if len(values) < 2 and split.name != "test":
        text = f"{where}: only one class ({float(values[0]):g}); any model would be right on all of them"
        return [UsageError(text, "Give at least two classes.")]
    return []


def _is_scores_for(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    shape, wanted = tuple(outputs.shape), tuple(targets.shape)
    return len(shape) == len(wanted) + 1 and (shape[:-1] == wanted or (shape[0], *shape[2:]) == wanted)


def _class_problems(task: Task, split: Split, n_classes: int) -> list[UsageError]:
    targets = split.targets
    if targets is None or targets.is_floating_point():
        return []
    flat = targets.reshape(-1)
    wrong = ((flat < 0) | (flat >= n_classes)).nonzero().flatten()
    if not len(wrong):
        return _absent(split, n_classes) if task.metric == "auc" and split.name != "train" else []
    first = _first([f"{int(flat[i])} at {int(i)}" for i in wrong[:3]])
    text = (
        f"{split.name} labels out of range: {len(wrong)} outside 0..{n_classes - 1} "
        f"(min {int(flat.min())}, max {int(flat.max())}; first: {first})"
    )
    hint = f"The model has {n_classes} outputs; classes count from 0."
    if bool((flat == -100).any()):
        hint += " To leave items out (-100), return 'loss' and 'n', the items it is the mean of, from a step."
    return [UsageError(text, hint)]


def _absent(split: Split, n_classes: int) -> list[UsageError]:
    """Classes a set has to have for an AUC."""
    if split.targets is None:
        return []
    absent = sorted(set(range(n_classes)) - {int(value) for value in split.targets.unique()})
    if not absent:
        return []
    text = f"{split.name} targets: class {_first(absent)} never occurs"
    return [UsageError(text, "The metric auc needs every class there.")]


def _first(items: list[Any]) -> str:
    return ", ".join(str(item) for item in items[:3])
