"""The training loop: one readable function from a config to its end.

Stops at the hit, at the horizon, at a cap, when asked, or when the loss is no longer finite. Reports evaluations
through a function; must not know who listens, nor why this config was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from autoaccel.trainer.build import LoadedTask, Parts, forward
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.schedule import lr_factor
from autoaccel.trainer.timing import Stopwatch
from autoaccel.trial import Report, Target

_STEPS_BETWEEN_LOOKS = {"cpu": 1}
"""Reading the loss or the clock drains an accelerator's queue, so there it is done every 16th step only."""


@dataclass(frozen=True)
class Limits:
    """Where a training ends before its horizon."""

    target: Target | None = None
    cap_s: float = math.inf
    cap_flops: float = math.inf
    stopped: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Progress:
    """Where a training is; also what a checkpoint needs to go on from there."""

    steps: int = 0
    samples: int = 0
    flops: float = 0.0
    elapsed_s: float = 0.0
    value: float | None = None
    """Last validation metric."""


def train(
    loaded: LoadedTask,
    parts: Parts,
    limits: Limits,
    *,
    report: Callable[[Report], None],
    checkpoint: Callable[[Progress], None] = lambda _: None,
    start: Progress | None = None,
) -> tuple[str, Progress]:
    """Train until something ends it; returns the outcome (see `Ended`) and where it stopped.

    Time counts from the first batch request and includes data waits and evaluations. FLOPs never exceed their cap:
    the step or evaluation that would is not begun.
    """
    config, at = parts.config, start or Progress()
    watch = Stopwatch(loaded.device, at.elapsed_s)
    look_every = _STEPS_BETWEEN_LOOKS.get(loaded.device.type, 16)
    step_flops = loaded.flops_per_sample * config.batch.size
    losses = torch.zeros((), device=loaded.device)
    n_losses = 0
    parts.model.train()
    for step in range(at.steps, config.n_steps):
        if at.elapsed_s >= limits.cap_s or at.flops + step_flops > limits.cap_flops:
            return "capped", replace(at, elapsed_s=watch.elapsed_s())
        _set_lr(parts, config.optim.lr * lr_factor(config.schedule, step, config.n_steps))
        losses += optimizer_step(loaded, parts, at.samples)
        n_losses += 1
        samples = at.samples + config.batch.size
        due = samples // config.evaluate.every_samples > at.samples // config.evaluate.every_samples
        due = due or step + 1 == config.n_steps
        at = replace(at, steps=step + 1, samples=samples, flops=at.flops + step_flops)
        if not due and at.steps % look_every:
            continue
        at = replace(at, elapsed_s=watch.elapsed_s())
        if not math.isfinite(float(losses)):
            return "diverged", at
        if due:
            flops = at.flops + loaded.evaluation_flops
            if at.elapsed_s >= limits.cap_s or flops > limits.cap_flops:
                return "capped", at
            value = evaluate(loaded.task, parts, loaded.validation)
            at = replace(at, flops=flops, elapsed_s=watch.elapsed_s())
            if not math.isfinite(value):
                return "diverged", at
            at = replace(at, value=value)
            report(Report(0, at.elapsed_s, at.samples, at.steps, at.flops, value, float(losses) / n_losses))
            losses, n_losses = torch.zeros_like(losses), 0
            if limits.target is not None and limits.target.reached(value):
                return "hit", at
            checkpoint(at)
        if limits.stopped():
            checkpoint(at)
            return "stopped", at
    return "missed" if limits.target is not None else "finished", at


def optimizer_step(loaded: LoadedTask, parts: Parts, position: int) -> torch.Tensor:
    """One optimizer step on the batch at `position` of the sample order; returns its mean loss.

    Micro-batch gradients are sums weighted by the items behind each mean loss, then divided by their total: exact
    for any split, also where micro-batches hold different numbers of tokens.
    """
    size = parts.config.batch.size
    total, loss_sum = 0.0, torch.zeros((), device=loaded.device)
    for indices in parts.order.take(position, size).tensor_split(parts.config.batch.accumulation):
        batch = loaded.train.take(indices)
        with parts.autocast():
            out = forward(loaded.task, parts.model, parts.loss, batch)
        weighted = out.loss * (out.n / size)
        weighted.backward()
        loss_sum += weighted.detach()
        total += out.n
    if total != size:
        _scale_gradients(parts, size / total)
        loss_sum *= size / total
    parts.update()
    parts.optimizer.zero_grad(set_to_none=True)
    return loss_sum


def _set_lr(parts: Parts, lr: float) -> None:
    for group in parts.optimizer.param_groups:
        group["lr"] = lr


def _scale_gradients(parts: Parts, factor: float) -> None:
    gradients: list[Any] = [p.grad for p in parts.model.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, factor)
