"""Device slots of this machine: what the workers of each trial that may run at once are started with.

A device is a GPU, or on a machine without one a core. Knows no torch and starts nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoaccel.errors import UsageError
from autoaccel.hardware.profile import usable_cores

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """Room for one trial; by default all that this process has."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside that of this process."""
    cores: frozenset[int] | None = None
    """The only cores its workers run on; None: any."""


def device_slots(n_devices: int, n_trials: int) -> tuple[Slot, ...]:
    """A slot for each of `n_trials` at once, spread evenly over devices; neighbours in the order are on different ones.

    With one device nothing is set apart: trials take the first one there is, as a single trial does.

    Raises:
        UsageError: this machine has fewer devices.
    """
    if n_devices == 1:
        return (Slot(),) * n_trials
    gpus = visible_gpus()
    cores = sorted(_affinity())[: usable_cores()] if not gpus else []
    have, kind = (len(gpus), "GPU") if gpus else (len(cores), "core")
    if n_devices > max(1, have):
        raise UsageError(
            f"devices {n_devices}: this machine has {have or 1} {kind}{'s' * (have > 1)} for trials",
            f"Use at most --devices {max(1, have)}; --trials-at-once lets several trials share one.",
        )
    if gpus:
        own = [Slot({VISIBLE: gpu}) for gpu in gpus[:n_devices]]
    else:
        share = len(cores) // n_devices
        own = [Slot(cores=frozenset(cores[i * share : (i + 1) * share])) for i in range(n_devices)]
    return tuple(own[i % n_devices] for i in range(n_trials))


def visible_gpus(devices: Path = Path("/dev")) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be set to for one GPU each: its own entries, else numbers of NVIDIA's devices."""
    given = os.environ.get(VISIBLE)
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return [] if "-1" in names else [name for name in names if name]
    n_files = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in devices.glob("nvidia*"))
    return [str(number) for number in range(n_files)]


def _affinity() -> set[int]:
    """Cores this process may run on; none where processes cannot be bound to cores."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
