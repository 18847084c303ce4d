"""Machine: what the times of trainings depend on, read in milliseconds and without torch.

What it is (processor, cores, memory, accelerators) and what runs on it (torch, driver). Must not measure anything, nor
know runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from autoaccel.fingerprint import digest, software
from autoaccel.hardware.profile import facts

_NVIDIA = Path("/proc/driver/nvidia")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine, as this process may use it."""

    cpu_model: str
    isa: tuple[str, ...]
    usable_cores: int
    memory_bytes: int
    """Affinity and cgroup limits count."""
    accelerators: tuple[str, ...] = ()
    """Models that NVIDIA's driver lists, as far as CUDA may use them, sorted. Others are not seen without torch."""
    torch: str
    driver: str = ""
    """Major version of NVIDIA's driver; empty without one, and where it was not kept."""

    @property
    def name(self) -> str:
        """A digest that is fit for a folder: the same for the same machine with the same software."""
        return digest({**asdict(self), "isa": list(self.isa), "memory_bytes": self.memory_gib})

    @property
    def memory_gib(self) -> int:
        return round(self.memory_bytes / 2**30)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `machine_of` reads back."""
        return {**asdict(self), "isa": list(self.isa), "accelerators": list(self.accelerators)}

    def __str__(self) -> str:
        what = ", ".join(f"{self.accelerators.count(a)} x {a}" for a in dict.fromkeys(self.accelerators))
        cpu = f"{self.cpu_model}, {self.usable_cores} core{'s' * (self.usable_cores != 1)}, {self.memory_gib} GiB"
        return f"{what}; {cpu}" if what else cpu


def this_machine() -> Machine:
    """The machine this process runs on."""
    known = facts()
    return Machine(
        cpu_model=known["cpu_model"],
        isa=tuple(known["isa"]),
        usable_cores=known["usable_cores"],
        memory_bytes=known["memory_bytes"],
        accelerators=accelerators(visible=os.environ.get("CUDA_VISIBLE_DEVICES")),
        torch=software()["torch"],
        driver=driver(),
    )


def machine_of(hardware: Mapping[str, Any], versions: Mapping[str, str]) -> Machine:
    """The machine of a run, from its hardware.json and the versions in its result.

    Runs from before machines were kept have the devices that torch saw, and no driver.

    Raises:
        KeyError, TypeError, ValueError: it is not a hardware.json.
    """
    kept = hardware.get("machine")
    if kept is None:
        names = [f.name for f in fields(Machine) if f.name in hardware]
        devices = sorted(d["name"] for d in hardware["devices"] if d["kind"] == "cuda")
        kept = {name: hardware[name] for name in names} | {"accelerators": devices, "torch": versions["torch"]}
    return Machine(**{**kept, "isa": tuple(kept["isa"]), "accelerators": tuple(kept["accelerators"])})


def accelerators(folder: Path = _NVIDIA, visible: str | None = None) -> tuple[str, ...]:
    """Models of the GPUs that NVIDIA's driver lists, sorted, parts of a partitioned one (MIG) beside it.

    Args:
        folder: the driver's in /proc; in a container it has what the container was given.
        visible: CUDA_VISIBLE_DEVICES. Numbers count: which GPU of a kind a batch system hands out changes nothing.
    """
    found = [_card(path) for path in sorted(folder.glob("gpus/*/information"))]
    if visible is not None:
        found = _visible(found, [part.strip() for part in visible.split(",") if part.strip()])
    parts = [f"MIG {path.parent.parent.name} {path.name}" for path in folder.glob("capabilities/gpu*/mig/gi*")]
    return tuple(sorted(model for model, _ in found) + sorted(parts))


def driver(folder: Path = _NVIDIA) -> str:
    """Major version of NVIDIA's driver; empty without one."""
    version = re.search(r"\b(\d{3,})\.\d+", _read(folder / "version").partition("\n")[0])
    return version[1] if version else ""


def _card(path: Path) -> tuple[str, str]:
    """Model and UUID of one GPU."""
    parts = (line.partition(":") for line in _read(path).splitlines())
    found = {name.strip(): value.strip() for name, _, value in parts}
    return found.get("Model", "unknown"), found.get("GPU UUID", "")


def _visible(cards: list[tuple[str, str]], wanted: list[str]) -> list[tuple[str, str]]:
    """The cards that are named by number or by UUID; what cannot be told apart here counts as itself."""
    found = []
    for name in wanted:
        if name.isdigit() and int(name) < len(cards):
            found.append(cards[int(name)])
        elif not name.isdigit() and name != "-1":
            found.append(next((c for c in cards if c[1].startswith(name)), (name, name)))
        else:
            break  # CUDA ignores what follows a device that is not there
    return found


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""
