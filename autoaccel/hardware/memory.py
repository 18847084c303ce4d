"""Main memory as this process sees it: how much more it may take, and the most it has taken since it was asked last.

Facts from the kernel, without torch; Linux alone tells them. Must not know who takes the memory, nor other devices.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoaccel.hardware.profile import cgroup_memory_left_bytes

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_PROCESS_LIMITS = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
"""Limits of a process that torch's allocator runs into, and the line of its status that each is compared with."""


@dataclass(frozen=True)
class FreeMemory:
    """What a process may still take of a memory."""

    n_bytes: int
    limit: str
    """What it is limited by, in words."""
    refuses: bool
    """Whether going beyond is refused with an error; else the system swaps, or kills somebody."""


def free_main_memory(status: Path = _STATUS) -> FreeMemory:
    """The tightest of what the machine has available, the cgroup leaves, and the limits of this process leave."""
    import psutil

    found = [FreeMemory(int(psutil.virtual_memory().available), "the memory of this machine", refuses=False)]
    left = cgroup_memory_left_bytes()
    if left is not None:
        found.append(FreeMemory(left, "the memory limit of this container", refuses=False))
    found += [
        FreeMemory(max(0, limit - used), f"{name} of this process", refuses=True)
        for name, limit, used in _process_limits(status)
    ]
    return min(found, key=lambda free: free.n_bytes)


def resident_bytes(status: Path = _STATUS) -> int:
    """Memory of this process that is in RAM now; 0 where the system does not tell."""
    return _line(status, "VmRSS") or 0


def peak_resident_bytes(status: Path = _STATUS) -> int:
    """The most of it since `forget_peak`; 0 where the system does not tell."""
    return _line(status, "VmHWM") or 0


def forget_peak(clear_refs: Path = _CLEAR_REFS) -> bool:
    """Have the peak begin anew at what is resident now; whether the system lets us."""
    try:
        clear_refs.write_text("5")
    except OSError:
        return False
    return True


def _process_limits(status: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and what counts against it of every limit that is set."""
    found = []
    with suppress(ImportError):  # there is none on Windows
        import resource

        for name, line in _PROCESS_LIMITS.items():
            limit, _ = resource.getrlimit(getattr(resource, name))
            used = _line(status, line)
            if limit != resource.RLIM_INFINITY and used is not None:
                found.append((name, limit, used))
    return found


def _line(status: Path, name: str) -> int | None:
    """Bytes of a line such as `VmHWM:   1620 kB`."""
    with suppress(OSError, ValueError):
        for line in status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
