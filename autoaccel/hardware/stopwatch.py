"""Seconds of a call, on the wall and of this process's own processor time, and a deadline that is kept.

The only clock of this folder. Must not know what is timed, nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time

REPEATS = 3
"""At least so many calls make a measurement."""
LONGEST_SLICE_S = 0.4
"""Longer gives no better rate: the shortest of a hundred calls is no shorter than that of fifty (measured)."""


@dataclass(frozen=True)
class Took:
    """What something took: wall-clock seconds, and processor seconds of all threads of this process."""

    wall_s: float
    cpu_s: float

    def __sub__(self, earlier: Took) -> Took:
        return Took(self.wall_s - earlier.wall_s, self.cpu_s - earlier.cpu_s)


def now() -> Took:
    """Both clocks, from beginnings of their own."""
    return Took(perf_counter(), process_time())


@dataclass(frozen=True)
class Allowance:
    """How long measuring may take: each rate about a slice, and nothing that would end after the deadline."""

    deadline_s: float
    """On the wall clock of `now`."""
    slice_s: float

    def check(self, needed_s: float) -> None:
        """TimeoutError unless so many seconds are left."""
        if not now().wall_s + needed_s < self.deadline_s:  # a limit that is no number leaves none
            raise TimeoutError


def allow(limit_s: float, n_slices: int) -> Allowance:
    """So many seconds from now on, for so many slices; two thirds are left for what precedes a measurement, and for
    those that take longer than a slice."""
    return Allowance(now().wall_s + limit_s, min(LONGEST_SLICE_S, limit_s / 3 / max(1, n_slices)))


def best(call: Callable[[], object], allowed: Allowance, synchronize: Callable[[], object] = lambda: None) -> Took:
    """The shortest wall and the shortest processor time of repeated calls, over a slice, after one that warms up.

    The shortest, because whatever disturbs only adds.

    Raises:
        TimeoutError: not even REPEATS calls would end before the deadline.
    """
    allowed.check(0.0)
    first = _timed(call, synchronize)
    allowed.check(REPEATS * first.wall_s)
    until_s = min(now().wall_s + allowed.slice_s, allowed.deadline_s - first.wall_s)
    wall_s, cpu_s, n = math.inf, math.inf, 0
    while n < REPEATS or now().wall_s < until_s:
        took = _timed(call, synchronize)
        wall_s, cpu_s, n = min(wall_s, took.wall_s), min(cpu_s, took.cpu_s), n + 1
    return Took(wall_s, cpu_s)


def _timed(call: Callable[[], object], synchronize: Callable[[], object]) -> Took:
    synchronize()
    start = now()
    call()
    synchronize()
    return now() - start
