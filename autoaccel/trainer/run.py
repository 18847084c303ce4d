"""One training from its spec to its end: builds, trains, turns failures into outcomes, tests.

What a worker calls for a trial and `autoaccel.train` calls for a user. Must not know processes or budgets.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autoaccel.errors import AutoaccelError, UsageError
from autoaccel.hardware.memory import free_main_memory, resident_bytes
from autoaccel.tasks.load import describe
from autoaccel.trainer.allocator import keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.checkpoint import load_checkpoint, save_checkpoint, save_weights
from autoaccel.trainer.evaluate import evaluate, leave_evaluated_weights
from autoaccel.trainer.flops import evaluation_flops, recounted
from autoaccel.trainer.follow import follow
from autoaccel.trainer.loop import Limits, Progress, train
from autoaccel.trainer.parts import LoadedTask, Parts
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.team import CHECKPOINT, END, LEAVE, TEST
from autoaccel.trainer.timing import Stopwatch
from autoaccel.trial import Ended, Report, TrialSpec

_LOG = logging.getLogger(__name__)
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cudnn_status_not_supported",
    "failed to allocate",
    "not enough memory",
    "status_alloc_failed",
    "bad_alloc",
)
"""Fragments of the messages with which back ends report exhausted memory, lower case."""
_ONEDNN = "could not create a primitive"
"""All that oneDNN says of any failure on a CPU; that it was for memory shows in how little of it is left."""
_COMPLETE = ("hit", "missed", "finished")
"""Outcomes of a training that was not cut."""
_NOT_FINITE = "the training loss or the metric is not finite"
_SHORT = 1 / 8
"""Memory is short where so much of what the process holds could not be had again."""


@dataclass(frozen=True)
class Checkpointing:
    """Where checkpoints go, and whether to start from the one that is there."""

    folder: Path
    resume: bool = False


def run_training(
    loaded: LoadedTask,
    spec: TrialSpec,
    *,
    report: Callable[[Report], None],
    stopped: Callable[[], bool] = lambda: False,
    checkpointing: Checkpointing | None = None,
    weights: Path | None = None,
) -> tuple[Ended, torch.nn.Module | None]:
    """Train as the spec says. Failures of the training are outcomes, not exceptions; input errors pass through.

    As one of a team: the first leads, the end of the others is 'done'. With `weights` that of the whole model is
    written there. Returns the end and the model as this process has it (None if it could not be built).
    """
    assert spec.config is not None, "a training needs a config"
    if spec.config.horizon.unit == "flops" and not loaded.flops_per_sample:
        raise UsageError(
            f"config.horizon.flops: the FLOPs of task {loaded.task.name!r} cannot be counted: it would never end",
            "Give the horizon in samples, steps or seconds.",
        )
    keep_freed_memory()
    watch = Stopwatch(loaded.device)
    limits = Limits(
        target=spec.target,
        cap_s=math.inf if spec.cap_s is None else spec.cap_s,
        cap_flops=math.inf if spec.cap_flops is None else spec.cap_flops,
        stopped=stopped,
    )
    parts: Parts | None = None
    at, last, setup_s, message = Progress(), Progress(), 0.0, ""
    facts: dict[str, Any] = {}

    def listen(event: Report) -> None:
        nonlocal last
        last = Progress(event.steps, event.samples, event.flops, event.elapsed_s, event.value, event.cpu_s)
        report(replace(event, trial=spec.trial))

    try:
        with seeded(spec.config.seed), process_settings(spec.config, spec.threads):
            parts = build(loaded, spec.config)
            loaded = recounted(loaded, spec.config)
            start, save = _checkpoint_functions(parts, checkpointing)
            setup_s = watch.elapsed_s()
            if parts.spread.team.rank:
                outcome = "done"
                follow(loaded, parts, lambda: save(Progress()))
            else:
                outcome, at = train(loaded, parts, limits, report=listen, checkpoint=save, start=start)
                at, facts = _finished(loaded, parts, spec, outcome, at)
                parts.spread.team.tell(END)
            message = _NOT_FINITE if outcome == "diverged" else ""
            for give_back in parts.at_end:
                give_back()
            if weights is not None:
                save_weights(weights, parts)
    except AutoaccelError:
        raise
    except Exception as error:
        _LOG.exception("training %d failed", spec.trial)  # a worker's standard error is the run's worker.log
        outcome = "oom" if is_out_of_memory(error) else "crashed"
        message, at = describe(error), _at_failure(last, watch, setup_s)
    finally:
        for close in parts.closing if parts else ():
            close()
    value = at.value if at.value is not None and math.isfinite(at.value) else None
    ended = Ended(
        spec.trial, outcome, at.elapsed_s, setup_s, at.samples, at.steps, at.flops, value, message, facts, at.cpu_s
    )
    return ended, parts.model if parts else None


def _finished(
    loaded: LoadedTask, parts: Parts, spec: TrialSpec, outcome: str, at: Progress
) -> tuple[Progress, dict[str, Any]]:
    """What follows the last step, as far as the FLOPs allow: evaluated weights left in the model, and the test."""
    limit, facts, team = math.inf if spec.cap_flops is None else spec.cap_flops, dict[str, Any](), parts.spread.team
    refresh_flops = evaluation_flops(loaded, parts) - loaded.evaluation_flops
    if outcome != "diverged" and at.flops + refresh_flops <= limit:
        team.tell(LEAVE)
        leave_evaluated_weights(parts)
        parts, at = replace(parts, for_evaluation=()), replace(at, flops=at.flops + refresh_flops)
    if spec.test and outcome in _COMPLETE:
        facts, test_flops = _test(loaded, parts, limit - at.flops)
        at = replace(at, flops=at.flops + test_flops)
    return at, facts


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory is exhausted, on the device or here."""
    text = f"{type(error).__name__}: {error}".lower()
    if text.endswith(_ONEDNN):
        return free_main_memory().n_bytes < _SHORT * resident_bytes()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in text for part in _OUT_OF_MEMORY)


def _checkpoint_functions(
    parts: Parts, checkpointing: Checkpointing | None
) -> tuple[Progress | None, Callable[[Progress], None]]:
    if checkpointing is None:
        return None, lambda at: None
    folder = checkpointing.folder

    def save(at: Progress) -> None:
        if parts.spread.team.rank == 0:
            parts.spread.team.tell(CHECKPOINT)
        save_checkpoint(folder, parts, at)

    return load_checkpoint(folder, parts) if checkpointing.resume else None, save


def _test(loaded: LoadedTask, parts: Parts, flops_left: float) -> tuple[dict[str, Any], float]:
    """The test metric and its FLOPs; a test set that cannot be evaluated does not undo the training."""
    if loaded.test is None:
        return {}, 0.0
    flops = loaded.evaluation_flops * loaded.test.n / loaded.validation.n
    if flops > flops_left:
        return {"test_error": "no FLOPs left for the test set"}, 0.0
    parts.spread.team.tell(TEST)
    try:
        value = evaluate(loaded.task, parts, loaded.test)
    except Exception as error:
        if parts.spread.team.n > 1:  # the others are still at it
            raise
        return {"test_error": describe(error)}, flops
    return {"test_value": value} if math.isfinite(value) else {"test_error": f"the test metric is {value}"}, flops


def _at_failure(last: Progress, watch: Stopwatch, setup_s: float) -> Progress:
    """Where a failed training was: its last report, but all the time it took (a broken device has no clock)."""
    try:
        return replace(last, elapsed_s=max(last.elapsed_s, watch.elapsed_s() - setup_s), cpu_s=None)
    except RuntimeError:
        return last
