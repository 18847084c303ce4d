"""PeakMemory: the most memory a training takes, predicted from measured steps, and whether that fits.

    step = fixed (weights, gradients, optimizer state, copies of the weights) + micro-batch x bytes of a sample

An evaluation takes its own in turn with that, and a C library's heap, in which freed memory lies in pieces, a part of
both. Where nothing was measured a training counts as large as
its micro-batch: what has failed is then all that is known. Must not run anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from autoaccel.config import TrainerConfig

READS = (
    "batch.size",
    "batch.accumulation",
    "precision.dtype",
    "memory.checkpointing",
    "optim.name",
    "optim.sam_rho",
    "average.name",
    "evaluate.batch",
    "parallel.strategy",
    "parallel.n_processes",
)
"""Paths of a config that its predicted peak depends on."""
_read = attrgetter(*READS)
SHARED = 0.8
"""Share of the free memory that a training may take where others suffer from more."""
MARGIN, BLIND_MARGIN = 0.10, 0.25
"""A training counts as so much larger than predicted: over hundreds of steps freed memory falls into pieces (up to a
tenth with small nets on a CPU, 2026-11-21); and where nothing but failures is known."""
BEYOND = 0.25
"""Of what lies beyond the largest size that was measured, so much more."""

STATE_COPIES = {
    "adamw": 2,
    "sgd": 1,
    "nadam": 2,
    "lion": 1,
    "muon": 2,
    "lamb": 2,
    "lars": 1,
    "schedule_free_adamw": 2,
    "schedule_free_sgd": 1,
}
"""How many times the trained weights an optimizer keeps, at most; states of 8 bits take less."""
AVERAGE_COPIES = {"none": 0, "ema": 3, "lawa": 8, "swa": 3, "lookahead": 4}
"""The same of an average of weights, with those it needs while it is evaluated and when it is handed over."""
SAM_COPIES = 2
"""The same of a sharpness-aware step: where the weights were, and the gradients of there."""

Params = Mapping[str, Any]
"""Settings by dotted path, all of `READS`."""


@dataclass(frozen=True)
class Line:
    """Bytes of a step by its micro-batch."""

    fixed_bytes: float
    bytes_per_sample: float
    largest: int
    """Samples of the largest micro-batch that was measured."""

    @classmethod
    def above(cls, measured: Mapping[int, float]) -> Line:
        """The line on or above all that was measured, two sizes at least, as steep as between the two largest: at
        small ones what is fixed hides what a sample takes."""
        *_, before, last = sorted(measured)
        slope = max(0.0, (measured[last] - measured[before]) / (last - before))
        return cls(max(found - slope * size for size, found in measured.items()), slope, last)


@dataclass(frozen=True)
class PeakMemory:
    """What trainings of a task take of this machine's memory, beyond what its process takes without one."""

    lines: Mapping[tuple[str, str], Line] = field(default_factory=dict)
    """By precision and checkpointing; empty where nothing was measured."""
    trainable_bytes: float = 0.0
    """One copy of the trained weights."""
    copies: int = 0
    """Of them, beside weights and gradients, in what was measured."""
    evaluation_bytes: float = 0.0
    """Beside the model."""
    evaluation_samples: int = 1
    """Of the batches of that evaluation."""
    pieces_bytes: float = 0.0
    """What steps and evaluations in turn take beyond the larger of both."""
    limit: float = math.inf
    """What a training with its margin may take; infinite where every training of the space fits."""
    reason: str = "not measured"
    """Why there are no lines."""
    is_shared: bool = False
    """Whether the processes of a training take their memory from the same: where no accelerators have their own."""

    @classmethod
    def from_probe(
        cls, measured: Mapping[str, Any], params: Params, largest: int, n_slots: int, *, is_shared: bool = False
    ) -> PeakMemory:
        """From what `trainer.memory_peak.measure_peak` found.

        Args:
            measured: its result.
            params: what it was measured with; it has run, so it fits.
            largest: the largest micro-batch of the space.
            n_slots: trainings at once on the device, whose processes were there when it was measured.
            is_shared: see the field.
        """
        found: dict[tuple[str, str], dict[int, float]] = {}
        for row in measured["steps"]:
            if "bytes" in row:
                found.setdefault((row["dtype"], row["checkpointing"]), {})[row["micro"]] = row["bytes"]
        lines = {variant: Line.above(sizes) for variant, sizes in found.items() if len(sizes) > 1}
        if _variant(params) not in lines:
            return cls(reason=measured["reason"] or "two sizes do not fit into its share of the budget")
        memory = cls(
            lines,
            measured["trainable_bytes"],
            _copies(params),
            measured["evaluation_bytes"],
            measured["evaluation_samples"],
            measured["pieces_bytes"],
            reason="",
            is_shared=is_shared,
        )
        free = measured["free_bytes"] / n_slots
        limit = free if measured["refuses"] else SHARED * free
        memory = replace(memory, limit=max(limit, memory.upper(params)))
        failed = [{**params, **_of_row(row)} for row in measured["steps"] if "oom" in row]
        memory = memory.after(failed, [params])
        return replace(memory, limit=math.inf) if memory._has_plenty(largest) else memory

    def peak_bytes(self, params: Params) -> float | None:
        """The most bytes a training takes, as expected; None where that is not known."""
        return self._size(params) if self.lines else None

    def upper(self, params: Params, micro: int | None = None) -> float:
        """The same with its margin: what has to fit. As it is, or in micro-batches of another size, with evaluations in
        batches that are no larger."""
        if not self.lines:
            return (1 + BLIND_MARGIN) * self._size(params, micro)
        line = self._line(params)
        beyond = BEYOND * line.bytes_per_sample * max(0, (micro or micro_of(params)) - line.largest)
        return (1 + MARGIN) * self._size(params, micro) + beyond

    def fits(self, params: Params, micro: int | None = None) -> bool:
        """Whether a training fits into memory; `micro` as in `upper`."""
        return math.isinf(self.limit) or self.upper(params, micro) <= self.limit

    def largest_micro(self, params: Params) -> int:
        """The largest micro-batch, up to the whole batch, that fits, as in `upper`; 0 if none does."""
        fits, too_large = 0, params["batch.size"] + 1
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            if self.fits(params, middle):
                fits = middle
            else:
                too_large = middle
        return fits

    def after(self, failed: Iterable[Params], worked: Iterable[Params]) -> PeakMemory:
        """The same with the limit that trainings have shown: below the smallest one that ran out of memory.

        Not where a larger one went through: then it was not its size.
        """
        went_through = list(worked)
        most = max((self._size(params) for params in went_through), default=0.0)
        sizes = [self._size(params) for params in failed]
        least = min((size for size in sizes if size > most), default=math.inf)
        shown = max([least, *(self.upper(params) for params in went_through)])
        return self if math.isinf(least) else replace(self, limit=min(self.limit, shown))

    def _size(self, params: Params, micro: int | None = None) -> float:
        at_once = params["evaluate.batch"] if micro is None else min(micro, params["evaluate.batch"])
        micro = micro_of(params) if micro is None else micro
        if not self.lines:
            return float(micro)
        line, evaluated = self._line(params), min(1.0, at_once / self.evaluation_samples)
        fixed = max(0.0, line.fixed_bytes + (_copies(params) - self.copies) * self.trainable_bytes)
        n, batch_share, model_share = _shares(params)
        fixed = fixed * model_share + (self.trainable_bytes if params["parallel.strategy"] == "ddp" else 0.0)
        step = fixed + batch_share * micro * line.bytes_per_sample
        evaluation = fixed + batch_share * evaluated * self.evaluation_bytes
        one = max(step, evaluation) + batch_share * evaluated * self.pieces_bytes
        return float(n * one if self.is_shared else one)

    def _line(self, params: Params) -> Line:
        """That of its precision and checkpointing; of one not measured, that of what takes no less."""
        dtype, _ = variant = _variant(params)
        for known in (variant, (dtype, "none"), ("fp32", "none")):
            if known in self.lines:
                return self.lines[known]
        return max(self.lines.values(), key=lambda line: line.bytes_per_sample)

    def _has_plenty(self, largest: int) -> bool:
        """Whether the most demanding training that there could be fits."""
        copies = max(STATE_COPIES.values()) + max(AVERAGE_COPIES.values()) + SAM_COPIES
        more = max(0, copies - self.copies) * self.trainable_bytes + self.evaluation_bytes + self.pieces_bytes
        return all(
            (1 + MARGIN) * (line.fixed_bytes + more + largest * line.bytes_per_sample)
            + BEYOND * line.bytes_per_sample * max(0, largest - line.largest)
            <= self.limit
            for line in self.lines.values()
        )


def settings_of(config: TrainerConfig) -> dict[str, Any]:
    """The settings of a config that its peak depends on."""
    return dict(zip(READS, _read(config), strict=True))


def micro_of(params: Params) -> int:
    """Samples of the largest micro-batch."""
    size: int = params["batch.size"]
    pieces: int = params["batch.accumulation"]
    return math.ceil(size / pieces)


def _shares(params: Params) -> tuple[int, float, float]:
    """Processes of a training, and the shares of a batch and of the model's fixed bytes that each of them has.

    ddp keeps its gradients twice. What tensor and pipeline leave of a model is not known: as if it were all.
    """
    strategy, n = params["parallel.strategy"], params["parallel.n_processes"]
    if strategy == "none":
        return 1, 1.0, 1.0
    return n, 1 / n if strategy in ("ddp", "fsdp2") else 1.0, 1 / n if strategy == "fsdp2" else 1.0


def _variant(params: Params) -> tuple[str, str]:
    return params["precision.dtype"], params["memory.checkpointing"]


def _copies(params: Params) -> int:
    """Of the trained weights, beside themselves and their gradients."""
    sam = SAM_COPIES if params["optim.sam_rho"] > 0 else 0
    return STATE_COPIES[params["optim.name"]] + AVERAGE_COPIES[params["average.name"]] + sam


def _of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """What differs in a row of the probe."""
    return {
        "batch.size": row["micro"],
        "batch.accumulation": 1,
        "precision.dtype": row["dtype"],
        "memory.checkpointing": row["checkpointing"],
        "parallel.strategy": "none",
    }
