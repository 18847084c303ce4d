"""Peak memory of whole optimizer steps at a few growing micro-batch sizes, and of an evaluation.

Runs in a worker and returns plain rows; `cost.memory` reads them. Sizes are tried in ascending order, and only while
the next one is expected to fit: no shared machine is pushed to its limit. Must not know what the rows are used for.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from autoaccel.budget import Room
from autoaccel.config import Params, TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.hardware.memory import FreeMemory, forget_peak, free_main_memory, peak_resident_bytes, resident_bytes
from autoaccel.trainer.allocator import free_heap_bytes, give_back_freed_memory, keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.evaluate import evaluate, few_samples
from autoaccel.trainer.loop import optimizer_step
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.run import is_out_of_memory
from autoaccel.trainer.timing import Stopwatch

_LOG = logging.getLogger(__name__)
N_STEPS = 3
"""Of every size: the optimizer's state is there from the end of the first on, and a heap settles in about three."""
FIRST, GROWTH = 4, 4
"""The first size, and from one size to the next. Normalization layers do not train on a single sample."""
PLENTY = 0.25
"""Nothing more is measured once the largest size is sure to take no more than this share of what is free."""
REFUSED, SHARED = 0.9, 0.5
"""Share of the free memory that is tried: where going beyond is an error, and where others would suffer from it."""
_CLOSE = 1.1
"""Two sizes nearer to each other than this are one."""
_HOPELESS = 3.0
"""How many times slower than the plain config a variant may be at the first size to be measured at others."""

Row = dict[str, Any]
"""What was run, with `seconds`, `flops`, and `bytes`, or `oom` where memory did not suffice."""


@dataclass(frozen=True)
class Meter:
    """How the memory of a device is read."""

    begin: Callable[[], int]
    """Gives back what is free, has the peak begin anew, and returns the bytes in use."""
    peak: Callable[[], int]
    """The most bytes in use since then."""
    free: Callable[[], FreeMemory]
    keeps_pieces: bool
    """Whether freed memory stays with the process in pieces that may be too small for what comes next, as in a C
    library's heap; an accelerator's allocator gives it back before it fails."""


@dataclass(frozen=True)
class Site:
    """Where peaks are measured."""

    loaded: LoadedTask
    meter: Meter
    base: int
    """Bytes in use without a training."""


@dataclass(frozen=True)
class Bounds:
    """How far sizes may grow, and what may be spent on that."""

    largest: int
    """Samples."""
    known: int
    """Samples of a micro-batch that has run here before."""
    allowed_bytes: float
    plenty_bytes: float
    room: Room
    first_s: float = math.inf
    """Where the first size takes longer it is the only one."""

    def after(self, rows: Sequence[Row]) -> Bounds:
        """What is left to spend."""
        seconds, flops = (sum(row[name] for row in rows) for name in ("seconds", "flops"))
        return replace(self, room=Room(self.room.seconds - seconds, self.room.flops - flops))


def measure_peak(
    loaded: LoadedTask,
    config: TrainerConfig,
    *,
    largest: int,
    variants: list[Params],
    room: Room,
) -> dict[str, Any]:
    """Peak bytes of steps and of an evaluation, beyond what the process holds without a training.

    Args:
        loaded: the task.
        config: everything that is not varied here; it has run before.
        largest: the largest micro-batch that could be asked for, in samples.
        variants: settings that change the memory of a sample, by dotted path; measured only where memory is scarce.
        room: what may be spent; an evaluation and the first size are always measured.

    Returns:
        {"steps": [{"dtype", "checkpointing", "micro", "seconds", "flops", and "bytes" or "oom"}],
         "evaluation_bytes": beside the model, "evaluation_samples": at once, "pieces_bytes": what steps and
         evaluations in turn take beyond the larger of both, "trainable_bytes": of parameters, "free_bytes", "limit",
         "refuses": see `FreeMemory`, "flops": spent, "reason": why nothing was measured, else empty}
    """
    meter = meter_of(loaded.device)
    if isinstance(meter, str):
        return {"steps": [], "flops": 0.0, "reason": meter}
    keep_freed_memory()
    gc.collect()  # here alone, for it takes longer than a small step
    site, free = Site(loaded, meter, meter.begin()), meter.free()
    with seeded(0), process_settings(config):
        parts = build(loaded, config)
        trainable_bytes = sum(p.nbytes for p in parts.model.parameters() if p.requires_grad)
        evaluation = _evaluation(site, parts)
        if "oom" in evaluation:
            return {"steps": [], "flops": evaluation["flops"], "reason": "an evaluation runs out of memory"}
        pieces_bytes = evaluation["bytes"] if meter.keeps_pieces else 0
        bounds = Bounds(
            largest=min(largest, loaded.train.n),
            known=config.batch.micro,
            allowed_bytes=(REFUSED if free.refuses else SHARED) * free.n_bytes - pieces_bytes,
            plenty_bytes=PLENTY * free.n_bytes,
            room=room,
        )
        rows = [evaluation, *grown(partial(_row, site, parts), bounds.after([evaluation]))]
        if not is_plenty(rows, bounds):
            if meter.keeps_pieces:
                rows += _in_turn(site, parts, rows, bounds)
            del parts
            rows += _of_variants(site, config, variants, rows, bounds)
    meter.begin()
    return {
        "steps": [row for row in rows if "micro" in row],
        "evaluation_bytes": evaluation["bytes"],
        "evaluation_samples": evaluation["samples"],
        "pieces_bytes": next((row["pieces_bytes"] for row in rows if "pieces_bytes" in row), pieces_bytes),
        "trainable_bytes": trainable_bytes,
        **{"free_bytes": free.n_bytes, "limit": free.limit, "refuses": free.refuses},
        "flops": sum(row["flops"] for row in rows),
        "reason": "",
    }


def grown(measure: Callable[[int], Row], bounds: Bounds) -> list[Row]:
    """Rows of growing sizes, for as long as `next_size` has one."""
    rows: list[Row] = []
    while (size := next_size(rows, bounds)) is not None:
        rows.append(measure(size))
    return rows


def next_size(rows: Sequence[Row], bounds: Bounds) -> int | None:
    """The size to measure after these: a few times the last one, or the largest that is expected to fit. None where
    enough is known, nothing larger fits, or time or FLOPs are used up."""
    if not rows:
        return min(FIRST, bounds.largest)
    last, left = rows[-1], bounds.after(rows).room
    if "oom" in last or last["micro"] >= bounds.largest or is_plenty(rows, bounds):
        return None
    if len(rows) == 1 and last["seconds"] > bounds.first_s:
        return None
    size = min(GROWTH * last["micro"], bounds.largest)
    if size > bounds.known and _line_at(rows, size) > bounds.allowed_bytes:
        size = max(_largest_on_line(rows, bounds.allowed_bytes), min(size, bounds.known))
        if size < _CLOSE * last["micro"]:
            return None
    more = size / last["micro"]
    return size if more * last["seconds"] <= left.seconds and more * last["flops"] <= left.flops else None


def is_plenty(rows: Sequence[Row], bounds: Bounds) -> bool:
    """Whether two sizes are known, and the largest is sure to take little: as if nothing of it were fixed."""
    steps = [row for row in rows if "micro" in row]
    if len(steps) < 2 or "oom" in steps[-1]:
        return False
    return bool(steps[-1]["bytes"] * bounds.largest / steps[-1]["micro"] <= bounds.plenty_bytes)


def _line(rows: Sequence[Row]) -> tuple[float, float]:
    """Bytes of no sample and of each, through the last two rows; of one row, all in proportion."""
    last = rows[-1]
    if len(rows) == 1:
        return 0.0, last["bytes"] / last["micro"]
    slope = max(0.0, (last["bytes"] - rows[-2]["bytes"]) / (last["micro"] - rows[-2]["micro"]))
    return last["bytes"] - slope * last["micro"], slope


def _line_at(rows: Sequence[Row], size: int) -> float:
    fixed, each = _line(rows)
    return fixed + each * size


def _largest_on_line(rows: Sequence[Row], allowed_bytes: float) -> int:
    fixed, each = _line(rows)
    return max(0, int((allowed_bytes - fixed) / each)) if each else 0


def _row(site: Site, parts: Parts, size: int) -> Row:
    """Whole steps of one micro-batch each, with samples as large as they ever are."""
    config, loaded = with_params(parts.config, {"batch.size": size, "batch.accumulation": 1}), site.loaded
    row: Row = {"dtype": config.precision.dtype, "checkpointing": config.memory.checkpointing, "micro": size}
    sized = replace(parts, config=config)

    def steps() -> None:
        for number in range(N_STEPS):
            optimizer_step(loaded, sized, Step(number, number * size, 1.0, size))

    row |= {**_measured(site, steps), "flops": N_STEPS * size * loaded.flops_per_sample}
    parts.optimizer.zero_grad(set_to_none=True)  # which a step that failed has left
    return row


def _evaluation(site: Site, parts: Parts) -> Row:
    """An evaluation of as many samples as one batch of it has: what it takes beside the model."""
    loaded, at_once = site.loaded, parts.config.evaluate.batch
    n = few_samples(loaded.task, loaded.validation, at_once)
    alone = replace(site, base=site.meter.begin())
    found = _measured(alone, lambda: evaluate(loaded.task, parts, loaded.validation, n))
    return {**found, "flops": loaded.evaluation_flops * n / loaded.validation.n, "samples": min(at_once, n)}


def _in_turn(site: Site, parts: Parts, rows: Sequence[Row], bounds: Bounds) -> list[Row]:
    """A step of the largest size, an evaluation, a step: what the two together take beyond the larger of them.

    Or the size as one that fails, where the two together do; nothing where there is no time for it.
    """
    loaded, (evaluation, *steps) = site.loaded, rows
    last = next((row for row in reversed(steps) if "bytes" in row), None)
    more = [{name: 2 / N_STEPS * last[name] + evaluation[name] for name in ("seconds", "flops")}] if last else []
    left = bounds.after([*rows, *more]).room
    if last is None or left.seconds < 0 or left.flops < 0:
        return []
    sized = replace(parts, config=with_params(parts.config, {"batch.size": last["micro"], "batch.accumulation": 1}))
    few = few_samples(loaded.task, loaded.validation, parts.config.evaluate.batch)

    def both() -> None:
        for number in range(2):
            optimizer_step(loaded, sized, Step(number, number * last["micro"], 1.0, last["micro"]))
            if not number:
                evaluate(loaded.task, sized, loaded.validation, few)

    before = site.meter.begin() - site.base
    found = {**_measured(site, both), "flops": more[0]["flops"]}
    if "oom" in found:
        return [{**{k: last[k] for k in ("dtype", "checkpointing", "micro")}, **found}]
    alone = max(last["bytes"], before + evaluation["bytes"])
    return [{**found, "pieces_bytes": max(0, found["bytes"] - alone)}]


def _of_variants(
    site: Site, config: TrainerConfig, variants: Sequence[Params], rows: Sequence[Row], bounds: Bounds
) -> list[Row]:
    """Rows of the config with each of some settings, up to the size that it took itself; none where this task cannot
    have it, or fails with it: that is for a training to find out."""
    steps = [row for row in rows if "micro" in row]
    largest = max((row["micro"] for row in steps if "bytes" in row), default=1)
    bounds = replace(bounds.after(rows), largest=largest, first_s=_HOPELESS * steps[0]["seconds"])
    found: list[Row] = []
    for settings in variants:
        if bounds.after(found).room.seconds <= 0:
            break
        try:
            parts = build(site.loaded, with_params(config, settings))
            found += grown(partial(_row, site, parts), bounds.after(found))
        except UsageError:
            continue
        except Exception:
            _LOG.exception("the memory of %s could not be measured", settings)
    return found


def _measured(site: Site, run: Callable[[], object]) -> Row:
    """Seconds and the peak of something that is run."""
    watch, row = Stopwatch(site.loaded.device), dict[str, Any]()
    site.meter.begin()
    try:
        run()
        row["bytes"] = max(0, site.meter.peak() - site.base)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        row["oom"] = True
    return {**row, "seconds": watch.elapsed_s()}


def meter_of(device: torch.device) -> Meter | str:
    """How the memory of a device is read, or why it cannot be."""
    if device.type == "cuda":
        peak = partial(torch.cuda.max_memory_reserved, device)
        return Meter(partial(_begin_on_cuda, device), peak, partial(_free_on_cuda, device), keeps_pieces=False)
    if device.type != "cpu":
        return f"a {device.type} device does not tell its peak memory"
    if not resident_bytes() or not forget_peak():
        return "this system does not tell the peak memory of a process"
    return Meter(_begin_in_main_memory, peak_resident_bytes, _free_main_memory, keeps_pieces=True)


def _begin_in_main_memory() -> int:
    give_back_freed_memory()
    forget_peak()
    return resident_bytes()


def _free_main_memory() -> FreeMemory:
    """Under a limit of the process the heap counts with all that lies free in it."""
    free = free_main_memory()
    return replace(free, n_bytes=free.n_bytes + free_heap_bytes()) if free.refuses else free


def _begin_on_cuda(device: torch.device) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_reserved(device)


def _free_on_cuda(device: torch.device) -> FreeMemory:
    """What is free on the device, or left of the share of it that this process may take."""
    unused, total = torch.cuda.mem_get_info(device)
    left = int(torch.cuda.get_per_process_memory_fraction(device) * total) - torch.cuda.memory_reserved(device)
    if left < unused:
        return FreeMemory(max(0, left), "the share of the device's memory that this process may take", refuses=True)
    return FreeMemory(unused, "the memory of the device", refuses=True)
