"""What bounds an optimizer step: its work against the measured ceilings of the machine (the roofline model).

    attainable FLOP/s = min(peak, intensity x bandwidth);  intensity = FLOPs / bytes moved

Source: Williams, Waterman and Patterson, doi 10.1145/1498765.1498785; launching as a third ceiling is that of small
kernels. Pure: numbers in, numbers out. Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoaccel.hardware.profile import HardwareProfile

WAITS_AHEAD, WAITS = 0.1, 0.5
"""Share of a step spent waiting for samples from which on the loader bounds it: where processes read ahead of the step
any wait says that they are slower than the step (a tenth is beyond noise); where the step reads itself, only when
reading is most of it."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Measured rates of the machine; None where one was not measured."""

    flops_per_s: float | None
    """Of a large matrix product in the arithmetic of the step."""
    bytes_per_s: float | None
    operations_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one step does, and what it took."""

    flops: float
    """0: not counted."""
    n_bytes: float
    """Read and written by its operations, as if no cache kept anything in between."""
    n_operations: int
    seconds: float
    """In the seconds in which the ceilings are given: of the processors for a CPU, else on the wall."""
    waiting: float
    """Share of its wall-clock seconds spent waiting for samples and copying them to the device."""
    reads_ahead: bool
    """Whether other processes read its samples while it computes."""


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Where a step lies under its ceilings; None for what follows from something that was not measured or counted."""

    intensity: float | None
    """FLOPs per byte."""
    ridge: float | None
    """The intensity from which on the peak is lower than what the bandwidth allows, in FLOPs per byte."""
    peak_flops_per_s: float | None
    attainable_flops_per_s: float | None
    achieved_flops_per_s: float | None
    mfu: float | None
    """Model FLOPs utilisation: achieved over peak."""
    shares: dict[str, float]
    """By what may bound the step, how much of it that takes at least: its FLOPs at the peak, its bytes at the
    bandwidth, its operations at the rate of launches, its waiting. Bytes may take more than the step did: caches."""
    bound: str | None
    """The one of them that bounds the step; None where nothing was measured."""


def roofline(work: Work, ceilings: Ceilings) -> Roofline:
    """Where a step lies, and what bounds it: the loader if the step waits for it too long, else the ceiling at which
    its work takes longest."""
    peak, bandwidth = ceilings.flops_per_s, ceilings.bytes_per_s
    intensity = work.flops / work.n_bytes if work.flops and work.n_bytes else None
    achieved = work.flops / work.seconds if work.flops else None
    least_s = {
        "compute": work.flops / peak if work.flops and peak else None,
        "memory": work.n_bytes / bandwidth if bandwidth else None,
        "launch": work.n_operations / ceilings.operations_per_s if ceilings.operations_per_s else None,
    }
    computing = {name: s / work.seconds for name, s in least_s.items() if s is not None}
    waits = work.waiting > (WAITS_AHEAD if work.reads_ahead else WAITS)
    longest = max(computing, key=lambda name: computing[name], default=None)
    return Roofline(
        intensity=intensity,
        ridge=peak / bandwidth if peak and bandwidth else None,
        peak_flops_per_s=peak,
        attainable_flops_per_s=min(peak, intensity * bandwidth) if peak and bandwidth and intensity else None,
        achieved_flops_per_s=achieved,
        mfu=achieved / peak if achieved and peak else None,
        shares={**computing, "loader": work.waiting},
        bound="loader" if waits else longest,
    )


def step_roofline(breakdown: Mapping[str, Any], hardware: HardwareProfile) -> Roofline:
    """That of a measured step (`trainer.breakdown.measure_breakdown`, not out of memory) on a measured machine.

    On a CPU both sides are in processor seconds: what else runs there changes them little, and a step of several
    threads is compared with as many cores.
    """
    on_cpu = hardware.device == "cpu"

    def rate(name: str) -> float | None:
        found = hardware.rates.get(name)
        return None if found is None else found.per_cpu_s if on_cpu else found.per_s

    pieces = breakdown["pieces"]
    waiting_s = sum(pieces[name]["wall_s"] for name in ("data", "copy") if name in pieces)
    work = Work(
        flops=breakdown["step_flops"],
        n_bytes=breakdown["n_bytes"],
        n_operations=breakdown["n_operations"],
        seconds=breakdown["step"]["cpu_s" if on_cpu else "wall_s"],
        waiting=waiting_s / sum(piece["wall_s"] for piece in pieces.values()),
        reads_ahead=breakdown["reads_ahead"],
    )
    ceilings = Ceilings(
        flops_per_s=rate(f"matmul.{breakdown['arithmetic']}"),
        bytes_per_s=rate("memory"),
        operations_per_s=rate("dispatch"),
    )
    return roofline(work, ceilings)
