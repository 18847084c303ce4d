"""Measured seconds of the pieces of a step: forward and backward per micro-batch and precision, optimizer, evaluation.

Runs in a worker and returns plain rows; `cost.step_cost` reads them. Must not interpret what it measures; what other
settings do to a step is measured in `effect`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, with_params
from autoaccel.trainer.allocator import keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.loop import gradients
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.run import is_out_of_memory
from autoaccel.trainer.timing import Stopwatch

_REPEATS = 9
_HOPELESS = 3.0
"""How many times slower than fp32 a precision may be at the smallest size to be measured at others: where it is
emulated (bf16 on most CPUs) a single large micro-batch can take minutes."""


def measure_steps(
    loaded: LoadedTask,
    config: TrainerConfig,
    *,
    micro: list[int],
    dtypes: list[str],
    optimizers: dict[str, dict[str, Any]],
    room: Room,
) -> dict[str, Any]:
    """Median seconds of each piece; rows that did not fit into the limits are missing, rows out of memory say so.

    Args:
        loaded: the task.
        config: everything that is not varied here.
        micro: micro-batch sizes, in samples.
        dtypes: precisions to try.
        optimizers: by a name of your own, settings of each optimizer to time; the first one first of all.
        room: what may be spent.

    Returns:
        {"micro": [{"dtype", "micro", "seconds" or "oom"}], "optimizer": {name: seconds},
         "evaluation": {dtype: seconds}, "accumulation": seconds that a micro-batch after the first of a step takes
         more, where there was room to see, "flops": spent}
    """
    keep_freed_memory()
    watch = Stopwatch(loaded.device)
    found: dict[str, Any] = {"micro": [], "optimizer": {}, "evaluation": {}, "flops": 0.0}

    def time_update(name: str) -> None:
        # What all of them can have.
        plain = {"optim.kernel": "auto", "optim.state": "fp32", "schedule.name": "constant", "average.name": "none"}
        found["optimizer"][name] = _optimizer_seconds(loaded, with_params(config, {**plain, **optimizers[name]}))

    first, *others = optimizers
    with seeded(0), process_settings(config):
        time_update(first)
        _measure_micro(loaded, config, _in_order(micro, dtypes), room, found)
        for name in others:
            if watch.elapsed_s() > room.seconds:
                break
            time_update(name)
    return found


def _measure_micro(
    loaded: LoadedTask, config: TrainerConfig, pairs: list[tuple[str, int]], room: Room, found: dict[str, Any]
) -> None:
    """Add the rows of forward and backward, and an evaluation in each precision that is no hopeless one."""
    watch, rows, ended = Stopwatch(loaded.device), found["micro"], set[str]()
    parts: dict[str, Parts] = {}
    for dtype, size in pairs:
        end_s = watch.elapsed_s() + _expected_s(rows, dtype, size)
        most = (room.flops - found["flops"]) / (loaded.flops_per_sample * size) if loaded.flops_per_sample else math.inf
        if dtype in ended or end_s > room.seconds or most < 2:
            ended.add(dtype)
            continue
        if dtype not in parts:
            parts[dtype] = build(loaded, with_params(config, {"precision.dtype": dtype}))
        row, n = _micro_row(loaded, parts[dtype], dtype, size, most)
        if "seconds" in row and "accumulation" not in found:
            found["accumulation"], n_more = _accumulation_seconds(loaded, parts[dtype], size, most - n)
            n += n_more
        rows.append(row)
        found["flops"] += n * loaded.flops_per_sample * size
        if _beaten(rows) or ("oom" in row and dtype == "fp32"):
            ended.add(dtype)
        has_room = watch.elapsed_s() <= room.seconds and found["flops"] + loaded.evaluation_flops <= room.flops
        if has_room and dtype not in found["evaluation"] and not _beaten(rows):
            found["evaluation"][dtype] = _evaluation_seconds(loaded, parts[dtype])
            found["flops"] += loaded.evaluation_flops


def _in_order(micro: list[int], dtypes: list[str]) -> list[tuple[str, int]]:
    """(precision, size) pairs in the order they are measured.

    First each precision at the smallest size, to see which are hopeless; then fp32 in ascending order, then the others
    from the largest size, where they show their best: one that loses there is not measured further.
    """
    smallest, *larger = sorted(micro)
    sizes = {dtype: larger if dtype == "fp32" else larger[::-1] for dtype in dtypes}
    return [*((dtype, smallest) for dtype in dtypes), *((dtype, size) for dtype in dtypes for size in sizes[dtype])]


def _expected_s(rows: list[dict[str, Any]], dtype: str, size: int) -> float:
    """What measuring this size will take at least, from the sizes measured so far: one run to warm up and one more."""
    known = [row["seconds"] / row["micro"] for row in rows if row["dtype"] == dtype and "seconds" in row]
    return 2 * size * min(known, default=0.0)


def _micro_row(loaded: LoadedTask, parts: Parts, dtype: str, size: int, most: float) -> tuple[dict[str, Any], int]:
    """A row, and how often its size was run: at most `most` times."""
    step, n = Step(0, 0, 0.0, size), 0

    def one() -> None:
        nonlocal n
        n += 1
        gradients(loaded, parts, step, parts.order.draw(0, size, 0.0))
        parts.optimizer.zero_grad(set_to_none=True)

    row: dict[str, Any] = {"dtype": dtype, "micro": size}
    try:
        return {**row, "seconds": _median_seconds(loaded, one, most)}, n
    except Exception as error:
        if is_out_of_memory(error):
            return {**row, "oom": True}, n
        raise
    finally:
        parts.optimizer.zero_grad(set_to_none=True)


def _accumulation_seconds(loaded: LoadedTask, parts: Parts, size: int, most: float) -> tuple[float, int]:
    """What adding to gradients that are there takes more than making them, and how many micro-batches were run to see.

    In turns, the second right after the first, on micro-batches as small as any: the same gradients are added whatever
    their size, and less of the rest hides it.
    """
    more_s: list[float] = []
    step, began = Step(0, 0, 0.0, size), Stopwatch(loaded.device)
    while len(more_s) < min(_REPEATS, math.floor(min(most, 1e9) / 2)) and began.elapsed_s() < 1.0:
        laps = [0.0]
        watch = Stopwatch(loaded.device)
        for _ in range(2):
            gradients(loaded, parts, step, parts.order.draw(0, size, 0.0))
            laps.append(watch.elapsed_s())
        parts.optimizer.zero_grad(set_to_none=True)
        more_s.append(laps[2] - 2 * laps[1])
    return max(0.0, statistics.median(more_s or [0.0])), 2 * len(more_s)


def _beaten(rows: list[dict[str, Any]]) -> bool:
    """Whether the last row is clearly slower than fp32 at the same size; the first of a precision hopelessly so."""
    last = rows[-1] if rows else {}
    fp32 = [r["seconds"] for r in rows if r["dtype"] == "fp32" and r["micro"] == last.get("micro") and "seconds" in r]
    is_first = sum(row["dtype"] == last.get("dtype") for row in rows) == 1
    clearly = _HOPELESS if is_first else 1.1
    return bool(fp32) and last["dtype"] != "fp32" and last.get("seconds", 0.0) > clearly * fp32[0]


def _optimizer_seconds(loaded: LoadedTask, config: TrainerConfig) -> float:
    parts = build(loaded, config)

    def differentiate() -> None:  # before every update: some take the gradients away
        for parameter in parts.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)

    return _median_seconds(loaded, parts.update, before=differentiate)


def _evaluation_seconds(loaded: LoadedTask, parts: Parts) -> float:
    watch = Stopwatch(loaded.device)
    evaluate(loaded.task, parts, loaded.validation)
    return watch.elapsed_s()


def _median_seconds(
    loaded: LoadedTask, run: Callable[[], Any], most: float = math.inf, before: Callable[[], Any] = lambda: None
) -> float:
    """Median of a few runs after one that warms up; fewer where one run is long, and never more than `most` in all.
    What comes before each of them is not timed."""
    times: list[float] = []
    for repeat in range(min(_REPEATS + 1, math.floor(min(most, 1e9)))):
        before()
        watch = Stopwatch(loaded.device)
        run()
        times.append(watch.elapsed_s())
        if repeat and sum(times) > 0.5:
            break
    return statistics.median(times[1:])
