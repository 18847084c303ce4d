"""HardwareProfile: facts about this machine and its measured rates, their fingerprint, and a cache of them on disk.

Facts are read without torch, and a container's limits count as the machine's. Must not know torch, tasks or budgets;
rates come from `probe` and are never estimated here. A cache that cannot be read or written is no cache, not an error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from autoaccel.fingerprint import digest

VERSION = 2
"""Of the profile's JSON."""
_HARD_FACTS = 1
"""Version of what a fingerprint is made of; another one makes all that was measured before somebody else's."""
UNITS = {
    "matmul": "FLOP",
    "convolution": "FLOP",
    "memory": "bytes",
    "host_to_device": "bytes",
    "dispatch": "operations",
    "loader": "bytes",
    "disk": "bytes",
}
"""What is counted per second, by the first word of a rate's name."""
ISA = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimdhp", "bf16", "i8mm", "sve")
"""Instruction sets that change what a matrix product costs, as Linux names them."""

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Device:
    """One thing a trial can run on: all of its memory, and the compute capability of a CUDA device ('9.0'; else '')."""

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    memory_bytes: int
    capability: str


@dataclass(frozen=True)
class Rate:
    """The best of several measurements, in the unit that UNITS gives for its name."""

    per_s: float
    """Per second on the wall."""
    per_cpu_s: float | None
    """Per second of the processor time of the process that does the work; None where that is not what bounds it (an
    accelerator, a disk)."""

    def __post_init__(self) -> None:
        if not 0 < self.per_s < math.inf or not (self.per_cpu_s is None or 0 < self.per_cpu_s < math.inf):
            raise ValueError(f"a rate is finite and above zero, not {self}")


@dataclass(frozen=True)
class Load:
    """What else the machine did while the rates were measured; None where the system does not tell."""

    others: float | None
    """Share of the CPUs this process may use that others kept busy: processes, the kernel, a hypervisor's guests."""
    average: float | None
    """Processes that wanted a CPU, this one included, mean of the last minute."""


@dataclass(frozen=True, kw_only=True)
class HardwareProfile:
    """Measured facts about this machine. A rate that was not measured is absent or None, with a reason in `skipped`."""

    cpu_model: str
    isa: tuple[str, ...]
    """Those of ISA that Linux names; empty elsewhere."""
    usable_cores: int
    memory_bytes: int
    """Both are what this process may use: affinity and cgroup limits count."""
    n_cpus: int
    """Logical CPUs of the machine."""
    affinity: str
    """Those this process may run on, as Linux writes lists ('0-3,8'); empty where the system does not tell."""
    cgroup_cores: float | None
    cgroup_memory_bytes: int | None
    """The tightest limits of a container or a batch system; None without one."""
    os: str
    python: str
    devices: tuple[Device, ...]
    """The accelerators; the CPU alone where there is none."""
    device: Literal["cpu", "cuda", "mps"]
    n_threads: int
    """Threads torch had while the rates were measured."""
    rates: dict[str, Rate]
    """By name: 'matmul.DTYPE' and 'convolution.DTYPE.FORMAT' (fp32 and bf16; on CUDA fp16, and tf32 for products),
    'memory' (bytes read plus bytes written by a copy in the device's memory), 'host_to_device.pinned' and '.pageable',
    'dispatch' (launches of one small operation), 'loader' (what one DataLoader process hands over), 'disk' (read)."""
    notes: dict[str, str]
    """By the name of a rate, how it was measured where that is not always the same."""
    skipped: dict[str, str]
    """By the name of a rate that is missing, why."""
    load: Load
    host: str
    """Fingerprint without the devices: known before torch is imported, and the key of the cache."""
    fingerprint: str

    def __post_init__(self) -> None:
        unknown = [name for name in self.rates if name.partition(".")[0] not in UNITS]
        if unknown:
            raise ValueError(f"rates without a unit: {unknown}")
        if not self.devices or min(self.usable_cores, self.n_threads) < 1:
            raise ValueError("a profile has at least one device, one core and one thread")

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back."""
        return {"version": VERSION, **asdict(self), "isa": list(self.isa), "devices": [asdict(d) for d in self.devices]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> HardwareProfile:
        """The profile written by `to_json`; an error of Python's own if it is not one."""
        values = dict(data)
        if values.pop("version") != VERSION:
            raise ValueError(f"not a hardware profile of version {VERSION}")
        values |= {"isa": tuple(values["isa"]), "devices": tuple(Device(**d) for d in values["devices"])}
        values |= {"rates": {k: Rate(**r) for k, r in values["rates"].items()}, "load": Load(**values["load"])}
        return cls(**values)


def assemble(known: dict[str, Any], measured: dict[str, Any], software: dict[str, str]) -> HardwareProfile:
    """The profile made of `facts()`, the result of `probe.measure`, and `fingerprint.software()`."""
    values = {**known, **measured, "version": VERSION, "host": fingerprint(known, software)}
    return HardwareProfile.from_json({**values, "fingerprint": fingerprint(values, software)})


def facts() -> dict[str, Any]:
    """What is known without torch: the fields of HardwareProfile up to `python`. Plain values for JSON."""
    import platform

    import psutil

    model, isa = cpu_facts()
    cgroup_bytes = cgroup_memory_bytes()
    return {
        "cpu_model": model or platform.processor() or platform.machine(),
        "isa": isa,
        "usable_cores": usable_cores(),
        "memory_bytes": min(psutil.virtual_memory().total, cgroup_bytes or 2**63),
        "n_cpus": os.cpu_count() or 1,
        "affinity": cpu_list(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "",
        "cgroup_cores": cgroup_cores(),
        "cgroup_memory_bytes": cgroup_bytes,
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """Model name and instruction sets of interest of the first CPU; empty where the system does not tell."""
    lines = [line.partition(":") for line in _read(cpuinfo).splitlines()]
    values = {key.strip().lower(): value.strip() for key, _, value in reversed(lines)}
    flags = (values.get("flags") or values.get("features") or "").split()
    return values.get("model name", ""), [name for name in ISA if name in flags]


def cpu_list(cpus: Iterable[int]) -> str:
    """Numbers of CPUs as Linux writes them: {0, 1, 2, 8} is '0-2,8'."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)


def usable_cores(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Cores this process may keep busy: affinity, cut to the whole cores of a cgroup quota; at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cores(root, membership)  # which the affinity does not show (cpython#80235)
    return max(1, allowed if quota is None else min(allowed, math.floor(quota)))


def cgroup_cores(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Cores (a fraction) that the tightest CPU quota allows; None without a quota. Reads cgroup v2 and v1."""
    quotas = []
    for folder in _cgroup_folders("cpu", root, membership):
        v1 = f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        with suppress(ValueError):  # "max 100000", or no such file
            quota, period = map(int, (_read(folder / "cpu.max") or v1).split())
            if min(quota, period) > 0:  # v1 writes -1 for no quota
                quotas.append(quota / period)
    return min(quotas, default=None)


def cgroup_memory_bytes(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """The tightest memory limit in bytes; None without one. Reads cgroup v2 and v1."""
    limits = []
    for folder in _cgroup_folders("memory", root, membership):
        with suppress(ValueError):  # "max", or no such file
            limits.append(int(_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")))
    return min((limit for limit in limits if 0 < limit < 2**60), default=None)  # v1 writes about 2**63 for no limit


def cgroup_memory_left_bytes(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """What the tightest memory limit leaves, in bytes; None without one. File pages that can be dropped are left."""
    left = []
    for folder in _cgroup_folders("memory", root, membership):
        with suppress(ValueError):  # "max", or no such file
            limit = int(_read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes"))
            used = int(_read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes"))
            counts = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            dropped = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))  # v1 counts groups below
            if 0 < limit < 2**60:
                left.append(max(0, limit - used + dropped))
    return min(left, default=None)


def _cgroup_folders(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """The folders whose limits bind this process: its groups and all groups above them, in v2 and v1 mounts."""
    top = ["0::/", f"0:{controller}:/"]  # inside a container the own group is often mounted as the root
    for line in [*top, *_read(membership).splitlines()]:
        names, _, group = line.partition(":")[2].partition(":")
        if names and controller not in names.split(","):
            continue
        path = PurePosixPath(group)
        for base in (root / controller,) if names else (root, root / "unified"):
            yield from (base / str(above).lstrip("/") for above in (path, *path.parents))


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def fingerprint(facts_with_devices: dict[str, Any], software: dict[str, str]) -> str:
    """Digest of the hard facts and the version of torch; when it changes, times measured before no longer hold."""
    hard = {name: facts_with_devices[name] for name in ("cpu_model", "isa", "usable_cores")}
    devices = [[d["kind"], d["name"], _gib(d), d["capability"]] for d in facts_with_devices.get("devices", ())]
    return digest([_HARD_FACTS, hard, _gib(facts_with_devices), sorted(devices), software["torch"]])


def _gib(owner: dict[str, Any]) -> int:
    return round(int(owner["memory_bytes"]) / 2**30)


def load_cached(key: str) -> HardwareProfile | None:
    """The profile kept for this host, if there is a sound one; key: `fingerprint(facts(), software())`."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        profile = HardwareProfile.from_json(json.loads(_cache_file(key).read_text()))
        return profile if profile.host == key else None
    return None


def save_cached(profile: HardwareProfile) -> None:
    """Keep a profile for later runs on this host (atomically); does nothing where the cache cannot be written."""
    file = _cache_file(profile.host)
    temporary = file.with_suffix(f".{os.urandom(4).hex()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(profile.to_json(), indent=2, allow_nan=False) + "\n")
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def cache_folder() -> Path:
    """Where things are kept that can be made again: AUTOACCEL_CACHE_DIR, else the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("AUTOACCEL_CACHE_DIR") or user_cache_dir("autoaccel"))


def _cache_file(key: str) -> Path:
    return cache_folder() / f"hardware-{key}.json"
