"""What one training is made of: the loaded task, its parts, and what one optimizer step is to be. Values only.

Must not know how the parts are made (`build`), nor run them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.sections import Batch as BatchSizes
from autoaccel.tasks.base import Task
from autoaccel.trainer.data import Batch, Drawn, Split
from autoaccel.trainer.losses import Loss
from autoaccel.trainer.team import ALONE, Team


@dataclass(frozen=True)
class LoadedTask:
    """A task whose data is where the device can read it; shared by all trainings of a process."""

    task: Task
    device: torch.device
    train: Split
    validation: Split
    test: Split | None
    flops_per_sample: float = 0.0
    """Forward and backward of one training sample; 0 if not counted."""
    evaluation_flops: float = 0.0
    """One pass over the validation set; 0 if not counted."""
    frozen_flops: tuple[float, ...] = ()
    """By stage of freezing, how many of the FLOPs of a sample it saves; empty if not counted."""
    own_loss: bool = False
    """The task's `step` computes the loss itself, so that no setting can change it."""
    weights: Mapping[str, torch.Tensor] | None = None
    """What every training starts from, where the task says so."""
    row_per_sample: bool = True
    """Targets have one row per sample, so that the loss of a sample can be told; a task's `step` may change that."""


@dataclass(frozen=True)
class Step:
    """One optimizer step, as a function of progress: decided before it is run."""

    number: int
    """Steps before it."""
    position: int
    """Samples before it, in the order in which they are drawn."""
    done: float
    """Share of the horizon behind it."""
    size: int
    """Samples in it."""


Prepare = Callable[[Batch, torch.Tensor, Step], Batch]


class Stateful(Protocol):
    """What a checkpoint has to hold of a part."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass(frozen=True)
class Spread:
    """How the steps of a training are spread over the processes of a team."""

    team: Team = ALONE
    splits_batches: bool = False
    """Each process computes its part of every batch, and what is called takes the mean of their gradients."""
    called: nn.Module | None = None
    """What is called for gradients in place of the model."""
    piece: Callable[[bool], AbstractContextManager[Any]] = lambda _is_last: nullcontext()
    """What a micro-batch runs in; the gradients are exchanged in the last of a step."""
    gradients: Callable[[Batch, int], torch.Tensor] | None = None
    """Of stages: from a prepared batch and its number of micro-batches to gradients and the mean loss."""
    whole: Callable[[nn.Module], Mapping[str, torch.Tensor]] = lambda model: model.state_dict()
    """The state of the whole model; all processes have to ask, the leader gets it."""
    stored: Callable[[nn.Module, torch.optim.Optimizer], Stateful] | None = None
    """What a checkpoint holds of model and optimizer, where each process has a part of them."""

    @property
    def n_parts(self) -> int:
        """Parts that a batch is split into."""
        return self.team.n if self.splits_batches else 1

    def part(self, drawn: Drawn) -> Drawn:
        """What this process computes of the samples of a step."""
        if self.n_parts == 1:
            return drawn
        mine = self.team.part(len(drawn.indices))
        return Drawn(drawn.indices[mine], None if drawn.weights is None else drawn.weights[mine])

    def n_pieces(self, batch: BatchSizes, size: int) -> int:
        """Micro-batches of a step of `size` samples: as many in all processes, none of them empty."""
        return min(batch.n_pieces(size), size // self.n_parts)


class Order(Protocol):
    """Decides which samples a step is made of; may learn from their losses."""

    @property
    def wants_losses(self) -> bool:
        """Whether `learn` is to be called with the loss of every sample."""
        ...

    def draw(self, position: int, size: int, done: float) -> Drawn: ...

    def learn(self, indices: torch.Tensor, losses: torch.Tensor) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> object: ...


@dataclass(frozen=True)
class Parts:
    """What one training is made of."""

    config: TrainerConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    evaluation_loss: Loss
    """The loss without label smoothing: what the metrics loss and perplexity are made of."""
    order: Order
    autocast: Callable[[], AbstractContextManager[Any]]
    update: Callable[[], Any]
    """From gradients to weights: the optimizer's step and what goes before it."""
    fetch: Callable[[torch.Tensor, int], Batch]
    """The training samples of these indices, on the device, for the step at that position of the order."""
    batches: Callable[[Split, int, int], Iterator[Batch]] = Split.in_order
    """The first so many samples of a split, in batches of that size: what an evaluation reads."""
    prepare: Prepare = lambda batch, _indices, _step: batch
    """What becomes of a batch on the device before the model sees it; its sample indices are given."""
    scale: Callable[[torch.Tensor], torch.Tensor] = lambda loss: loss
    """The loss as backward wants it."""
    progressive: tuple[Callable[[float], None], ...] = ()
    """Settings of the model that follow the share of the horizon that is done; called before every step."""
    after_step: tuple[Callable[[Step], None], ...] = ()
    """What follows an optimizer step: averages of the weights."""
    for_evaluation: tuple[Callable[[], AbstractContextManager[None]], ...] = ()
    """What holds while the model is evaluated: averaged weights in place of the trained ones."""
    n_refreshing: int = 0
    """Training samples that go forward for each of these, to refresh statistics."""
    state: tuple[tuple[str, Stateful], ...] = ()
    """By name, what a checkpoint holds beside model, optimizer and order."""
    closing: tuple[Callable[[], None], ...] = ()
    """What ends with the training, however it ends."""
    spread: Spread = Spread()
    at_end: tuple[Callable[[], object], ...] = ()
    """What gives the trained model the form back in which the task made it: adapters merged, frozen layers free."""
