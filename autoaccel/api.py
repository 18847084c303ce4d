"""The Python calls, and the only place that wires a tuning: tune, resume, dry run, train.

Loads no torch: training in this process (`train`) resolves it when called. Must not decide or show anything itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from autoaccel.budget import Budget, extended, parse_budget
from autoaccel.clock import Clock, MonotonicClock, utc_timestamp
from autoaccel.config import ConfigFile, Params, TrainerConfig, save_config
from autoaccel.errors import BudgetTooSmallError, UsageError
from autoaccel.execution.local import LocalExecutor, TaskSource
from autoaccel.fingerprint import digest, software
from autoaccel.inspection import scratch_driver
from autoaccel.job import Job
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
from autoaccel.search.trials import Driver
from autoaccel.store.ledger import last_second
from autoaccel.store.run import HARDWARE, JOB, RESULT, STUDY, WORKER_LOG, RunDirectory, read_json, write_json
from autoaccel.store.run import prepare as prepare_directory
from autoaccel.store.session import open_ledger, stored_job
from autoaccel.store.study import write_study
from autoaccel.tasks.base import Task
from autoaccel.tasks.load import absolute, check_reference, short_name
from autoaccel.trial import CONFIRMING, SEARCHING, Report, Target, TrialRecord, TrialSpec

if TYPE_CHECKING:
    from torch import nn


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
    run_dir: Path
    summary: dict[str, Any] = field(repr=False)
    """The content of result.json."""
    signal: int | None = None
    """The signal that ended the tuning early, if one did."""


@dataclass(frozen=True)
class TrainResult:
    """One training."""

    outcome: str
    """hit, missed, finished (no target), stopped, diverged, oom, crashed."""
    elapsed_s: float
    """Training time; for a hit, the time to the target."""
    value: float | None
    """Last validation metric."""
    test_value: float | None
    reports: tuple[Report, ...]
    model: nn.Module
    """The trained model, on the device it was trained on."""
    message: str = ""
    signal: int | None = None
    """The signal that stopped it, if one did; its checkpoint is in the run directory."""


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
    parallel: int = 1,
    use_all_budget: bool = False,
    use_library: bool = True,
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
        parallel: search trials at once, on one device.
        use_all_budget: search on even when next to nothing is to be gained.
        use_library: start from the kept trainings of past studies of this task, and keep this study's.
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
        parallel=parallel,
        use_all_budget=use_all_budget,
        use_library=use_library,
    )
    if reference is None and given is None:
        raise UsageError("tune: no task", "Pass a Task or a reference such as 'digits'.")
    source = task_source(reference, given)
    prepare_directory(where, fresh=fresh, resume=resume)
    return _run(job, source, where, clock, began_s, progress)


def resume_run(
    run_dir: str | Path, *, budget: str | None = None, progress: bool = True, began_s: float | None = None
) -> TuneResult:
    """Continue the run in a directory with its own job; only for tasks that were given by reference.

    Args:
        run_dir: where the run is.
        budget: what to add to its budget, e.g. '+2h'; a finished run searches on with it. None: what is left.
        progress, began_s: see `tune`.
    """
    path = Path(run_dir)
    job = stored_job(path)
    if job is None:
        raise UsageError(f"{path}: no run to resume (no readable {JOB})", "Give the directory of a run.")
    job = job if budget is None else replace(job, budget=extended(job.budget, budget))
    if job.task is None:
        raise UsageError(
            f"{path}: the task of this run was given as an object",
            "Resume it from Python: autoaccel.tune(task, ..., run_dir=..., resume=True).",
        )
    clock = MonotonicClock()
    began = clock.now() if began_s is None else began_s
    source = task_source(job.task, None)
    prepare_directory(path, fresh=False, resume=True)
    return _run(job, source, path, clock, began, progress)


def _budget(given: str | float | timedelta | Budget, resumed: Path | None) -> Budget:
    """The budget of a call: what was given, or the resumed run's with more of it."""
    stored = stored_job(resumed) if resumed is not None else None
    if stored is not None and isinstance(given, str) and given.strip().startswith("+"):
        return extended(stored.budget, given)
    return parse_budget(given)


def _run(job: Job, source: TaskSource, path: Path, clock: Clock, began_s: float, progress: bool) -> TuneResult:
    # Needed at the very end (Wilson interval), 0.7 s to import: done while the worker starts.
    threading.Thread(target=import_module, args=("scipy.stats",), daemon=True).start()
    directory = RunDirectory(path)
    executor = LocalExecutor(source, path / WORKER_LOG, job.parallel)
    ledger, interrupt = None, Interrupt()
    try:
        with interrupt, open_view(job, quiet=not progress) as view:
            ledger = open_ledger(path, job)
            driver = Driver(
                executor=executor,
                ledger=ledger,
                clock=clock,
                began_s=began_s,
                carried_s=last_second(ledger.entries),
                watch=view,
                interrupted=interrupt,
            )
            prepared = prepare(driver, job)
            _same_hardware(path, prepared.profile.fingerprint)
            write_json(path / HARDWARE, prepared.profile.to_json())
            prepared = recall(path, prepared, ledger.records)
            driver = replace(driver, plan=plan(prepared)["text"])
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
        executor.close()
        if ledger is not None:
            ledger.close()
        directory.close()


def _finish(driver: Driver, prepared: Prepared, knowledge: Knowledge, path: Path, signal: int | None) -> TuneResult:
    question, job, done = prepared.question, prepared.job, tuple(driver.ledger.records)
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
        "finished_at": utc_timestamp(),
        "interrupted": signal is not None,
        "ledger_repaired": driver.ledger.repaired,
        "budget": str(job.budget),
        "budget_s": job.budget.seconds,
        "flops": driver.spent().flops,
        "budget_flops": job.budget.flops,
        "seed": job.seed,
        "space": job.space,
        "hardware": prepared.profile.fingerprint,
        "software": software(),
        "unspent_share": max(0.0, 1.0 - job.budget.share(driver.spent())),
        "search_ended": next((e.data["why"] for e in reversed(driver.ledger.entries) if e.kind == SEARCH_OVER), None),
        "past": {**past_document(question.past), "not_kept": keep(path, prepared, driver.ledger)},
        "lessons": [asdict(lesson) for lesson in lessons(done, ranked)],
        "extrapolation": None if beyond is None else extrapolation_document(beyond),
    }
    document = result_document(question, done, baseline, tuned, facts, knowledge.effects(done, tuned.config))
    evidence = {k: document[k] for k in ("target_met", "attempts", "hits", "time_to_target_s", "speedup_vs_baseline")}
    config_file = ConfigFile(tuned.config, job.task, document["target"], {**evidence, "run": path.name})
    save_config(path / "best" / "config.json", config_file)
    trained = [r for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING)]
    trials = [optuna_trial(question.space, r, question.target, question.floor) for r in trained]
    write_study(path / STUDY, path.name, trials)
    document = {**document, "tuning_s": driver.at_s()}
    driver.ledger.append("answer", driver.at_s(), {"result": digest(document)})
    write_json(path / RESULT, document)
    ratio = stated_speedup(document)
    return TuneResult(tuned.config, document["target_met"], tuned, baseline, ratio, done, path, document, signal)


def _same_hardware(path: Path, fingerprint: str) -> None:
    """Times of another machine say nothing here: a run is continued where it was begun."""
    stored = read_json(path / HARDWARE)
    if stored is not None and stored.get("fingerprint") != fingerprint:
        raise UsageError(
            f"{path}: the run was begun on other hardware or another torch ({stored.get('fingerprint')}, here "
            f"{fingerprint})",
            "Continue it there, or start a new run.",
        )


def task_source(reference: str | None, task: Task | None) -> TaskSource:
    if reference is not None:
        check_reference(reference)
        return TaskSource(reference=reference)
    if not isinstance(task, Task):
        raise UsageError(f"tune: {task!r} is not a Task", "Build one with autoaccel.Task(...).")
    import cloudpickle

    try:
        return TaskSource(pickled=cloudpickle.dumps(task))
    except Exception as error:
        raise UsageError(
            f"task {task.name!r} cannot be sent to a worker process: {error}",
            "Remove locks, open files and connections from the task, or define it in a file and pass 'file.py:name'.",
        ) from error


def _default_directory(task: Any) -> Path:
    name = task.name if isinstance(task, Task) else short_name(str(task))
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)[:60] or "task"
    return Path("runs") / f"{safe}-{utc_timestamp().replace(':', '').replace('-', '')}"


def dry_run(job: Job, task: Task | None = None, *, began_s: float | None = None) -> dict[str, Any]:
    """What the budget will buy: measures, trains nothing. Keys: see `search.prepare.plan`."""
    with scratch_driver(task_source(job.task, task)) as driver:
        return plan(prepare(driver if began_s is None else replace(driver, began_s=began_s), job))


def train(
    task: Task | str,
    config: TrainerConfig,
    *,
    target: Target | float | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    report: Callable[[Report], None] | None = None,
) -> TrainResult:
    """Train once, in this process, and keep the model.

    Args:
        task: a Task or a reference.
        config: what to train with.
        target: stop at the first evaluation that reaches it; None trains to the horizon.
        run_dir: where checkpoints (after each evaluation) and the final weights go; None writes nothing.
        resume: continue from the checkpoint in run_dir.
        report: called after each evaluation.

    Raises:
        UsageError: wrong task or config.
        EnvironmentFaultError: no usable checkpoint to resume from.
    """
    from autoaccel.tasks.load import load_task
    from autoaccel.trainer.checkpoint import MANIFEST, MODEL, save_model
    from autoaccel.trainer.preflight import preflight
    from autoaccel.trainer.run import Checkpointing, run_training

    if resume and run_dir is None:
        raise UsageError("train: resume without a run directory", "Say where the checkpoint is.")
    loaded, facts = preflight(load_task(task) if isinstance(task, str) else task)
    if isinstance(target, int | float):
        target = Target(target, facts["direction"], facts["metric"])
    folder = Path(run_dir) if run_dir is not None else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        if not resume and ((folder / MANIFEST).exists() or (folder / MODEL).exists()):
            raise UsageError(f"{folder}: holds another training", "Use --resume to continue it, or another --out.")
    seen: list[Report] = []

    def listen(event: Report) -> None:
        seen.append(event)
        if report:
            report(event)

    spec = TrialSpec(0, "train", config, target, test=True)
    checkpointing = Checkpointing(folder, resume) if folder else None
    with Interrupt() as interrupt:
        ended, model = run_training(loaded, spec, report=listen, stopped=interrupt, checkpointing=checkpointing)
    if model is None:
        raise UsageError(f"the model could not be built: {ended.message}", "Check the task's model function.")
    if folder and ended.outcome in ("hit", "missed", "finished"):
        save_model(folder, model)
    return TrainResult(
        ended.outcome,
        ended.elapsed_s,
        ended.value,
        ended.facts.get("test_value"),
        tuple(seen),
        model,
        ended.message,
        interrupt.signal,
    )
