"""Worker processes that read samples ahead of the training.

What it does: samples that cannot be resident (too many, or augmented when read) are read by `workers` processes, each
`prefetch` batches ahead; with `pin` into page-locked memory, from where the copy to the device overlaps with computing.
When it pays: where reading a batch takes longer than training on it. Samples in memory are faster without.
Cost: a process and `prefetch` batches of memory per worker; a worker's start.
Source: PyTorch's DataLoader; the effect of workers, pinning and persistent workers: techniques.md rows 14 to 16.
Order: enters at build time as what fetches batches; an evaluation reads through workers of its own.
Conflicts: an order that learns from losses (its next samples are not known ahead); resident data; `pin` without an
accelerator.

Which samples a worker reads, and the random numbers it draws for them, follow from the seed and the position alone, so
that a training can be resumed anywhere. Must not know models or losses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from autoaccel.sections import Loader
from autoaccel.tasks.load import describe
from autoaccel.trainer.data import Batch, Split, map_batch

Wanted = tuple[int, list[int]]
"""Position in the order of samples, and the samples of one piece of a batch."""


class Ahead:
    """The batches of one split, read by worker processes in a sequence that is known ahead."""

    def __init__(self, split: Split, config: Loader, seed: int) -> None:
        self._split, self._sequence = split, _Sequence()
        self._loader: Any = DataLoader(
            cast(Any, _Reading(split, seed)),
            batch_sampler=self._sequence,
            num_workers=config.workers,
            prefetch_factor=config.prefetch,
            pin_memory=config.pin,
            persistent_workers=True,
            collate_fn=cast(Any, _as_read),
            generator=torch.Generator(),  # of the workers' own seeds, which are not used; not the training's generator
        )
        self._pins = config.pin

    def read(self, wanted: Callable[[], Iterator[Wanted]]) -> Iterator[tuple[list[int], Batch]]:
        """Samples and their batch, on the device, in the order wanted; workers stay for the next call."""
        self._sequence.wanted = wanted
        for indices, batch in iter(self._loader):
            if isinstance(batch, str):
                raise RuntimeError(batch)
            yield indices, map_batch(batch, lambda t: t.to(self._split.device, non_blocking=self._pins))

    def close(self) -> None:
        """End the workers; what holds a half-read sequence would keep them otherwise."""
        if self._loader._iterator is not None:
            self._loader._iterator._shutdown_workers()


class Fetch:
    """What the training asks for its batches: takes them from workers as long as it asks in the expected order."""

    def __init__(self, ahead: Ahead, wanted_from: Callable[[int], Iterator[Wanted]]) -> None:
        """Args:
        ahead: the workers.
        wanted_from: the sequence of pieces from a position on.
        """
        self._ahead, self._wanted_from = ahead, wanted_from
        self._batches: Iterator[tuple[list[int], Batch]] = iter(())
        self._position = -1
        self._held: list[tuple[list[int], Batch]] = []

    def __call__(self, indices: torch.Tensor, position: int) -> Batch:
        """The batch of these samples, a piece of the step at `position`; pieces of the same step may be asked again."""
        asked = indices.tolist()
        if position == self._position:
            again = next((batch for known, batch in self._held if known == asked), None)
            if again is not None:
                return again
        else:
            self._held = []
        found = next(self._batches, None)
        if found is None or found[0] != asked:  # the beginning, or a training that goes on from a checkpoint
            self._batches = self._ahead.read(lambda: self._wanted_from(position))
            found = next(pair for pair in self._batches if pair[0] == asked)
        self._position = position
        self._held.append(found)
        return found[1]

    def close(self) -> None:
        """End the workers."""
        self._ahead.close()


class InOrder:
    """What an evaluation reads, by workers where a split is not resident; they stay for the next evaluation."""

    def __init__(self, config: Loader, seed: int) -> None:
        self._config, self._seed, self._known = config, seed, dict[str, Ahead]()

    def __call__(self, split: Split, n: int, size: int) -> Iterator[Batch]:
        """The first `n` samples, in batches of `size`."""
        if split.tensors is not None:
            return split.in_order(n, size)
        if split.name not in self._known:
            self._known[split.name] = Ahead(split, self._config, self._seed)
        wanted = [(at, list(range(at, min(at + size, n)))) for at in range(0, n, size)]
        return (batch for _, batch in self._known[split.name].read(lambda: iter(wanted)))

    def close(self) -> None:
        """End the workers."""
        for ahead in self._known.values():
            ahead.close()


def in_pieces(indices: torch.Tensor, position: int, n_pieces: int) -> Iterator[Wanted]:
    """The pieces of one step, as the loop asks for them."""
    for piece in indices.tensor_split(min(n_pieces, len(indices))):
        yield position, piece.tolist()


class _Sequence:
    """What the loader's workers are to read next: iterated anew by every `Ahead.read`."""

    wanted: Callable[[], Iterator[Wanted]] = staticmethod(lambda: iter(()))

    def __iter__(self) -> Iterator[list[Any]]:
        return ([position, *indices] for position, indices in self.wanted())


class _Reading:
    """The dataset as workers see it: a whole piece at once, its random draws a function of seed and position."""

    def __init__(self, split: Split, seed: int) -> None:
        self._split, self._seed = split, seed

    def __getitems__(self, wanted: Sequence[int]) -> tuple[list[int], Batch | str]:
        position, *indices = wanted
        key = int(np.random.SeedSequence([self._seed, position, indices[0]]).generate_state(1)[0])
        torch.manual_seed(key)
        np.random.seed(key)
        random.seed(key)
        try:
            return indices, self._split.collate([self._split.dataset[i] for i in indices])
        except Exception as error:  # told in one line where it can be; the loader would send a page of traceback
            return indices, f"reading samples {indices[0]}.. failed: {describe(error)}"


def _as_read(found: tuple[list[int], Batch]) -> tuple[list[int], Batch]:
    """Samples are collated where they are read."""
    return found
