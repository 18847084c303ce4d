"""Signals as a value the loop can ask: the first one ends the tuning in order, the second one at once. Ctrl-C, SIGTERM,
and SIGUSR1, with which batch systems warn before they end a job.

Must not know what is being interrupted.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_COLLECTED = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n))


class Interrupt:
    """A context in which signals are collected. Outside the main thread signals cannot be caught, and none are."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in _COLLECTED:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
