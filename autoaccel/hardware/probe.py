"""Measures how fast this machine's trial device is, in seconds. Runs in a worker, where torch may be loaded.

Lists the devices, picks the one trials run on, and takes its rates, the most important first. A rate that does not fit
into the time limit, or that the device refuses, is left out with a reason and never estimated. Must not know tasks,
trials, budgets or the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from autoaccel.hardware import rates
from autoaccel.hardware.load import counters, load_between
from autoaccel.hardware.profile import Rate, facts
from autoaccel.hardware.stopwatch import Allowance, allow, now

Measure = Callable[[Allowance], Rate | tuple[Rate, str]]
"""A rate, or a rate and how it was measured, where that is worth saying; see `rates`."""
NO_TIME = "time limit"
FORMATS = ("contiguous", "channels_last")


def measure(limit_s: float, cached: dict[str, Any] | None, folder: str | None = None) -> dict[str, Any]:
    """Devices and measured rates, as plain values for JSON; the keys are fields of HardwareProfile.

    Args:
        limit_s: seconds from this call on, the import of torch included; what does not fit is skipped.
        cached: an earlier result or a profile's JSON; if devices and threads are the same, only what is not in it is
            measured: neither its rates nor what the device refused.
        folder: whose disk is read, each time anew; None: no disk's.
    """
    began = now()
    import torch

    kind = chosen_device()
    found = {"device": kind, "devices": list_devices(kind), "n_threads": torch.get_num_threads()}
    same = cached if cached and all(cached.get(name) == value for name, value in found.items()) else {}
    known = {name: value for name, value in same.get("rates", {}).items() if name != "disk"}
    refused = {name: why for name, why in same.get("skipped", {}).items() if why != NO_TIME and name != "disk"}
    measures = measures_of(kind, folder)
    wanted = {name: run for name, run in measures.items() if name not in known and name not in refused}
    before = counters()
    taken, notes, skipped = _run(wanted, allow(limit_s - (now() - began).wall_s, len(wanted)))
    if kind != "cpu":
        getattr(torch, kind).empty_cache()
    taken, notes, skipped = known | taken, same.get("notes", {}) | notes, refused | skipped
    return {
        **found,
        "rates": {name: taken[name] for name in measures if name in taken},
        "notes": {name: notes[name] for name in measures if name in notes and name in taken},
        "skipped": {name: skipped[name] for name in measures if name in skipped},
        "load": asdict(load_between(before, counters())) if wanted else same["load"],
    }


def chosen_device() -> str:
    """'cuda' or 'mps' if one is there, else 'cpu'."""
    import torch

    # Asked first, because a CUDA build names 'cuda' as its accelerator on a machine that has none (torch 2.15).
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None and accelerator.type in ("cuda", "mps") else "cpu"


def list_devices(kind: str) -> list[dict[str, Any]]:
    """All devices of a kind, with the fields of `profile.Device`."""
    import torch

    if kind == "cuda":
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [_device(kind, p.name, p.total_memory, f"{p.major}.{p.minor}") for p in found]
    known = facts()
    if kind == "mps":
        return [_device(kind, known["cpu_model"], torch.mps.recommended_max_memory(), "")]
    return [_device(kind, known["cpu_model"], known["memory_bytes"], "")]


def _device(kind: str, name: str, memory_bytes: int, capability: str) -> dict[str, Any]:
    return {"kind": kind, "name": name, "memory_bytes": memory_bytes, "capability": capability}


def measures_of(kind: str, folder: str | None) -> dict[str, Measure]:
    """What is measured on a kind of device, by the name of the rate, the most important first."""
    short = ("bf16",) if kind == "cpu" else ("bf16", "fp16")
    products = ("tf32", *short) if kind == "cuda" else short
    measures: dict[str, Measure] = {
        "matmul.fp32": partial(rates.matmul, kind, "fp32"),
        "memory": partial(rates.memory, kind),
        "dispatch": partial(rates.dispatch, kind),
    }
    if kind != "cpu":
        measures["host_to_device.pinned"] = partial(rates.host_to_device, kind, True)
        measures["host_to_device.pageable"] = partial(rates.host_to_device, kind, False)
    measures |= {f"matmul.{dtype}": partial(rates.matmul, kind, dtype) for dtype in products}
    for dtype in ("fp32", *short):
        for layout in FORMATS:
            measures[f"convolution.{dtype}.{layout}"] = partial(rates.convolution, kind, dtype, layout)
    measures["loader"] = rates.loader
    if folder is not None:
        measures["disk"] = partial(rates.disk, Path(folder))
    return measures


def _run(
    measures: dict[str, Measure], allowed: Allowance
) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, str]]:
    """Rates, notes on them, and why others are missing, each by name."""
    taken, notes, skipped = dict[str, dict[str, Any]](), dict[str, str](), dict[str, str]()
    for name, run in measures.items():
        try:
            rate = run(allowed)
        except TimeoutError:
            skipped[name] = NO_TIME
        except (RuntimeError, TypeError, OSError) as error:  # out of memory; a dtype, pinning, a folder it cannot have
            skipped[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            found, note = rate if isinstance(rate, tuple) else (rate, "")
            taken[name] = asdict(found)
            notes |= {name: note} if note else {}
    return taken, notes, skipped
