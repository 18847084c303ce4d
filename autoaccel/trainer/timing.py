"""The device stopwatch: training seconds, with the accelerator's queue drained where the time is read; CPU seconds.

The only place of the trainer that looks at clocks; must not know what is being timed.
"""

from __future__ import annotations

import sys
import time

import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it; nothing to wait for on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Stopwatch:
    """Seconds since construction, plus those of an earlier session of the same training.

    Args:
        device: what computes.
        already_s: seconds of the earlier session.
        already_cpu_s: its CPU seconds; None: not known, so that those of both are not.
    """

    def __init__(self, device: torch.device, already_s: float = 0.0, already_cpu_s: float | None = 0.0) -> None:
        self._device = device
        self._start = time.perf_counter() - already_s
        self._cpu_start = None
        if device.type == "cpu" and already_cpu_s is not None:
            self._cpu_start = time.process_time() - already_cpu_s

    def elapsed_s(self, *, drained: bool = True) -> float:
        """Seconds so far; drains the device's queue first, unless a rough reading will do."""
        if drained:
            synchronize(self._device)
        return time.perf_counter() - self._start

    def cpu_s(self) -> float | None:
        """CPU seconds of this process so far, all its threads together; None where another device computes."""
        return None if self._cpu_start is None else time.process_time() - self._cpu_start


def waits_so_far() -> int:
    """How often this thread has given the processor up by itself; always 0 where the system does not tell (Linux does).

    One from which others took the processor has not: that is how a step that waits differs from one that is disturbed.
    """
    if not sys.platform.startswith("linux"):
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


Seconds = tuple[float, float]
"""On the wall, and of the processors, all threads of this process together."""


class Laps:
    """The seconds of each piece of something that repeats; the device's queue is drained where one follows another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._piece, self._since = "", (0.0, 0.0)
        self._taken: dict[str, Seconds] = {}

    def enter(self, piece: str) -> None:
        """The piece before is over; what follows belongs to this one, more of which may have been before."""
        synchronize(self._device)
        at = time.perf_counter(), time.process_time()
        if self._piece:
            wall_s, cpu_s = self._taken.get(self._piece, (0.0, 0.0))
            self._taken[self._piece] = (wall_s + at[0] - self._since[0], cpu_s + at[1] - self._since[1])
        self._piece, self._since = piece, at

    def end(self) -> dict[str, Seconds]:
        """The pieces since the last end, in the order in which they were first entered; starts anew."""
        self.enter("")
        taken, self._taken = self._taken, {}
        return taken
