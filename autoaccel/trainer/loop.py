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

from autoaccel.trainer.data import Drawn
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.flops import evaluation_flops, step_flops
from autoaccel.trainer.losses import forward
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.prepare import step_size
from autoaccel.trainer.schedule import lr_factor, momentum, peak_lr, share_done
from autoaccel.trainer.team import ALONE, EVALUATE, STEP
from autoaccel.trainer.techniques.optimizers import set_momentum, set_rate
from autoaccel.trainer.techniques.selective import hardest
from autoaccel.trainer.techniques.sharpness import climbed, climbs
from autoaccel.trainer.timing import Stopwatch
from autoaccel.trial import Report, Target

_STEPS_BETWEEN_LOOKS = {"cpu": 1}
"""Reading the loss or the clock drains an accelerator's queue, so there it is done every 16th step only."""
_OVER = 1.0 - 1e-9
"""Share of the horizon at which it is over: sums of shares may miss 1 by rounding."""


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
    cpu_s: float | None = None
    """See `Ended.cpu_s`."""


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
    config, at = parts.config, start or Progress(cpu_s=0.0 if parts.spread.team.n == 1 else None)
    watch = Stopwatch(loaded.device, at.elapsed_s, at.cpu_s)
    look_every = _STEPS_BETWEEN_LOOKS.get(loaded.device.type, 16)
    losses, n_losses, every = torch.zeros((), device=loaded.device), 0, config.evaluate.every_samples
    parts.model.train()
    while (done := _done(parts, at)) < _OVER:
        step = Step(at.steps, at.samples, done, step_size(loaded, config, done))
        flops = at.flops + step_flops(loaded, config, step)
        if at.elapsed_s >= limits.cap_s or flops > limits.cap_flops:
            return "capped", replace(at, elapsed_s=watch.elapsed_s(), cpu_s=watch.cpu_s())
        parts.spread.team.tell(STEP, step.number, step.position, step.done, step.size)
        follow_progress(parts, step)
        losses += optimizer_step(loaded, parts, step)
        n_losses += 1
        look = (step.number + 1) % look_every == 0
        elapsed_s = watch.elapsed_s(drained=look)
        at = Progress(step.number + 1, at.samples + step.size, flops, elapsed_s, at.value, watch.cpu_s())
        due = at.samples // every > step.position // every or _done(parts, at) >= _OVER
        if not (due or look):
            continue
        if not math.isfinite(float(losses)):
            return "diverged", at
        if due:
            flops = at.flops + evaluation_flops(loaded, parts)
            if at.elapsed_s >= limits.cap_s or flops > limits.cap_flops:
                return "capped", at
            parts.spread.team.tell(EVALUATE)
            value = evaluate(loaded.task, parts, loaded.validation)
            at = replace(at, flops=flops, elapsed_s=watch.elapsed_s(), cpu_s=watch.cpu_s())
            if not math.isfinite(value):
                return "diverged", at
            at = replace(at, value=value)
            loss = float(losses) / n_losses
            report(Report(0, at.elapsed_s, at.samples, at.steps, at.flops, value, loss, at.cpu_s))
            losses, n_losses = torch.zeros_like(losses), 0
            if limits.target is not None and limits.target.reached(value):
                return "hit", at
            checkpoint(at)
        if limits.stopped():
            checkpoint(at)
            return "stopped", at
    return "missed" if limits.target is not None else "finished", at


def _done(parts: Parts, at: Progress) -> float:
    return share_done(parts.config, steps=at.steps, samples=at.samples, elapsed_s=at.elapsed_s, flops=at.flops)


def follow_progress(parts: Parts, step: Step) -> None:
    """Everything that is a function of progress: the learning rate, and settings of the model."""
    config = parts.config
    one = 1.0 / config.n_steps if config.horizon.unit in ("samples", "steps") else step.done / max(1, step.number)
    one *= step.size / config.batch.size if config.horizon.unit == "samples" else 1.0
    factor = lr_factor(config.schedule, step.done, one)
    set_rate(parts.optimizer, peak_lr(config) * factor)
    if config.schedule.name == "one_cycle":
        set_momentum(parts.optimizer, momentum(config, factor))
    for follow in parts.progressive:
        follow(step.done)


def optimizer_step(loaded: LoadedTask, parts: Parts, step: Step) -> torch.Tensor:
    """Draw, choose among what was drawn, differentiate, update; returns the mean loss."""
    drawn = parts.order.draw(step.position, step.size, step.done)
    if len(drawn.indices) > step.size:
        drawn = hardest(loaded.task, parts, step, drawn)
    loss = gradients(loaded, parts, step, drawn)
    if climbs(parts.config.optim, step):
        with climbed(parts.model, parts.config.optim.sam_rho):
            gradients(loaded, parts, step, drawn, learn=False)
    parts.update()
    parts.optimizer.zero_grad(set_to_none=True)
    for follow in parts.after_step:
        follow(step)
    return loss


def gradients(loaded: LoadedTask, parts: Parts, step: Step, drawn: Drawn, *, learn: bool = True) -> torch.Tensor:
    """Gradients of the mean loss over what was drawn, micro-batch by micro-batch; returns the loss.

    The order learns from the losses of the samples if it wants to and `learn` says so.

    Micro-batch gradients are sums weighted by the items behind each mean loss, then divided by their total: exact
    for any split, also where micro-batches hold different numbers of tokens.
    """
    size, spread = len(drawn.indices), parts.spread
    n_pieces = spread.n_pieces(parts.config.batch, size)
    if spread.gradients is not None:
        return spread.gradients(parts.prepare(parts.fetch(drawn.indices, step.position), drawn.indices, step), n_pieces)
    mean, total, called = torch.zeros((), device=loaded.device), 0.0, spread.called or parts.model
    pieces = list(spread.part(drawn).pieces(n_pieces))
    for number, (indices, weight, batch) in enumerate(pieces, start=1):
        if batch is None:
            batch = parts.prepare(parts.fetch(indices, step.position), indices, step)
        with spread.piece(number == len(pieces)):
            with parts.autocast():
                out = forward(loaded.task, called, parts.loss, batch, weight, learn and parts.order.wants_losses)
            share = spread.n_parts * out.n / size  # what is called takes the mean over all parts
            parts.scale(out.loss if share == 1 else out.loss * share).backward()
        if learn and out.each is not None:
            parts.order.learn(indices, out.each)
        mean = mean + out.loss.detach() * (out.n / size)
        total += out.n
    return _of_all_parts(loaded, parts, mean, total, size)


def _of_all_parts(loaded: LoadedTask, parts: Parts, mean: torch.Tensor, total: float, size: int) -> torch.Tensor:
    """The mean loss of a whole step, and its gradients: over the items that there were, where they are no samples."""
    team = parts.spread.team if parts.spread.splits_batches else ALONE
    mean = team.sum(mean)
    if loaded.task.step is None and team.n > 1:  # each sample is one item
        return mean
    total = float(team.sum(torch.tensor(total, dtype=torch.float64))) if team.n > 1 else total
    if total != size:
        _scale_gradients(parts, size / total)
        mean = mean * (size / total)
    return mean


def _scale_gradients(parts: Parts, factor: float) -> None:
    gradients: list[Any] = [p.grad for p in parts.model.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, factor)
