"""retune_run: a finished run tuned again, for another machine or because what runs on this one has changed.

Wires like `api`, which it uses. Whether anything has changed is said without loading the tuner: a timer asks often.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from autoaccel.budget import Budget, Spent, parse_budget, portion
from autoaccel.clock import MonotonicClock, utc_timestamp
from autoaccel.errors import UsageError, did_you_mean
from autoaccel.hardware.machine import Machine, this_machine
from autoaccel.retune.schedule import FORMS, Plan
from autoaccel.retune.triggers import Change, nearest
from autoaccel.store.lineage import Answer, add_verified, folder_for, is_finished, lineage
from autoaccel.store.run import BEST_CONFIG, LEDGER
from autoaccel.store.session import stored_job

if TYPE_CHECKING:
    from autoaccel.api import TuneResult
    from autoaccel.execution.local import TaskSource
    from autoaccel.job import Job
    from autoaccel.search.confirm import Evidence
    from autoaccel.tasks.base import Task

SHARE = 0.15
"""Of the run's own budget, unless another one is given."""
LEAST = Spent(seconds=30.0, device_seconds=30.0, trials=8)
"""But not less, as far as the run's budget itself is not: measuring and confirming take some in any case."""
ATTEMPTS = 5
"""Trainings by which it is seen whether an answer is as fast as before."""
_LONGEST = 10.0
"""One that takes so many times what it should is cut, and counts as a miss."""
_CARRIED = {
    False: ("AUTOACCEL_CACHE_DIR", "AUTOACCEL_LIBRARY", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONPATH"),
    True: ("OMP_NUM_THREADS",),
}
"""Variables that a unit takes from here, on this machine or in a container. No secrets: others may read units."""
_FIRST_SEED = 3_000_000_000
"""Confirmations stay below (see `search.confirm`), benchmarks above."""


@dataclass(frozen=True)
class Retuning:
    """What a call of `retune_run` came to."""

    change: Change
    """What is different from the machine that is most like this one of those the run was tuned for."""
    run_dir: Path
    """The run whose answer holds here now."""
    tuned: TuneResult | None = None
    """The new tuning; None where none was needed."""
    again: Evidence | None = None
    """The answer trained again, where only that could tell whether it still holds."""

    @property
    def config_file(self) -> Path:
        return self.run_dir / BEST_CONFIG

    def to_json(self) -> dict[str, Any]:
        """Plain values: what --json prints."""
        return {
            "retuned": self.tuned is not None,
            "change": self.change.to_json(),
            "run": str(self.run_dir),
            "config": str(self.config_file),
            "trained_again": None if self.again is None else _told(self.again),
            "result": None if self.tuned is None else self.tuned.summary,
        }


def retune_run(  # noqa: PLR0913 - the options of one request
    run_dir: str | Path,
    *,
    task: Task | None = None,
    budget: str | float | Budget | None = None,
    if_changed: bool = False,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    began_s: float | None = None,
) -> Retuning:
    """Tune a finished run again, for this machine.

    What the run learned is taken over; seconds are measured anew. Its answer is the baseline and is trained first, then
    what else its trainings make look fast here, and the search goes on while that pays.

    Args:
        run_dir: the finished run.
        task: the task, if the run's was given as an object.
        budget: what may be spent; default: SHARE of the run's own.
        if_changed: do it only if the hardware has changed (accelerators, cores, memory), or if torch or the driver has
            and the answer is no longer as fast as it was; that is tried.
        out: where the new run goes; default: a folder in the run, one for each machine. An unfinished one is continued.
        fresh: replace a finished one.
        progress, began_s: as in `tune`.

    Raises:
        UsageError: no finished run, or one of another task.
        What `tune` raises.
    """
    run = Path(run_dir)
    answers, now = lineage(run), this_machine()
    place, change = nearest([answer.machine for answer in answers], now)
    nearest_answer, again = answers[place], None
    if if_changed and change.level == "none":
        return Retuning(change, nearest_answer.run)
    if if_changed and change.level == "soft" and nearest_answer.has_hit:
        again = train_again(_source(_job(run, None), task), nearest_answer)
        if as_fast(nearest_answer, again):
            add_verified(nearest_answer, now, {"at": utc_timestamp(), **_told(again)})
            return Retuning(change, nearest_answer.run, again=again)
    where = Path(out) if out is not None else folder_for(run, now)
    tuned = _tune_again(_job(run, budget), task, where, fresh, progress, began_s)
    return Retuning(change, tuned.run_dir, tuned, again)


def answer_here(run_dir: str | Path, now: Machine | None = None) -> Path:
    """The run of a lineage whose answer is for this machine, or else for the one that is most like it."""
    answers = lineage(Path(run_dir))
    place, _ = nearest([answer.machine for answer in answers], now or this_machine())
    return answers[place].run


def plan_of(
    run_dir: str | Path, every: str, form: str, budget: str | None = None, *, image: str = "", claim: str = ""
) -> Plan:
    """What a schedule for a finished run has to say; see `retune.schedule`.

    Raises:
        UsageError: no finished run, a task that only Python knows, no such interval or form.
    """
    if form not in FORMS:
        raise UsageError(f"--as {form!r}: no such form", did_you_mean(form, FORMS))
    if form != "k8s" and (image or claim):
        raise UsageError(f"--image and --claim are not for --as {form}", "Leave them out, or use --as k8s.")
    machine, run = lineage(Path(run_dir))[-1].machine, Path(run_dir).resolve()
    job = _job(run, budget)
    _source(job, None)
    in_a_container = form == "k8s"
    return Plan(
        run=PurePosixPath(run),
        command=("autoaccel",) if in_a_container else (sys.executable, "-m", "autoaccel"),
        folder=PurePosixPath(run.parent if in_a_container else Path.cwd()),
        every=every,
        budget=job.budget,
        environment={k: os.environ[k] for k in _CARRIED[in_a_container] if os.environ.get(k)},
        n_gpus=int(bool(machine.accelerators)),
        image=image,
        claim=claim,
    )


def train_again(source: TaskSource, answer: Answer) -> Evidence:
    """An answer trained again on this machine, to its target."""
    from autoaccel.inspection import scratch_driver
    from autoaccel.search.confirm import Evidence
    from autoaccel.search.trials import run_trial
    from autoaccel.trial import Target, TrialSpec

    target, longest_s = Target(**answer.result["target"]), _LONGEST * answer.result["time_to_target_s"] + 1.0
    with scratch_driver(source) as driver:
        for n in range(ATTEMPTS):
            config = replace(answer.config, seed=_FIRST_SEED + n)
            run_trial(driver, TrialSpec(n + 1, "confirm", config, target, cap_s=longest_s))
        ended = [record.ended for record in driver.ledger.records]
    hits = [e.elapsed_s for e in ended if e.outcome == "hit"]
    return Evidence(answer.config, len(ended), len(hits), tuple(e.elapsed_s for e in ended), tuple(hits))


def as_fast(answer: Answer, again: Evidence) -> bool:
    """Whether new attempts are within what was stated: the 95 % intervals of both expected times overlap."""
    from autoaccel.report.summary import ert_interval

    stated, found = answer.result["time_to_target_interval_s"], ert_interval(again)
    if stated is None or found is None:
        return False
    return bool(stated[0] <= found[1] and found[0] <= stated[1])


def _tune_again(
    job: Job, task: Task | None, where: Path, fresh: bool, progress: bool, began_s: float | None
) -> TuneResult:
    from autoaccel.api import run_job
    from autoaccel.store.run import prepare as prepare_directory

    clock = MonotonicClock()
    began_s = clock.now() if began_s is None else began_s
    unfinished = (where / LEDGER).exists() and not is_finished(where) and not fresh
    if is_finished(where) and not fresh:
        raise UsageError(
            f"{where}: was tuned again for this machine already",
            "Use --if-changed to do it only where something has changed, --fresh to replace it, or --out.",
        )
    source = _source(job, task)
    prepare_directory(where, fresh=fresh, resume=unfinished)
    return run_job(job, source, where, clock, began_s, progress)


def _job(run: Path, budget: str | float | Budget | None) -> Job:
    """The run's own job for another tuning after it."""
    job = stored_job(run)
    if job is None:
        raise UsageError(f"{run}: its job cannot be read", "Restore the file, or tune anew.")
    wanted = portion(job.budget, SHARE, LEAST) if budget is None else parse_budget(budget)
    return replace(job, budget=wanted, after=str(run.resolve()))


def _source(job: Job, task: Task | None) -> TaskSource:
    from autoaccel.execution.source import task_source

    if task is None and job.task is None:
        raise UsageError(
            f"{job.after}: the task of this run was given as an object",
            "Tune it again from Python: autoaccel.retune_run(run_dir, task=task).",
        )
    return task_source(job.task if task is None else None, task)


def _told(evidence: Evidence) -> dict[str, Any]:
    """Attempts in plain words of a document."""
    ert_s = evidence.ert_s if evidence.hits else None
    return {"attempts": evidence.attempts, "hits": evidence.hits, "time_to_target_s": ert_s}
