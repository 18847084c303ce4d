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


def loss_of(task: Task, smoothing: float = 0.0) -> Loss:
    """The task's loss; `smoothing` is the share of the target mass that label smoothing spreads over all classes."""
    if not isinstance(task.loss, str):
        return Loss(task.loss, None)
    if task.loss == "cross_entropy":
        return Loss(partial(_cross_entropy, smoothing=smoothing), partial(_cross_entropies, smoothing=smoothing))
    one_each = F.mse_loss if task.loss == "mse" else F.binary_cross_entropy_with_logits
    return Loss(partial(_paired, one_each), partial(_paired_each, one_each))


def classes_last(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class scores as (items, classes) and targets as (items,), or (items, classes) where they are soft.

    Accepts (N, C) with (N,), (N, T, C) with (N, T), torch's own (N, C, ...) with (N, ...), and soft (N, C) with (N, C).
    """
    if outputs.shape == targets.shape:
        return outputs, targets
    if outputs.shape[:-1] == targets.shape:
        return outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)
    return outputs.movedim(1, -1).reshape(-1, outputs.shape[1]), targets.reshape(-1)


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    return F.cross_entropy(*classes_last(_full(outputs), targets), label_smoothing=smoothing)


def _cross_entropies(outputs: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    flat = F.cross_entropy(*classes_last(_full(outputs), targets), label_smoothing=smoothing, reduction="none")
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
