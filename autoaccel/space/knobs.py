"""A knob: one tunable setting with its range or choices and the condition under which it exists.

Must not know how values are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoaccel.errors import UsageError

LIKELY = 0.75
"""Share of the draws that come from the likely part of a range."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One tunable setting.

    Either `choices`, or a range `low`..`high` (inclusive; on a log scale if `log`; whole numbers if `integer`).
    `when` maps other knobs' paths to the value, or the tuple of values, under which this one exists; a path may occur
    several times under conditions that exclude each other (the learning rate of each optimizer).
    """

    path: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    unit: str = ""
    """'epochs': the range is in passes over the training set until `Space.restrict` turns it into samples."""
    when: dict[str, Any] = field(default_factory=dict)
    prior: tuple[float, ...] = ()
    """What is likely before anything is known: a weight for each choice, or (low, high) of the part of a range from
    which three of four draws come. Empty: all values alike."""

    def __post_init__(self) -> None:
        if self.prior:
            self._check_prior()
        if self.choices:
            return
        if not self.low <= self.high or not math.isfinite(self.high):
            raise UsageError(f"low {self.low:g} is above high {self.high:g}", "Swap them or widen the range.")
        if self.log and self.low <= 0:
            raise UsageError(f"a log range cannot start at {self.low:g}", "Start above zero.")

    def _check_prior(self) -> None:
        if self.choices and (len(self.prior) != len(self.choices) or min(self.prior) <= 0):
            n = len(self.choices)
            raise UsageError(f"prior {list(self.prior)}: not {n} weights above zero", "Give one for each choice.")
        if not self.choices and (len(self.prior) != 2 or not self.low <= self.prior[0] < self.prior[1] <= self.high):
            raise UsageError(
                f"prior {list(self.prior)}: no part of the range {self.low:g} to {self.high:g}",
                "Give its low and high.",
            )

    @property
    def name(self) -> str:
        """Unique in a space: the path, plus its condition where it has one."""
        condition = ",".join("/".join(map(str, self.wanted(path))) for path in self.when)
        return f"{self.path}[{condition}]" if condition else self.path

    @property
    def is_numeric(self) -> bool:
        return not self.choices

    def wanted(self, path: str) -> tuple[Any, ...]:
        """Values of one of the knobs that this one depends on under which it exists."""
        value = self.when[path]
        return value if isinstance(value, tuple) else (value,)

    def exists(self, point: Mapping[str, Any]) -> bool:
        """Whether all conditions hold at a point; what the point does not say does not hold."""
        return all(point.get(path) in self.wanted(path) for path in self.when)

    def clip(self, value: float) -> float:
        """The nearest value in the range; whole if the knob is."""
        value = min(max(value, self.low), self.high)
        return round(value) if self.integer else value

    def drawn(self, u: float) -> float:
        """From an even draw 0..1 to a place by the prior: 0..1 on the knob's scale, or the index of a choice."""
        if self.choices:
            weights = self.prior or (1.0,) * len(self.choices)
            below = 0.0
            for index, weight in enumerate(weights):
                below += weight / sum(weights)
                if u < below:
                    return float(index)
            return float(len(weights) - 1)
        if not self.prior:
            return u
        low, high = map(self.to_unit, self.prior)
        return low + (high - low) * u / LIKELY if u < LIKELY else (u - LIKELY) / (1 - LIKELY)

    def to_unit(self, value: float) -> float:
        """Position of a value of the range, 0..1, on the knob's scale."""
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def from_unit(self, share: float) -> float:
        """The value at a position 0..1 (clipped)."""
        share = min(max(share, 0.0), 1.0)
        if self.log:
            return self.clip(self.low * (self.high / self.low) ** share)
        return self.clip(self.low + share * (self.high - self.low))
