"""The device stopwatch: training seconds, with the accelerator's queue drained where the time is read.

The only place of the trainer that looks at a clock; must not know what is being timed.
"""

from __future__ import annotations

import time

import torch


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it; nothing to wait for on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Stopwatch:
    """Seconds since construction, plus those of an earlier session of the same training."""

    def __init__(self, device: torch.device, already_s: float = 0.0) -> None:
        self._device = device
        self._start = time.perf_counter() - already_s

    def elapsed_s(self, *, drained: bool = True) -> float:
        """Seconds so far; drains the device's queue first, unless a rough reading will do."""
        if drained:
            synchronize(self._device)
        return time.perf_counter() - self._start
