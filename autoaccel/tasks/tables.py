"""`--model mlp --table FILE --label COLUMN`: classification of the rows of a .parquet or .csv table.

Everything that is computed from values (means, categories) comes from the training rows alone. Loads no torch until a
model is built. Must not know how the rows are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.tasks.columns import MOMENT, NUMBER, TEXT, check_label, kinds, label_values, read
from autoaccel.tasks.splits import Labels, classes_of, coded, stratified
from autoaccel.tasks.starts import check_weights, from_weights

if TYPE_CHECKING:
    from torch import nn

Column = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Table:
    """What `--model mlp` says."""

    model: Literal["mlp"] = "mlp"
    table: Path
    """A .parquet or .csv file."""
    label: str
    """The column to predict; all others are inputs."""
    metric: Literal["accuracy", "f1", "auc", "loss"] = "accuracy"
    weights: Path | None = None
    """Start every training from the weights in this file, see `Task`."""

    @property
    def name(self) -> str:
        """What the task is called."""
        return f"mlp-{self.table.stem}{from_weights(self.weights)}"

    @property
    def _what(self) -> str:
        return f"--table {self.table}"

    def check(self) -> None:
        """What the head of the file says: UsageError if it is missing, has no such label, or columns of no use."""
        check_weights(self.weights)
        found = kinds(self.table, self._what)
        check_label(self.label, found, self.table)
        inputs = {name: kind for name, kind in found.items() if name != self.label}
        if not inputs:
            raise UsageError(f"{self._what}: no column besides the label", "Give at least one input.")
        strange = [f"{name} ({kind})" for name, kind in inputs.items() if kind not in (NUMBER, MOMENT, TEXT)]
        if strange:
            raise UsageError(
                f"{self._what}: columns that are neither numbers, dates nor text: {', '.join(strange[:3])}",
                "Leave them out of the file, or turn them into such.",
            )

    def task(self) -> Task:
        """The task: fp32 rows (n, numbers + categorical columns), the categories as whole numbers last."""
        self.check()
        inputs = {name: kind for name, kind in kinds(self.table, self._what).items() if name != self.label}
        columns = read(self.table, self._what, [*inputs, self.label])
        found = label_values(columns.pop(self.label), self.label, self._what)
        self._check_classes(found)
        classes = classes_of(found, f"{self._what}: {self.label}")
        codes = coded(found, classes, self._what)
        sets = stratified(codes)
        numbers = [c for name, kind in inputs.items() if kind != TEXT for c in _numeric(columns[name], sets[0])]
        levels = [_categories(columns[name], sets[0]) for name, kind in inputs.items() if kind == TEXT]
        if not numbers and not levels:
            raise UsageError(f"{self._what}: no input column has two values in the training rows", "Check the file.")
        rows = np.stack([*numbers, *(column for column, _ in levels)], axis=1)
        train, validation, test = ((rows[indices], codes[indices]) for indices in sets)
        return Task(
            name=self.name,
            model=partial(table_net, len(numbers), [n for _, n in levels], len(classes)),
            train=train,
            validation=validation,
            test=test,
            metric=self.metric,
            weights=self.weights,
        )

    def _check_classes(self, found: Labels) -> None:
        n_values = len(np.unique(found))
        fractions = found.dtype.kind == "f" and not bool((found == np.floor(found)).all())
        if fractions or (found.dtype.kind in "iuf" and n_values > max(20, len(found) // 10)):
            raise UsageError(
                f"--label {self.label}: {n_values} different numbers in {len(found)} rows are no classes",
                "Only classification is offered: choose another column, or write a task of your own with loss='mse'.",
            )


def table_net(n_numbers: int, n_levels: list[int], n_classes: int) -> nn.Module:
    """A fresh `nets.TableNet`: 2 hidden layers of 256."""
    from autoaccel.tasks.nets import TableNet

    return TableNet(n_numbers, n_levels, n_classes)


def _numeric(column: Any, train: Rows) -> list[Column]:
    """The column with mean 0 and deviation 1 over the training rows, and where some of these lack a value a second
    one that says so. A missing value counts as the mean. Nothing for a column that says nothing.
    """
    import pyarrow as pa

    if pa.types.is_temporal(column.type):
        whole = pa.int32() if column.type.bit_width == 32 else pa.int64()
        column = column.cast(whole)
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    missing = ~np.isfinite(values)
    known = values[train][~missing[train]]
    found = []
    if len(known) and known.min() < known.max():
        scaled = (values - known.mean()) / known.std()
        found.append(np.where(missing, 0.0, scaled).astype(np.float32))
    if len(known) and len(known) < len(train):
        found.append(missing.astype(np.float32))
    return found


def _categories(column: Any, train: Rows) -> tuple[Column, int]:
    """The number of each category, and how many there are.

    0 stands for a missing value and for what occurs less than twice among the training rows: nothing can be learned
    of it, nor of what they never show.
    """
    values = np.asarray(column.cast("string").fill_null("").to_pylist(), dtype=object)
    names, counts = np.unique(values[train], return_counts=True)
    number = {name: index for index, name in enumerate(names[counts > 1], start=1) if name != ""}
    return np.asarray([number.get(value, 0) for value in values], dtype=np.float32), len(names) + 1
