"""The metric over a whole split, in evaluation mode and without gradients.

Scores are kept per batch in the smallest form the metric needs. Must not know targets or trials.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import torch

from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.trainer.data import Split
from autoaccel.trainer.losses import StepOutput, classes_last, forward
from autoaccel.trainer.parts import Parts

EVALUATION_BATCH = 256


@torch.no_grad()
def evaluate(task: Task, parts: Parts, split: Split, limit: int | None = None) -> float:
    """The task's metric on a split (its first `limit` samples if given); NaN if an output is NaN."""
    n = min(split.n, limit or split.n)
    kept, weight, is_nan = [], 0.0, torch.zeros((), dtype=torch.bool, device=split.device)
    with ExitStack() as stack:
        for holds in parts.for_evaluation:
            stack.enter_context(holds())
        parts.model.eval()
        for batch in parts.batches(split, n, EVALUATION_BATCH):
            with parts.autocast():
                out = forward(task, parts.model, parts.evaluation_loss, batch)
            kept.append(_keep(task, out))
            weight += out.n
            is_nan |= out.outputs.isnan().any()
        parts.model.train()
    return math.nan if bool(is_nan) else _finish(task, kept, weight)


@torch.no_grad()
def leave_evaluated_weights(parts: Parts) -> None:
    """Put into the model for good what evaluations see of it: averaged weights, and the statistics that fit them."""
    if not parts.for_evaluation:
        return
    tensors = [*parts.model.parameters(), *parts.model.buffers()]
    with ExitStack() as stack:
        for holds in parts.for_evaluation:
            stack.enter_context(holds())
        evaluated = [tensor.detach().clone() for tensor in tensors]
    for tensor, value in zip(tensors, evaluated, strict=True):
        tensor.copy_(value)
    parts.model.train()


def _keep(task: Task, out: StepOutput) -> Any:
    if task.metric in ("loss", "perplexity"):
        return out.loss.float() * out.n
    if callable(task.metric):
        return out.outputs.float().cpu(), out.targets.cpu()
    if task.loss == "binary_cross_entropy":
        scores, targets = out.outputs.float().reshape(-1), out.targets.reshape(-1)
        return ((scores > 0).long(), targets) if task.metric == "accuracy" else (scores, targets)
    scores, targets = classes_last(out.outputs.float(), out.targets)
    return (scores.argmax(-1), targets) if task.metric == "accuracy" else (scores.softmax(-1), targets)


def _finish(task: Task, kept: list[Any], weight: float) -> float:
    if task.metric in ("loss", "perplexity"):
        mean = float(torch.stack(kept).sum()) / weight
        return mean if task.metric == "loss" else math.exp(min(mean, 700.0))
    outputs, targets = (torch.cat(column) for column in zip(*kept, strict=True))
    if callable(task.metric):
        return float(task.metric(outputs, targets))
    if task.metric == "accuracy":
        return float((outputs == targets).double().mean())
    return _library_metric(str(task.metric), outputs.cpu(), targets.cpu().long())


def _library_metric(metric: str, scores: torch.Tensor, targets: torch.Tensor) -> float:
    """F1 or AUC. `scores`: logits of class 1, shape (n,), or probabilities, shape (n, classes)."""
    from sklearn.metrics import f1_score, roc_auc_score

    n_classes = scores.shape[1] if scores.ndim == 2 else 2
    if metric == "f1":
        predicted = scores.argmax(-1) if scores.ndim == 2 else (scores > 0).long()
        average = "binary" if n_classes == 2 else "macro"
        return float(f1_score(targets.numpy(), predicted.numpy(), average=average, zero_division=0))
    absent = sorted(set(range(n_classes)) - set(targets.unique().tolist()))
    if absent:
        raise UsageError(
            f"metric auc: class {', '.join(map(str, absent[:5]))} never occurs among the targets",
            "Give a set in which every class occurs, or use another metric.",
        )
    if n_classes == 2:
        scores = scores[:, 1] if scores.ndim == 2 else scores
        return float(roc_auc_score(targets.numpy(), scores.numpy()))
    return float(roc_auc_score(targets.numpy(), scores.numpy(), multi_class="ovr"))
