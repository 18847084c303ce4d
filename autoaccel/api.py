"""The Python calls that tune, and the only place that wires a tuning: tune, resume, dry run.

Loads no torch. Must not decide or show anything itself.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from signal import SIGINT
from typing import Any

from autoaccel.budget import Budget, extended, parse_budget
from autoaccel.clock import Clock, MonotonicClock, utc_timestamp
from autoaccel.config import ConfigFile, Params, TrainerConfig, save_config
from autoaccel.errors import BudgetTooSmallError, UsageError
from autoaccel.execution.local import TaskSource
from autoaccel.execution.source import task_source
from autoaccel.fingerprint import digest, software
from autoaccel.hardware.machine import this_machine
from autoaccel.inspection import scratch_driver
from autoaccel.integrations.executors import executor_for
from autoaccel.job import Job
from autoaccel.report.drift import drift_document
from autoaccel.report.summary import Ratio, extrapolation_document, result_document, stated_speedup
from autoaccel.report.terminal import open_view
from autoaccel.search.confirm import Evidence, answer, baseline_evidence, unconfirmed
from autoaccel.search.extrapolate import extrapolated
from autoaccel.search.interrupt import Interrupt
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.lessons import lessons
from autoaccel.search.loop import SEARCH_OVER, check_not_failed, run_study
from autoaccel.search.memory import keep, recall
from autoaccel.search.optuna_view import optuna_trial
from autoaccel.search.prepare import Prepared, past_document, plan, prepare
from autoaccel.search.sharing import share, showing, storage_document
from autoaccel.search.trials import Driver
from autoaccel.storage_url import StorageUrl, with_secret
from autoaccel.store.ledger import last_second
from autoaccel.store.library import study_id
from autoaccel.store.run import HARDWARE, JOB, RESULT, STUDY, RunDirectory, read_json, write_json
from autoaccel.store.run import prepare as prepare_directory
from autoaccel.store.session import open_ledger, stored_job
from autoaccel.store.shared import open_storage
from autoaccel.store.study import write_study
from autoaccel.tasks.base import Task
from autoaccel.tasks.load import absolute, short_name
from autoaccel.trial import CONFIRMING, LOST, SEARCHING, TrialRecord


@dataclass(frozen=True)
class TuneResult:
    """The answer of a tuning and its evidence."""

    config: TrainerConfig
    """The fastest configuration found; the nearest miss if the target was not met."""
    target_met: bool
    """Whether fresh seeds reached the target at the wanted rate."""
    confirmation: Evidence
    """Attempts of `config` on fresh seeds the search never saw."""
    baseline: Evidence
    speedup: Ratio
    """Expected time to the target of the baseline over that of `config`."""
    trials: tuple[TrialRecord, ...]
    """As recorded: where the machine was slower for a while, their seconds are not corrected by it."""
    run_dir: Path
    summary: dict[str, Any] = field(repr=False)
    """The content of result.json."""
    signal: int | None = None
    """The signal that ended the tuning early, if one did."""


def tune(  # noqa: PLR0913 - the options of one request
    task: Task | str | None = None,
    *,
    budget: str | float | timedelta | Budget,
    target: float | None = None,
    run_dir: str | Path | None = None,
    space: str = "minimal",
    fix: Params | None = None,
    seed: int = 0,
    hit_probability: float = 0.9,
    devices: int = 1,
    trials_at_once: int | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    ray_resources: dict[str, float] | None = None,
    use_all_budget: bool = False,
    use_library: bool = True,
    storage: str | StorageUrl | None = None,
    after: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: bool = True,
    began_s: float | None = None,
) -> TuneResult:
    """Find the fastest configuration that reaches the target.

    Args:
        task: a Task, or a reference (built-in name, 'file.py:name', 'package.module:name', or a task made from data:
            'timm:resnet18?data=photos', 'char-transformer?text=FILE', 'mlp?table=FILE&label=COLUMN').
        budget: text such as '2h' or '1e18FLOPs', seconds, or a timedelta. Covers everything from this call on. With
            `resume`, '+2h' extends the run's budget.
        target: metric value to reach; default: the task's own.
        run_dir: where everything is written; default runs/TASK-TIME.
        space: shipped search space or path of a TOML file.
        fix: knobs to pin, by dotted path.
        seed: seed of the search.
        hit_probability: hit rate the answer needs on fresh seeds.
        devices: GPUs, or cores where there are none, to run trials on.
        trials_at_once: a multiple of `devices`; default: one trial on each.
        executor: 'local' (processes here), 'ray' (a private Ray here, or a cluster), 'ray-tune' (trials of Ray Tune).
        ray_address: the cluster's head, 'host:port' or 'auto'.
        ray_resources: what a trial needs there beside its share of the devices, such as {"CPU": 4}.
        use_all_budget: search on even when next to nothing is to be gained.
        use_library: start from the kept trainings of past studies of this task, and keep this study's.
        storage: URL of a database that the study is also written to while it runs, e.g. 'postgresql://user@host/name'.
        after: directory of the run that this one tunes again; `retuning.retune_run` says when, and for how much.
        resume: continue the run in run_dir with what is left of its budget.
        fresh: replace the run in run_dir.
        progress: show a live view on a terminal, else a line per trial (standard error).
        began_s: monotonic second the budget counts from; default now.

    Raises:
        UsageError: wrong input, found before any training.
        BudgetTooSmallError: names the smallest budget that would work.
        TrialsFailedError: nothing could be trained.
        EnvironmentFaultError: disk, lock, damaged run directory.
    """
    clock = MonotonicClock()
    began_s = clock.now() if began_s is None else began_s
    reference, given = (task, None) if isinstance(task, str) else (None, task)
    where = Path(run_dir) if run_dir is not None else _default_directory(task)
    job = Job(
        budget=_budget(budget, where if resume else None),
        task=absolute(reference) if reference is not None else None,
        target=target,
        space=space,
        fix=fix or {},
        seed=seed,
        hit_probability=hit_probability,
        devices=devices,
        trials_at_once=trials_at_once,
        executor=executor,
        ray_address=ray_address,
        ray_resources=ray_resources or {},
        use_all_budget=use_all_budget,
        use_library=use_library,
        storage=StorageUrl(storage) if isinstance(storage, str) else storage,
        after=after,
    )
    if reference is None and given is None:
        raise UsageError("tune: no task", "Pass a Task or a reference such as 'digits'.")
    source = task_source(reference, given)
    prepare_directory(where, fresh=fresh, resume=resume)
    return run_job(job, source, where, clock, began_s, progress)


def resume_run(
    run_dir: str | Path,
    *,
    budget: str | None = None,
    ray_address: str | None = None,
    progress: bool = True,
    began_s: float | None = None,
) -> TuneResult:
    """Continue the run in a directory with its own job; only for tasks that were given by reference.

    Args:
        run_dir: where the run is.
        budget: what to add to its budget, e.g. '+2h'; a finished run searches on with it. None: what is left.
        ray_address: where its cluster is now; None: where it was.
        progress, began_s: see `tune`.
    """
    path = Path(run_dir)
    job = stored_job(path)
    if job is None:
        raise UsageError(f"{path}: no run to resume (no readable {JOB})", "Give the directory of a run.")
    job = job if budget is None else replace(job, budget=extended(job.budget, budget))
    job = job if ray_address is None else replace(job, ray_address=ray_address)
    if job.task is None:
        raise UsageError(
            f"{path}: the task of this run was given as an object",
            "Resume it from Python: autoaccel.tune(task, ..., run_dir=..., resume=True).",
        )
    clock = MonotonicClock()
    began = clock.now() if began_s is None else began_s
    source = task_source(job.task, None)
    prepare_directory(path, fresh=False, resume=True)
    return run_job(job, source, path, clock, began, progress)


def _budget(given: str | float | timedelta | Budget, resumed: Path | None) -> Budget:
    """The budget of a call: what was given, or the resumed run's with more of it."""
    stored = stored_job(resumed) if resumed is not None else None
    if stored is not None and isinstance(given, str) and given.strip().startswith("+"):
        return extended(stored.budget, given)
    return parse_budget(given)


def run_job(job: Job, source: TaskSource, path: Path, clock: Clock, began_s: float, progress: bool) -> TuneResult:
    """Carry out a job in a run directory that is prepared for it; see `tune`."""
    # Needed at the very end (Wilson interval), 0.7 s to import: done while the worker starts.
    threading.Thread(target=import_module, args=("scipy.stats",), daemon=True).start()
    storage = open_storage(with_secret(job.storage)) if job.storage is not None else None
    directory = RunDirectory(path)
    executor, ledger, shared, interrupt = None, None, None, Interrupt()
    try:
        executor = executor_for(job, source, path)
        with interrupt, open_view(job, quiet=not progress) as view:
            ledger = open_ledger(path, job)
            driver = Driver(
                executor=executor,
                ledger=ledger,
                clock=clock,
                began_s=began_s,
                carried_s=last_second(ledger.entries),
                n_devices=job.devices,
                watch=view,
                interrupted=interrupt,
            )
            prepared = prepare(driver, job)
            _same_hardware(path, prepared.profile.fingerprint)
            write_json(path / HARDWARE, {**prepared.profile.to_json(), "machine": this_machine().to_json()})
            prepared = recall(path, prepared, ledger.records)
            driver = replace(driver, plan=plan(prepared)["text"])
            if storage is not None:
                shared = share(storage, prepared, study_id(path.name, ledger.entries))
                prepared = replace(prepared, shared=shared)
                driver = replace(driver, watch=showing(shared, prepared, ledger, view))
            knowledge = Knowledge(prepared.question)
            run_study(driver, prepared.question, knowledge)
            return _finish(driver, prepared, knowledge, path, interrupt.signal)
    except (UsageError, BudgetTooSmallError):
        if ledger is not None and not any(r.spec.purpose in SEARCHING for r in ledger.records):
            ledger.close()
            directory.discard()  # nothing was trained: the corrected command may use the directory again
        raise
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(interrupt.signal or SIGINT) from error
    finally:
        if executor is not None:
            executor.close()
        if shared is not None:
            shared.close(0.0)
        if ledger is not None:
            ledger.close()
        directory.close()


def _finish(driver: Driver, prepared: Prepared, knowledge: Knowledge, path: Path, signal: int | None) -> TuneResult:
    question, job = prepared.question, prepared.job
    drift, done = driver.seen().drift, tuple(driver.seen().records)
    check_not_failed(done)
    ranked = knowledge.ranked(done)
    beyond = extrapolated(knowledge, done)
    tuned = answer(question, done, ranked) if beyond is None else unconfirmed(question, beyond.config)
    if tuned is None:
        if signal is not None:
            raise KeyboardInterrupt
        raise BudgetTooSmallError(
            f"budget {job.budget} ended before any trial was evaluated once", "Give a larger budget."
        )
    baseline = baseline_evidence(question, done)
    facts = {
        "task": prepared.facts["task"],
        "after": job.after,
        "finished_at": utc_timestamp(),
        "interrupted": signal is not None,
        "ledger_repaired": driver.ledger.repaired,
        "budget": str(job.budget),
        "budget_s": job.budget.seconds,
        "flops": driver.spent().flops,
        "budget_flops": job.budget.flops,
        "seed": job.seed,
        "space": job.space,
        "executor": job.executor,
        "devices": job.devices,
        "trials_at_once": question.n_slots,
        "crowding": question.crowded,
        "hardware": prepared.profile.fingerprint,
        "software": software(),
        "unspent_share": max(0.0, 1.0 - job.budget.share(driver.spent())),
        "search_ended": next((e.data["why"] for e in reversed(driver.ledger.entries) if e.kind == SEARCH_OVER), None),
        "past": past_document(question.past),
        "storage": storage_document(prepared),
        "lessons": [asdict(lesson) for lesson in lessons(done, ranked)],
        "extrapolation": None if beyond is None else extrapolation_document(beyond),
        "drift": drift_document(done, drift),
    }
    document = result_document(question, done, baseline, tuned, facts, knowledge.effects(done, tuned.config))
    document["past"]["not_kept"] = keep(path, prepared, driver.ledger, document)
    evidence = {k: document[k] for k in ("target_met", "attempts", "hits", "time_to_target_s", "speedup_vs_baseline")}
    config_file = ConfigFile(tuned.config, job.task, document["target"], {**evidence, "run": path.name})
    save_config(path / "best" / "config.json", config_file)
    trained = [r for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING) and r.ended.outcome != LOST]
    trials = [optuna_trial(question.space, r, question.target, question.floor) for r in trained]
    write_study(path / STUDY, path.name, trials)
    document = {**document, "tuning_s": driver.at_s()}
    driver.ledger.append("answer", driver.at_s(), {"result": digest(document)})
    write_json(path / RESULT, document)
    ratio = stated_speedup(document)
    recorded = tuple(driver.ledger.records)
    return TuneResult(tuned.config, document["target_met"], tuned, baseline, ratio, recorded, path, document, signal)


def _same_hardware(path: Path, fingerprint: str) -> None:
    """Times of another machine say nothing here: a run is continued where it was begun."""
    stored = read_json(path / HARDWARE)
    if stored is not None and stored.get("fingerprint") != fingerprint:
        raise UsageError(
            f"{path}: the run was begun on other hardware or another torch ({stored.get('fingerprint')}, here "
            f"{fingerprint})",
            "Continue it there, or start a new run.",
        )


def _default_directory(task: Any) -> Path:
    name = task.name if isinstance(task, Task) else short_name(str(task))
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:60] or "task"
    return Path("runs") / f"{safe}-{utc_timestamp().replace(':', '').replace('-', '')}"


def dry_run(job: Job, task: Task | None = None, *, began_s: float | None = None) -> dict[str, Any]:
    """What the budget will buy: measures, trains nothing. Keys: see `search.prepare.plan`."""
    with scratch_driver(task_source(job.task, task), job) as driver:
        return plan(prepare(driver if began_s is None else replace(driver, began_s=began_s), job))
