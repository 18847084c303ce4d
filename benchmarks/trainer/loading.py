"""Data in memory as peers take it: a map-style dataset behind torch's DataLoader, no worker processes.

In its documented form a dataset gives single samples, which the loader collates. In the other form it hands over a
whole batch at once (`__getitems__`, which torch's loader calls if it is there), and nothing is collated: the least that
a loader can cost. Must not know any peer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.trainer.workloads import Job


class Named(Dataset[dict[str, torch.Tensor]]):
    """Samples as dicts of `inputs` and `labels`."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> dict[str, torch.Tensor]:
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class WholePairs(TensorDataset):
    """Pairs, a batch at a time."""

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        chosen = torch.tensor(indices)
        return tuple(column[chosen] for column in self.tensors)


class WholeNamed(Named):
    """Dicts, a batch at a time."""

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        return self[torch.tensor(indices)]


def as_it_is(batch: Any) -> Any:
    """To collate what needs no collating."""
    return batch


def pairs(job: Job) -> TensorDataset:
    """(inputs, targets) samples of a job."""
    return (WholePairs if job.whole_batches else TensorDataset)(job.inputs, job.targets)


def named(job: Job) -> Named:
    """Dict samples of a job."""
    return (WholeNamed if job.whole_batches else Named)(job.inputs, job.targets)


def loader(job: Job) -> DataLoader[Any]:
    """torch's loader of pairs."""
    return DataLoader(
        pairs(job),
        batch_size=job.recipe.batch,
        shuffle=job.shuffled,
        drop_last=True,
        num_workers=0,
        pin_memory=job.device.type == "cuda",
        collate_fn=as_it_is if job.whole_batches else None,
    )
