"""Time as a value that is passed in. No other module asks the time, except the device stopwatch of the trainer.

`MonotonicClock` is immune to changes of the wall clock; `ManualClock` makes whole studies run in simulated time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from datetime import UTC, datetime


class Clock(ABC):
    """Monotonic seconds since an arbitrary start."""

    @abstractmethod
    def now(self) -> float:
        """Seconds; never decreases."""


class MonotonicClock(Clock):
    """The machine's monotonic clock (excludes suspend on Linux)."""

    def now(self) -> float:
        return time.monotonic()


class ManualClock(Clock):
    """A clock that moves only when told to."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move forward; a negative step is a mistake of the caller."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: {seconds=}")
        self._now_s += seconds


def utc_timestamp() -> str:
    """ISO-8601 UTC, for documents; never used to measure a duration."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def process_start() -> float:
    """The monotonic second at which this process began: what it imported since then was spent too."""
    import psutil

    age_s = float(time.time() - psutil.Process().create_time())
    return time.monotonic() - max(0.0, min(age_s, 60.0))
