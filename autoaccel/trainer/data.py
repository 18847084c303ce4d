"""Data where the loop wants it: compact tensors on the device when they fit, else samples fetched one by one.

Must not know models or losses, nor which samples are drawn when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from autoaccel.errors import UsageError
from autoaccel.tasks.load import describe

Batch = Any
"""A tuple or dict of tensors with the same first dimension."""

_DEVICE_SHARE = 0.4
"""Data lives on the device if it takes at most this share of its free memory; the rest is for training."""
_N_LOOKS = 32
"""Samples read twice to see whether a Dataset augments: a change of one sample in ten is missed once in 500 times."""
_CHUNK_BYTES = 2**20
"""Samples are read so much at a time: they are held a second time meanwhile."""


@dataclass(frozen=True)
class Drawn:
    """The samples of one optimizer step."""

    indices: torch.Tensor
    """int64, shape (n,)."""
    weights: torch.Tensor | None = None
    """Of every sample in the mean loss, shape (n,), on the device; None: all 1."""
    batch: Batch | None = None
    """Their data, prepared, where it had to be looked at already."""

    def pieces(self, n: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, Batch | None]]:
        """Indices, weights and batch of each of `n` pieces, of equal size up to one sample; none is empty."""
        n = min(n, len(self.indices))
        if n == 1:
            yield self.indices, self.weights, self.batch
            return
        weights = [None] * n if self.weights is None else self.weights.tensor_split(n)
        batches = [None] * n if self.batch is None else _pieces_of(self.batch, n)
        yield from zip(self.indices.tensor_split(n), weights, batches, strict=True)


@dataclass(frozen=True)
class Split:
    """One split: `tensors` (resident) or, if that is None, a dataset that is read sample by sample."""

    name: str
    n: int
    device: torch.device
    tensors: Batch | None
    dataset: Any = None
    shape: tuple[int, ...] = ()
    """Of the first tensor of one sample."""

    def take(self, indices: torch.Tensor) -> Batch:
        """The batch of these samples, on the device. `indices`: int64, any device, shape (k,)."""
        if self.tensors is not None:
            return map_batch(self.tensors, lambda t: t.index_select(0, indices.to(t.device)).to(self.device))
        batch = self.collate([self.dataset[int(i)] for i in indices.tolist()])
        return map_batch(batch, lambda t: t.to(self.device))

    def collate(self, samples: list[Any]) -> Batch:
        """The batch of samples that were read, where they were read."""
        return _as_batch(default_collate(samples), self.name)

    def in_order(self, n: int, size: int) -> Iterator[Batch]:
        """Batches of the first `n` samples, on the device."""
        for at in range(0, n, size):
            yield self.take(torch.arange(at, min(at + size, n)))

    @property
    def targets(self) -> torch.Tensor | None:
        """What is to be predicted, if that can be told: the second tensor of a pair, or the dict key 'labels'."""
        if self.tensors is None:
            return None
        if isinstance(self.tensors, dict):
            found: torch.Tensor | None = self.tensors.get("labels")
            return found
        return self.tensors[1] if len(self.tensors) == 2 else None

    @property
    def labels(self) -> torch.Tensor | None:
        """Integer class of every sample, shape (n,), or None if the targets are anything else."""
        found = self.targets
        integral = found is not None and found.ndim == 1 and not found.is_floating_point()
        return found if integral else None


def load_split(data: Any, name: str, device: torch.device) -> Split:
    """Put one split where the device can read it.

    float64 becomes float32 and integer labels become int64, because models and losses take these; all other types stay.

    Raises:
        UsageError: empty, ragged or unreadable data.
    """
    if _is_columns(data):
        batch = _as_batch(data, name)
        return Split(name, _length(batch, name), device, _to_device(batch, device), shape=_shape(batch))
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise UsageError(
            f"{name} data: a {type(data).__name__} is neither (inputs, targets), a dict, nor a map-style Dataset",
            "Give tensors or arrays, or an object with __len__ and __getitem__ (of a DataLoader: its .dataset).",
        )
    n = len(data)
    if n == 0:
        raise UsageError(f"{name} data: empty dataset (0 samples)", "Give at least one sample.")
    looks = range(min(n, _N_LOOKS))
    samples = _read(data, looks, name)
    is_random = any(not _same(a, b) for a, b in zip(columns(samples), columns(_read(data, looks, name)), strict=True))
    if is_random or _bytes(samples) / len(looks) * n > _DEVICE_SHARE * _free_bytes(device):
        return Split(name, n, device, None, data, _shape(samples))
    return Split(name, n, device, _to_device(_read_whole(data, n, name), device), shape=_shape(samples))


def columns(batch: Batch) -> list[torch.Tensor]:
    """The tensors of a batch, in order."""
    return list(batch.values()) if isinstance(batch, dict) else list(batch)


def titles(batch: Batch) -> list[str]:
    """What messages call the tensors of a batch."""
    if isinstance(batch, dict):
        return [repr(key) for key in batch]
    return ["inputs", "targets"] if len(batch) == 2 else [f"item {i}" for i in range(len(batch))]


def map_batch(batch: Batch, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """The batch with a function applied to each of its tensors."""
    if isinstance(batch, dict):
        return {key: function(value) for key, value in batch.items()}
    return tuple(function(value) for value in batch)


def concatenated(batches: Sequence[Batch]) -> Batch:
    """One batch of several of the same form."""
    if isinstance(batches[0], dict):
        return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    return tuple(torch.cat(column) for column in zip(*batches, strict=True))


def _pieces_of(batch: Batch, n: int) -> list[Batch]:
    """The batch in `n` pieces, of equal size up to one sample."""
    pieces = [column.tensor_split(n) for column in columns(batch)]
    if isinstance(batch, dict):
        return [dict(zip(batch, piece, strict=True)) for piece in zip(*pieces, strict=True)]
    return list(zip(*pieces, strict=True))


def _is_columns(data: Any) -> bool:
    """Whether whole columns were given (a dict, a tuple, a list with an array in it), not samples."""
    return isinstance(data, dict | tuple) or (isinstance(data, list) and any(hasattr(v, "__array__") for v in data))


def _as_batch(data: Any, name: str) -> Batch:
    """Tensors in a tuple or dict; a lone tensor becomes a 1-tuple."""
    data = (data,) if isinstance(data, torch.Tensor) else data
    if not isinstance(data, dict | tuple | list):
        raise UsageError(f"{name} data: a sample is a {type(data).__name__}", "Return a tuple or a dict of tensors.")
    if isinstance(data, dict):
        return {key: _tensor(value, f"{name} {key!r}", key == "labels") for key, value in data.items()}
    named = zip(data, titles(data), strict=True)
    return tuple(_tensor(value, f"{name} {title}", title == "targets") for value, title in named)


def _tensor(value: Any, where: str, is_target: bool) -> torch.Tensor:
    try:
        if not isinstance(value, torch.Tensor):
            array = np.asarray(value)
            # torch takes no negative strides and warns about memory it must not write to
            borrowed = array.flags.writeable and all(stride >= 0 for stride in array.strides)
            value = torch.as_tensor(array if borrowed else array.copy())
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{where}: cannot become a tensor: {describe(error)}", "Give tensors or arrays.") from error
    tensor: torch.Tensor = value.detach()
    if tensor.dtype == torch.float64:
        return tensor.float()
    return tensor.long() if is_target and not tensor.is_floating_point() else tensor


def _read_whole(dataset: Any, n: int, name: str) -> Batch:
    """The batch of all samples, read into tensors of the final size: never held twice."""
    first = _read(dataset, range(1), name)
    size = max(1, _CHUNK_BYTES // max(1, _bytes(first)))
    whole = map_batch(first, lambda t: t.new_empty((n, *t.shape[1:])))
    for at in range(0, n, size):
        chunk = _read(dataset, range(at, min(at + size, n)), name)
        for column, part in zip(columns(whole), columns(chunk), strict=True):
            if column.shape[1:] != part.shape[1:] or column.dtype != part.dtype:
                found = f"{part.dtype} {tuple(part.shape[1:])} after {column.dtype} {tuple(column.shape[1:])}"
                raise _no_batch(name, at, found)
            column[at : at + len(part)] = part
    return whole


def _read(dataset: Any, wanted: range, name: str) -> Batch:
    """The batch of some samples."""
    samples, at = [], 0
    try:
        for at in wanted:
            samples.append(dataset[at])
        return _as_batch(default_collate(samples), name)
    except UsageError:
        raise
    except Exception as error:
        raise _no_batch(name, at, describe(error)) from error


def _no_batch(name: str, at: int, why: str) -> UsageError:
    return UsageError(
        f"{name} data: samples up to number {at} do not make a batch: {why}",
        "Every sample has to be a tuple or dict of tensors of the same shapes.",
    )


def _length(batch: Batch, name: str) -> int:
    lengths = [len(t) if t.ndim else 0 for t in columns(batch)]
    if len(set(lengths)) > 1:
        raise UsageError(f"{name} data: lengths differ: {lengths}", "Inputs and targets need one row per sample.")
    if not lengths or lengths[0] == 0:
        raise UsageError(f"{name} data: empty (0 samples)", "Give at least one sample.")
    return lengths[0]


def _to_device(batch: Batch, device: torch.device) -> Batch:
    """On the device if it has room, else in this machine's memory, from where each batch is fetched."""
    fits = device.type == "cpu" or _bytes(batch) <= _DEVICE_SHARE * _free_bytes(device)
    return map_batch(batch, lambda t: t.to(device if fits else "cpu"))


def _shape(batch: Batch) -> tuple[int, ...]:
    return tuple(columns(batch)[0].shape[1:])


def _bytes(batch: Batch) -> int:
    return sum(t.nbytes for t in columns(batch))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether reading samples twice gave the same; if not, an augmentation is at work that must not be frozen."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)
