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
from autoaccel.trainer.data import Batch, Split, columns, map_batch
from autoaccel.trainer.losses import StepOutput, classes_last, forward
from autoaccel.trainer.parts import Parts, Spread


@torch.no_grad()
def evaluate(task: Task, parts: Parts, split: Split, limit: int | None = None) -> float:
    """The task's metric on a split (its first `limit` samples if given); NaN if an output is NaN.

    In a team all processes have to ask; the leader is told, the others get NaN.
    """
    n, spread = min(split.n, limit or split.n), parts.spread
    if spread.splits_batches:
        spread.team.same(list(parts.model.buffers()))  # each has statistics of its own part
    kept, weight, is_nan = [], 0.0, torch.zeros((), dtype=torch.bool, device=split.device)
    with ExitStack() as stack:
        for holds in parts.for_evaluation:
            stack.enter_context(holds())
        parts.model.eval()
        for batch in parts.batches(split, n, parts.config.evaluate.batch):
            batch, counts = _own_part(spread, batch)
            with parts.autocast():
                out = forward(task, parts.model, parts.evaluation_loss, batch)
            is_nan |= out.outputs.isnan().any()
            kept.append(_keep(task, out) if counts else None)
            weight += out.n if counts else 0.0
        parts.model.train()
    if spread.team.n > 1:
        kept, weight, is_nan = _of_all(spread, kept, weight, is_nan)
    return math.nan if bool(is_nan) else _finish(task, kept, weight)


def _own_part(spread: Spread, batch: Batch) -> tuple[Batch, bool]:
    """What this process evaluates of a batch, and whether it counts: a batch of too few samples is the leader's."""
    n = len(columns(batch)[0])
    if spread.n_parts == 1 or n < spread.n_parts:
        return batch, spread.team.rank == 0
    mine = spread.team.part(n)
    return map_batch(batch, lambda column: column[mine]), True


def _of_all(
    spread: Spread, kept: list[Any], weight: float, is_nan: torch.Tensor
) -> tuple[list[Any], float, torch.Tensor]:
    """What all processes have kept, for the leader, in the order of the samples; nothing but a NaN for the others."""
    own = [tuple(t.cpu() for t in one) if isinstance(one, tuple) else one if one is None else one.cpu() for one in kept]
    found = spread.team.gathered((own, weight, is_nan.cpu()))
    if not found:
        return [], 0.0, torch.ones((), dtype=torch.bool)
    columns_of = zip(*(own for own, _, _ in found), strict=True)
    together = [one for batch in columns_of for one in batch if one is not None]
    return together, sum(w for _, w, _ in found), torch.stack([nan for _, _, nan in found]).any()


def few_samples(task: Task, split: Split, batch: int) -> int:
    """Samples of a split that are enough to try an evaluation: one batch, but where a metric takes all of them.

    A slice may lack a class that an AUC, or a metric of the user's own, needs.
    """
    needs_all = task.metric == "auc" or callable(task.metric)
    return split.n if needs_all else min(split.n, batch)


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
