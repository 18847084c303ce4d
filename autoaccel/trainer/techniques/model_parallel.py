"""Tensor and pipeline parallelism: each device has a part of the model, as the task's plan says (`Task.plan`).

What it does: *tensor* splits matrices: one by columns, the next by rows, so that what lies between them is computed in
parts and summed once. *pipeline* gives each device consecutive layers; micro-batches (`batch.accumulation`) follow one
another through them, one forward and one backward in turns where there are enough of them, else all forward first.
When it pays: where one layer, or the model, does not fit on a device, and devices are joined by a fast bus.
Cost: tensor, two sums of activations per pair of matrices and pass, sent while nothing is computed; pipeline, a device
waits (n - 1) / (m + n - 1) of the time, with n devices and m micro-batches of equal size: as many as divide the batch,
at most `batch.accumulation`.
Source: tensor arXiv 1909.08053 and torch's `parallelize_module`; pipeline 1811.06965, 1806.03377 and torch's schedules.
Order: after everything that changes modules or parameters, before the optimizer.
Conflicts: see `sections.conflicts` for what needs the whole model; pipeline needs inputs and targets in a pair.

Must not know optimizers, nor how processes are started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from autoaccel.errors import UsageError
from autoaccel.tasks.base import ParallelPlan
from autoaccel.trainer.data import Batch
from autoaccel.trainer.losses import Loss
from autoaccel.trainer.parts import Spread
from autoaccel.trainer.team import Team

Autocast = Callable[[], AbstractContextManager[Any]]


def by_matrices(model: nn.Module, plan: ParallelPlan, team: Team, device: torch.device) -> None:
    """Every device has a part of the matrices that the plan names, in place; the rest is the same on all.

    Raises:
        UsageError: the plan names no matrix of the model, or one that cannot be cut into so many equal parts.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    styles = {"columns": ColwiseParallel(), "rows": RowwiseParallel()}
    modules = dict(model.named_modules())
    for pattern, way in plan.tensor.items():
        found = [name for name, m in modules.items() if _is_called(name, pattern) and isinstance(m, nn.Linear)]
        if not found:
            raise UsageError(f"Task.plan.tensor: no linear layer is called {pattern!r}", "Give names of the model.")
        for name in found:
            layer = modules[name]
            n = layer.out_features if way == "columns" else layer.in_features
            if n % team.n:
                text = f"Task.plan.tensor: the {n} {'outputs' if way == 'columns' else 'inputs'} of {name!r}"
                hint = "Use another parallel.n_processes, or a plan without this layer."
                raise UsageError(f"{text} cannot be cut into {team.n} equal parts", hint)
    mesh = init_device_mesh(device.type, (team.n,))
    parallelize_module(model, mesh, {pattern: styles[way] for pattern, way in plan.tensor.items()})


def _is_called(name: str, pattern: str) -> bool:
    """Whether a module's name fits, part by part, as torch reads patterns."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def by_stages(
    model: nn.Module, plan: ParallelPlan, team: Team, loss: Loss, autocast: Autocast
) -> tuple[nn.Module, Spread]:
    """This device's layers, as a model that computes with those of all others; and how gradients are computed.

    Raises:
        UsageError: the model has fewer stages than there are devices.
    """
    assert plan.stages is not None, "checked when the training was built"
    layers = list(plan.stages(model))
    if len(layers) < team.n:
        raise UsageError(
            f"Task.plan.stages: {len(layers)} modules cannot be cut into {team.n} stages",
            "Use fewer parallel.n_processes, or a plan of more modules.",
        )
    ends = cuts(layers, team.n)
    stages = [nn.Sequential(*layers[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    split = Staged(stages, team, autocast)
    for number, stage in enumerate(stages):
        if number != team.rank:
            stage.to("cpu")  # what others train waits where memory is plenty
    return split, Spread(
        team,
        gradients=Pipeline(split, loss),
        whole=lambda _: split.whole_of(model),
        stored=lambda _, optimizer: Each(team, split, optimizer),
    )


def cuts(layers: Sequence[nn.Module], n: int) -> list[int]:
    """Where each of `n` stages of consecutive layers ends: about as many parameters in each, a layer at least."""
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    ends: list[int] = []
    for stage in range(1, n):
        least, most = (ends[-1] if ends else 0) + 1, len(layers) - (n - stage)
        wanted = sum(sizes) * stage / n
        ends.append(min(range(least, most + 1), key=lambda end: abs(sum(sizes[:end]) - wanted)))
    return [*ends, len(layers)]


class Staged(nn.Module):
    """The stage of this process. Called, it computes what the whole model does, one stage after the other."""

    def __init__(self, stages: Sequence[nn.Module], team: Team, autocast: Autocast) -> None:
        super().__init__()
        self.own = stages[team.rank]
        self.team, self.autocast = team, autocast
        self._stages = list(stages)  # in a list, so that the others' parameters are not ours

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The whole model's outputs, on all devices; without gradients."""
        device = x.device
        for number in range(self.team.n):
            if number == self.team.rank:
                x = self.own(x.to(device))
            x = self.team.from_owner(x.detach().cpu() if number == self.team.rank else None, number)
        return x.to(device)

    def whole_of(self, model: nn.Module) -> Mapping[str, torch.Tensor]:
        """The state of the model that the stages were made of: parameters and buffers of each from its owner."""
        for number, stage in enumerate(self._stages):
            stage.to("cpu")
            self.team.same([tensor.detach() for tensor in (*stage.parameters(), *stage.buffers())], number)
        return model.state_dict()


class Each:
    """Stages and their optimizers as a checkpoint holds them: of each process, by rank."""

    def __init__(self, team: Team, stage: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._team, self._stage, self._optimizer = team, stage, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Of all; all processes have to ask, the leader gets it."""
        own = {"stage": self._stage.state_dict(), "optimizer": self._optimizer.state_dict()}
        return {"by rank": self._team.gathered(own)}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Each process takes its own."""
        own = state["by rank"][self._team.rank]
        self._optimizer.load_state_dict(own["optimizer"])
        return self._stage.load_state_dict(own["stage"])


class Pipeline:
    """From a batch to the gradients of this process' stage, and the mean loss."""

    def __init__(self, split: Staged, loss: Loss) -> None:
        self._split, self._loss = split, loss
        self._schedules: dict[tuple[int, int], Any] = {}
        """By samples of a step and number of micro-batches."""

    def __call__(self, batch: Batch, n_pieces: int) -> torch.Tensor:
        """Args:
        batch: inputs and targets, the same in all processes.
        n_pieces: micro-batches, at most.
        """
        inputs, targets = batch
        n = max(k for k in range(1, n_pieces + 1) if len(inputs) % k == 0)
        if (len(inputs), n) not in self._schedules:
            self._schedules[len(inputs), n] = self._schedule(len(inputs), n, inputs.device)
        schedule, team, losses = self._schedules[len(inputs), n], self._split.team, list[torch.Tensor]()
        given = {"target": targets, "losses": losses} if team.rank == team.n - 1 else {}
        schedule.step(*([inputs] if team.rank == 0 else []), return_outputs=False, **given)
        mean = (
            torch.stack([loss.detach() for loss in losses]).sum() if losses else torch.zeros((), device=inputs.device)
        )
        return team.sum(mean)

    def _schedule(self, size: int, n: int, device: torch.device) -> Any:
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

        split = self._split

        def share(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            with split.autocast():
                return self._loss.mean(outputs, targets) * (len(targets) / size)

        own = _InAutocast(split.own, split.autocast)
        stage = PipelineStage(own, split.team.rank, split.team.n, device)
        kind = Schedule1F1B if n >= split.team.n else ScheduleGPipe
        return kind(stage, n, loss_fn=share, scale_grads=False)


class _InAutocast(nn.Module):
    """A stage under autocast in forward alone: backward runs in the precision that forward had."""

    def __init__(self, stage: nn.Module, autocast: Autocast) -> None:
        super().__init__()
        self.stage, self.autocast = stage, autocast

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            out: torch.Tensor = self.stage(x)
        return out
