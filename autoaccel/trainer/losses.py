"""The loss of a task, for a batch and for every sample of it, and one forward pass through it.

Must not know optimizers or the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from autoaccel.sections import Regularize
from autoaccel.tasks.base import Task
from autoaccel.trainer.data import Batch

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss as functions of outputs and targets."""

    mean: LossFunction
    """Mean over the batch, a scalar."""
    each: LossFunction | None
    """Of every sample (mean over its items, where it has several), shape (N,); None where the task has its own loss."""


@dataclass(frozen=True)
class StepOutput:
    """One forward pass: outputs and targets for the metric, the mean loss, and over how many items it is the mean."""

    outputs: torch.Tensor
    targets: torch.Tensor
    loss: torch.Tensor
    n: float
    each: torch.Tensor | None = None
    """Loss of every sample before weights, shape (N,), detached; where it was asked for."""


def forward(
    task: Task, model: nn.Module, loss: Loss, batch: Batch, weights: torch.Tensor | None = None, each: bool = False
) -> StepOutput:
    """One forward pass and its loss, through the task's `step` if it has one.

    Args:
        task, model, loss: whose.
        batch: on the device.
        weights: of every sample in the mean, shape (N,); needs `loss.each`.
        each: whether the loss of every sample is wanted; needs `loss.each`.
    """
    if task.step is not None:
        found = task.step(model, batch)
        outputs, targets = found["outputs"], found["targets"]
        if "loss" in found:
            return StepOutput(outputs, targets, found["loss"], float(found.get("n", len(targets))))
        n = float(found.get("n", len(targets)))
    else:
        inputs, targets = batch
        outputs, n = model(inputs), float(len(targets))
    if weights is None and not each:
        return StepOutput(outputs, targets, loss.mean(outputs, targets), n)
    assert loss.each is not None, "checked when the training was built"
    losses = loss.each(outputs, targets)
    mean = losses.mean() if weights is None else (losses * weights).mean()
    # A mean over samples, whatever items they have: pieces of a batch count by their samples.
    return StepOutput(outputs, targets, mean, float(len(losses)), losses.detach())


def loss_of(task: Task, how: Regularize | None = None) -> Loss:
    """The task's loss, or with `how` the objective that is trained towards: another loss, smoothed labels.

    Targets of cross_entropy are classes, or, of outputs (..., classes), shares of them: floats of the same shape.
    """
    if not isinstance(task.loss, str):
        return Loss(task.loss, None)
    if task.loss == "cross_entropy":
        how = how or Regularize()
        flat = _one_against_rest if how.objective == "binary_cross_entropy" else _cross_entropy
        items = partial(flat, smoothing=how.label_smoothing)
        return Loss(partial(_of_batch, items), partial(_of_samples, items))
    one_each = F.mse_loss if task.loss == "mse" else F.binary_cross_entropy_with_logits
    return Loss(partial(_paired, one_each), partial(_paired_each, one_each))


def classes_last(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class scores as (items, classes) and targets as (items,), or (items, classes) where they are soft.

    Accepts (N, C) with (N,), (N, T, C) with (N, T), and torch's own (N, C, ...) with (N, ...). Floats of the shape of
    the outputs (classes last) are shares of the classes, and become (items, classes).
    """
    if outputs.shape == targets.shape and targets.is_floating_point():
        n_classes = outputs.shape[-1]
        return outputs.reshape(-1, n_classes), targets.reshape(-1, n_classes)
    if outputs.shape[:-1] == targets.shape:
        return outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
    return outputs.movedim(1, -1).reshape(-1, outputs.shape[1]), targets.reshape(-1)


def _cross_entropy(scores: torch.Tensor, targets: torch.Tensor, smoothing: float, reduction: str) -> torch.Tensor:
    """Of scores (items, classes) and targets (items,), or shares (items, classes)."""
    shares = targets.to(scores.dtype) if targets.ndim == 2 else targets
    return F.cross_entropy(scores, shares, label_smoothing=smoothing, reduction=reduction)


def _one_against_rest(scores: torch.Tensor, targets: torch.Tensor, smoothing: float, reduction: str) -> torch.Tensor:
    """As `_cross_entropy`. Summed over classes, so that gradients have the size of cross-entropy's."""
    shares = targets if targets.ndim == 2 else F.one_hot(targets, scores.shape[1])
    shares = shares.to(scores.dtype) * (1.0 - smoothing) + smoothing / scores.shape[1]
    items = F.binary_cross_entropy_with_logits(scores, shares, reduction="none").sum(1)
    return items.mean() if reduction == "mean" else items


def _of_batch(items: Callable[..., torch.Tensor], outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over all items of a batch."""
    return items(*classes_last(_full(outputs), targets), reduction="mean")


def _of_samples(items: Callable[..., torch.Tensor], outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over the items of every sample, shape (N,)."""
    flat = items(*classes_last(_full(outputs), targets), reduction="none")
    return flat.reshape(len(targets), -1).mean(1)


def _paired(one_each: Callable[..., torch.Tensor], outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    outputs = _full(outputs)
    return one_each(outputs.reshape(targets.shape), targets.to(outputs.dtype))


def _paired_each(one_each: Callable[..., torch.Tensor], outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    outputs = _full(outputs)
    each = one_each(outputs.reshape(targets.shape), targets.to(outputs.dtype), reduction="none")
    return each.reshape(len(targets), -1).mean(1)


def _full(outputs: torch.Tensor) -> torch.Tensor:
    """Losses are computed in fp32: bf16 has 8 bits, too few for a logarithm or a mean."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
