"""Trials at once on shared hardware: how much longer they take than alone, measured, and how much of it each one had.

What is lost to a neighbour is assumed to grow evenly with their number, up to what was measured with all slots busy.
Values only; must not run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

_UNDISTURBED = 1.03


@dataclass(frozen=True)
class Crowding:
    """What was measured: seconds of a step with `n_slots` busy, over those of a step alone."""

    n_slots: int = 1
    ratio: float = 1.0

    @property
    def disturbs(self) -> bool:
        """Whether it is more than what a machine varies by itself."""
        return self.ratio > _UNDISTURBED

    def factor(self, n_beside: float) -> float:
        """How much longer a trial takes beside so many others."""
        return 1.0 + (self.ratio - 1.0) * n_beside / max(1, self.n_slots - 1)


ALONE = Crowding()
"""One slot."""


def crowding_of(alone: dict[str, Any], together: Sequence[dict[str, Any]]) -> Crowding:
    """From reference steps (see `trainer.reference`) in one slot, and in all of them at the same time; at least 1.

    Each slot began and ended a little before or after the others: the middle of its pieces is surely beside them.
    """
    alone_s = median(alone["wall_s"])
    beside_s = [s for facts in together for s in _middle(facts["wall_s"])]
    return Crowding(len(together), max(1.0, median(beside_s) / alone_s))


def _middle(seconds: Sequence[float]) -> Sequence[float]:
    return seconds[len(seconds) // 4 : len(seconds) - len(seconds) // 4]


@dataclass
class Company:
    """What one trial has had so far: seconds, and the same without what neighbours added."""

    wall_s: float = 0.0
    alone_s: float = 0.0

    def add(self, seconds: float, factor: float) -> None:
        self.wall_s += seconds
        self.alone_s += seconds / factor

    @property
    def crowding(self) -> float:
        """How much longer the trial has taken than alone."""
        return self.wall_s / self.alone_s if self.alone_s > 0 else 1.0
