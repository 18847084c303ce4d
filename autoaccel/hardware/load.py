"""What else the machine did over a stretch of time, from counters of the system. Must not know what was measured."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from autoaccel.hardware.profile import Load


@dataclass(frozen=True)
class Counters:
    """Seconds since some beginning, summed over the CPUs this process may use."""

    total_s: float
    busy_s: float
    """With anything: a process, the kernel, another guest of the hypervisor."""
    own_s: float
    """With this process, or a child of it that has ended."""


def counters() -> Counters:
    """As they are now; the system counts in ticks of 10 ms."""
    import psutil

    cpus = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cpus = [times for at, times in enumerate(cpus) if at in os.sched_getaffinity(0)] or cpus
    # The kernel counts guests' time as the user's already.
    total = [
        sum(seconds for name, seconds in times._asdict().items() if not name.startswith("guest")) for times in cpus
    ]
    idle_s = sum(times.idle + getattr(times, "iowait", 0.0) for times in cpus)
    own = os.times()
    return Counters(sum(total), sum(total) - idle_s, own.user + own.system + own.children_user + own.children_system)


def load_between(before: Counters, after: Counters) -> Load:
    """The load between two readings; none is told from readings at the same time."""
    total_s = after.total_s - before.total_s
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    average = None
    with suppress(AttributeError, OSError):
        average = os.getloadavg()[0]
    return Load(min(1.0, max(0.0, others_s / total_s)) if total_s > 0 else None, average)
