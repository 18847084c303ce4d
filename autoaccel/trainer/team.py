"""Processes that train together: the first leads, the others do as it tells; sums and values that all of them need.

The leader alone looks at clocks, targets and limits, so that all take the same decisions. Must not know what a step or
an evaluation is made of, nor how processes are started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from autoaccel.errors import UsageError
from autoaccel.hardware.profile import usable_cores

STEP, EVALUATE, TEST, CHECKPOINT, LEAVE, MEASURE, END = range(7)
"""What the leader tells: one optimizer step; an evaluation, or of the test set; a checkpoint; that the evaluated
weights are left in the model; that steps of a size are measured; that the training, or measuring, is over."""
_N_NUMBERS = 5


class Team:
    """This process' place among those that train together. Of one process nothing is sent."""

    def __init__(self, rank: int = 0, n: int = 1) -> None:
        self.rank, self.n = rank, n

    def tell(self, deed: int, *numbers: float) -> None:
        """As the leader: have the others do something; `numbers` say how, at most four."""
        if self.n > 1:
            padded = [float(deed), *numbers, *[0.0] * (_N_NUMBERS - 1 - len(numbers))]
            dist.broadcast(torch.tensor(padded, dtype=torch.float64), 0)

    def told(self) -> tuple[int, list[float]]:
        """As one of the others: what to do next, and how."""
        numbers = torch.empty(_N_NUMBERS, dtype=torch.float64)
        dist.broadcast(numbers, 0)
        deed, *how = numbers.tolist()
        return int(deed), how

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's tensor, in place."""
        if self.n > 1:
            dist.all_reduce(value)
        return value

    def same(self, tensors: list[torch.Tensor], owner: int = 0) -> None:
        """Everybody's tensors as the owner has them, in place."""
        for tensor in tensors if self.n > 1 else ():
            dist.broadcast(tensor, owner)

    def gathered(self, value: Any) -> list[Any]:
        """As the leader: everybody's value, by rank; of the others: nothing."""
        if self.n == 1:
            return [value]
        found: list[Any] = [None] * self.n
        dist.gather_object(value, found if self.rank == 0 else None)
        return found if self.rank == 0 else []

    def from_owner(self, value: Any, owner: int) -> Any:
        """The owner's value, in main memory."""
        found = [value]
        if self.n > 1:
            dist.broadcast_object_list(found, owner)
        return found[0]

    def part(self, n: int) -> slice:
        """This process' part of `n` samples, of equal size up to one; the first parts are the larger ones."""
        size, larger = divmod(n, self.n)
        start = self.rank * size + min(self.rank, larger)
        return slice(start, start + size + (self.rank < larger))


ALONE = Team()


def team_of(n: int) -> Team:
    """The team of this process, which has to be of `n`.

    Raises:
        UsageError: this process is in none of that size.
    """
    if n == 1:
        return ALONE
    n_here = dist.get_world_size() if dist.is_initialized() else 1
    if n_here != n:
        raise UsageError(
            f"config.parallel: a training of {n} processes in a team of {n_here}",
            "Train with `autoaccel train` or `autoaccel.train`, which start them.",
        )
    return Team(dist.get_rank(), n)


def too_few_devices(n: int, device: torch.device | None = None) -> str:
    """Why `n` processes have no device each; empty if they do. `device`: one of theirs, by default the accelerator."""
    device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    n_here = usable_cores() if device.type == "cpu" else torch.accelerator.device_count()
    name = "core" if device.type == "cpu" else f"{device.type} device"
    found = f"there {'is' if n_here == 1 else 'are'} {n_here} {name}{'s' * (n_here > 1)}"
    return "" if n <= n_here else f"{found} for {n} processes"


@contextmanager
def joined(rank: int, n: int) -> Iterator[torch.device | None]:
    """This process as one of `n`, each with a device of its own, for a while; yields the accelerator, if there is one.

    Where to meet stands in the environment, as torch's launcher writes it. Tensors of CUDA devices go by NCCL, all
    others by gloo.
    """
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        torch.accelerator.set_device_index(rank)
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine: nothing leaves it
    dist.init_process_group("cpu:gloo,cuda:nccl" if device is not None and device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()
