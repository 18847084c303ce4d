"""What a task, its data or the device cannot use, and why: one table, read before a search and at build time.

Conflicts between settings stand in `config`; here is what a config alone does not show. Must not know search spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoaccel.config import TrainerConfig, to_params
from autoaccel.errors import UsageError
from autoaccel.trainer.parts import LoadedTask


@dataclass(frozen=True)
class Need:
    """What some values of a setting need of the task, the data or the device."""

    path: str
    off: Any
    """The value that needs nothing."""
    why_not: Callable[[LoadedTask], str]
    """Why this task cannot have it; empty if it can."""
    values: Sequence[Any] | None = None
    """The values that need it; None: all but `off`."""

    def concerns(self, value: Any) -> bool:
        return value in self.values if self.values is not None else value != self.off


def _no_class_labels(loaded: LoadedTask) -> str:
    return "" if loaded.train.labels is not None else "it needs one integer label per sample"


def _no_cross_entropy(loaded: LoadedTask) -> str:
    own = loaded.task.loss != "cross_entropy" or loaded.own_loss
    return "it needs the cross_entropy loss, the task has its own" if own else ""


def _no_loss_of_each(loaded: LoadedTask) -> str:
    if not isinstance(loaded.task.loss, str) or loaded.own_loss:
        return "it needs the loss of every sample, the task has a loss of its own"
    return "" if loaded.row_per_sample else "it needs the loss of every sample, the task's step gives no row for each"


def _nothing_to_read(loaded: LoadedTask) -> str:
    return "" if loaded.train.tensors is None else "the data are in memory already: reading them takes no time"


NEEDS: tuple[Need, ...] = (
    Need("data.sampling", "uniform", _no_class_labels, ("class_balanced",)),
    Need("data.sampling", "uniform", _no_loss_of_each, ("importance", "infobatch", "selective")),
    Need("data.echo", 1, _nothing_to_read),
    Need("data.order", "shuffled", _no_loss_of_each),
    Need("regularize.label_smoothing", 0.0, _no_cross_entropy),
)


def unavailable(loaded: LoadedTask) -> list[dict[str, Any]]:
    """Plain rows {path, off, values or None, reason} of everything this task cannot use."""
    rows = [(need, need.why_not(loaded)) for need in NEEDS]
    return [
        {"path": need.path, "off": need.off, "values": list(need.values) if need.values else None, "reason": reason}
        for need, reason in rows
        if reason
    ]


def refuse(loaded: LoadedTask, config: TrainerConfig) -> None:
    """UsageError with everything in a config that this task cannot use."""
    params = to_params(config)
    found = [
        (f"{need.path} {params[need.path]!r}: {reason}", f"Set {need.path} to {need.off!r}.")
        for need in NEEDS
        if need.concerns(params[need.path]) and (reason := need.why_not(loaded))
    ]
    if found:
        raise UsageError("\n  ".join(text for text, _ in found), " ".join(hint for _, hint in found))
