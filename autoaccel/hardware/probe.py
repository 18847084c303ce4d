"""Measures how fast this machine's trial device is, in about a second. Runs in a worker, where torch may be loaded.

Lists the devices, picks the one trials run on, and times matrix products and copies on it. A rate that does not fit
into the time limit, or that the device refuses, is left out with a reason and never estimated. Must not know tasks,
trials, budgets or the cache; like the stopwatch of the trainer, it reads the time itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from autoaccel.hardware.profile import facts

if TYPE_CHECKING:
    import torch

REPEATS = 3
MATRIX_SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
LONG_ENOUGH_S = 0.005
"""A product this long is timed well; doubling the size from just below gives one of at most about 40 ms."""
CPU_COPY_BYTES = 64 * 2**20
ACCELERATOR_COPY_BYTES = 512 * 2**20
"""Beyond the caches of either; on an accelerator also long beside the 10 us of a launch."""
HOST_COPY_BYTES = 64 * 2**20
Measure = Callable[[float], float]
"""From the deadline to a rate per second. Raises TimeoutError if the deadline would pass."""
RATES = ("matmul_flops", "memory_bytes_per_s", "host_to_device_bytes_per_s")


def measure(limit_s: float, cached: dict[str, Any] | None) -> dict[str, Any]:
    """Devices and measured rates, as plain values for JSON; the keys are fields of HardwareProfile.

    Args:
        limit_s: seconds from this call on, the import of torch included; what does not fit is skipped.
        cached: an earlier result or a profile's JSON; its rates are taken if devices and threads are the same and
            nothing was skipped.
    """
    deadline = perf_counter() + limit_s
    import torch

    kind = chosen_device()
    found = {"device": kind, "devices": list_devices(kind), "n_threads": torch.get_num_threads()}
    if cached and cached.get("skipped") == {} and all(cached.get(name) == value for name, value in found.items()):
        return {**found, **{name: cached[name] for name in RATES}, "skipped": {}}
    dtypes = ("fp32", "bf16") if kind == "cpu" else ("fp32", "bf16", "fp16")
    rates, skipped = _run(_measures(kind, dtypes), deadline)
    if kind != "cpu":
        getattr(torch, kind).empty_cache()
    return {
        **found,
        "matmul_flops": {dtype: rates[dtype] for dtype in dtypes if dtype in rates},
        "memory_bytes_per_s": rates.get("memory"),
        "host_to_device_bytes_per_s": rates.get("host_to_device"),
        "skipped": skipped,
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


def _measures(kind: str, dtypes: tuple[str, ...]) -> dict[str, Measure]:
    size = CPU_COPY_BYTES if kind == "cpu" else ACCELERATOR_COPY_BYTES
    measures: dict[str, Measure] = {dtype: partial(_matmul_flops, kind, dtype) for dtype in dtypes}
    measures["memory"] = partial(_memory_bytes_per_s, kind, size)
    if kind != "cpu":
        measures["host_to_device"] = partial(_host_to_device_bytes_per_s, kind)
    return measures


def _run(measures: dict[str, Measure], deadline: float) -> tuple[dict[str, float], dict[str, str]]:
    rates, skipped = {}, {}
    for name, run in measures.items():
        try:
            rates[name] = run(deadline)
        except TimeoutError:
            skipped[name] = "time limit"
        except (RuntimeError, TypeError) as error:  # out of memory; a dtype or pinning that the device lacks
            skipped[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return rates, skipped


def _matmul_flops(kind: str, dtype: str, deadline: float) -> float:
    """FLOP/s of the smallest square product that takes LONG_ENOUGH_S: an emulated dtype stays cheap to measure."""
    import torch

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    generator = torch.Generator(device=kind).manual_seed(0)  # not the global one, which belongs to the trials
    n, seconds = 0, 0.0
    for n in MATRIX_SIZES:
        # Doubling multiplies the work by eight; one call warms up.
        _check_time(deadline, 8 * seconds * (1 + REPEATS))
        a, b = (torch.rand(n, n, generator=generator, device=kind).to(types[dtype]) for _ in range(2))
        seconds = _best_seconds(partial(torch.mm, a, b, out=torch.empty_like(a)), kind)
        if seconds >= LONG_ENOUGH_S:
            break
    return 2 * n**3 / seconds


def _memory_bytes_per_s(kind: str, size: int, deadline: float) -> float:
    """Bytes read and written by a copy within the device's memory."""
    _check_time_to_fill(deadline, size, kind)
    source, goal = _filled(size, kind), _filled(size, kind)
    return 2 * size / _best_seconds(partial(goal.copy_, source), kind)


def _host_to_device_bytes_per_s(kind: str, deadline: float) -> float:
    """Bytes copied from pinned host memory to the device."""
    _check_time_to_fill(deadline, HOST_COPY_BYTES, "cpu")
    source, goal = _filled(HOST_COPY_BYTES, "cpu").pin_memory(), _filled(HOST_COPY_BYTES, kind)
    return HOST_COPY_BYTES / _best_seconds(partial(goal.copy_, source, non_blocking=True), kind)


def _filled(size: int, kind: str) -> torch.Tensor:
    """Memory that has been written: untouched pages would all be the same one."""
    import torch

    return torch.ones(size // 4, dtype=torch.float32, device=kind)


def _check_time(deadline: float, needed_s: float) -> None:
    if not perf_counter() + needed_s < deadline:
        raise TimeoutError


def _check_time_to_fill(deadline: float, size: int, kind: str) -> None:
    """Two tensors of `size` bytes must fit into the time: the first write of a page costs far more than a copy."""
    _check_time(deadline, 0.0)
    start = perf_counter()
    _filled(size // 16, kind)
    _check_time(deadline, 2 * 16 * (perf_counter() - start))


def _best_seconds(call: Callable[[], object], kind: str) -> float:
    """Shortest of a few calls, after one that warms up."""
    best = math.inf
    call()
    for _ in range(REPEATS):
        _synchronize(kind)
        start = perf_counter()
        call()
        _synchronize(kind)
        best = min(best, perf_counter() - start)
    return best


def _synchronize(kind: str) -> None:
    import torch

    if kind != "cpu":
        torch.accelerator.synchronize()
