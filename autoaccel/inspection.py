"""What can be said without tuning: the profile of a machine and a task, where a run is, whether this machine is fit.

Wires the same pieces as `api`, trains nothing and changes nothing.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoaccel.budget import Room
from autoaccel.clock import MonotonicClock
from autoaccel.config import from_dict, to_params
from autoaccel.cost.drift import corrected
from autoaccel.cost.roofline import step_roofline
from autoaccel.errors import AutoaccelError, UsageError
from autoaccel.execution.local import LocalExecutor, TaskSource
from autoaccel.fingerprint import software
from autoaccel.hardware.machine import machine_of
from autoaccel.hardware.profile import facts
from autoaccel.integrations.executors import executor_for
from autoaccel.job import Job
from autoaccel.report.bottleneck import verdict
from autoaccel.search.attempts import standings
from autoaccel.search.probes import measure_breakdown, measure_hardware, measure_step_cost, run_preflight
from autoaccel.search.trials import Driver
from autoaccel.space.files import load_space
from autoaccel.store.ledger import Ledger, last_second, read_ledger, records, spent
from autoaccel.store.library import ANSWER, headers, library_folder, n_studies
from autoaccel.store.lineage import lineage
from autoaccel.store.run import JOB, LEDGER, RESULT, is_active, read_json
from autoaccel.tasks.load import check_reference

HARDWARE_S, BREAKDOWN_S, STEPS_S = 12.0, 4.0, 6.0
"""What `profile` may take for each part at most; where steps are short it takes a third of it."""


@contextmanager
def scratch_driver(source: TaskSource | None, job: Job | None = None) -> Iterator[Driver]:
    """A driver with the workers of a job, or one here, and a ledger that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="autoaccel-") as folder:
        clock = MonotonicClock()
        executor = executor_for(job, source, Path(folder)) if job is not None else LocalExecutor(source)
        ledger = Ledger(Path(folder) / LEDGER)
        try:
            yield Driver(executor, ledger, clock, clock.now(), n_devices=job.devices if job is not None else 1)
        finally:
            executor.close()
            ledger.close()


def profile(task: str | None = None, *, cached: bool = False) -> dict[str, Any]:
    """Measured facts of this machine and, with a task, where its step goes and what bounds it. Plain JSON.

    Args:
        task: a reference.
        cached: take rates of this machine that were measured before; by default it is measured as it is now.

    Returns:
        {"hardware": HardwareProfile, "task": what preflight says of it, "breakdown": of
        `trainer.breakdown.measure_breakdown`, "roofline": of `cost.roofline.Roofline`, "steps": of
        `trainer.measure.measure_steps`, "verdict": what bounds the step, in words}; without a task the first alone,
        and "task" is None
    """
    if task is not None:
        check_reference(task)
    with scratch_driver(TaskSource(reference=task) if task else None) as driver:
        found = run_preflight(driver) if task else None
        hardware = measure_hardware(driver, HARDWARE_S, use_cache=cached, folder=os.getcwd())
        document: dict[str, Any] = {"hardware": hardware.to_json(), "task": found}
        if found is None:
            return document
        baseline = from_dict(found["baseline"])
        document["breakdown"] = measure_breakdown(driver, baseline, BREAKDOWN_S)
        space, room = load_space("minimal"), Room(STEPS_S, math.inf)
        document["steps"] = measure_step_cost(driver, found["n_train"], baseline, space, room)
        is_measured = not document["breakdown"]["oom"]
        document["roofline"] = asdict(step_roofline(document["breakdown"], hardware)) if is_measured else None
        return {**document, "verdict": verdict(document)}


def status(run_dir: str | Path) -> dict[str, Any]:
    """Where a run is, from its ledger alone; works while it is active. Plain JSON."""
    path = Path(run_dir)
    if not (path / LEDGER).exists():
        raise UsageError(f"{path}: no run here (no {LEDGER})", "Give the directory of a run.")
    entries, _ = read_ledger(path / LEDGER)
    done = records(entries)
    job = read_json(path / JOB) or {}
    amount = spent(last_second(entries), done, job.get("devices", 1))
    book = [s for s in standings(corrected(done)) if s.hits]
    result = read_json(path / RESULT)
    finished = result is not None and not result.get("interrupted")
    state = "active" if is_active(path) else "finished" if finished else "interrupted"
    return {
        "run": str(path),
        "state": state,
        "task": job.get("task"),
        "budget": job.get("budget"),
        "spent_s": amount.seconds,
        "spent_flops": amount.flops,
        "n_trials": amount.trials,
        "best_time_to_target_s": book[0].ert_s if book else None,
        "best_config": to_params(book[0].config) if book else None,
        "retuned": _retuned(path) if finished else [],
        "result": result,
    }


def _retuned(path: Path) -> list[dict[str, Any]]:
    """The answers of a finished run for every machine that it was tuned for, its own first."""
    try:
        answers = lineage(path)
    except UsageError:  # a run from before such things were kept
        return []
    keys = ("finished_at", "target_met", "hits", "attempts", "time_to_target_s")
    return [{"machine": str(a.machine), "run": str(a.run), **{k: a.result[k] for k in keys}} for a in answers]


def library() -> dict[str, Any]:
    """The history of answers in the library: for every task and every machine, the oldest first. Plain JSON."""
    heads, notes = headers()
    tasks: dict[str, dict[str, Any]] = {}
    for head in heads:
        task = tasks.setdefault(
            head["fingerprint"], {"task": head.get("task"), "fingerprint": head["fingerprint"], "machines": {}}
        )
        answers = task["machines"].setdefault(_machine_text(head), [])
        known = {name: head.get(name) for name in ("kept_at", "run", "metric", "target", "n_trainings")}
        torch = (head.get("software") or {}).get("torch")
        answers.append({**known, "torch": torch, **(head.get("answer") or dict.fromkeys(ANSWER))})
    return {"folder": str(library_folder()), "tasks": list(tasks.values()), "notes": notes}


def _machine_text(head: dict[str, Any]) -> str:
    """In words; studies from before machines were kept have a digest of theirs."""
    try:
        return str(machine_of(head, {}))
    except (KeyError, TypeError, ValueError):
        return f"machine {head.get('hardware')}"


def doctor() -> list[dict[str, Any]]:
    """Checks of this machine: [{'name', 'ok', 'found'}]; nothing is changed."""
    known = facts()
    versions = software()
    free = shutil.disk_usage(Path.cwd()).free
    checks = [
        {"name": "python", "ok": True, "found": known["python"]},
        *({"name": name, "ok": v != "absent", "found": v} for name, v in versions.items()),
        {"name": "usable cores", "ok": True, "found": str(known["usable_cores"])},
        {"name": "memory", "ok": True, "found": f"{known['memory_bytes'] / 2**30:.1f} GiB"},
        {"name": "disk here", "ok": free > 2**30, "found": f"{free / 2**30:.1f} GiB free"},
        {"name": "library", "ok": True, "found": f"{n_studies()} studies in {library_folder()}"},
        {"name": "writable here", "ok": os.access(Path.cwd(), os.W_OK), "found": str(Path.cwd())},
    ]
    try:
        with scratch_driver(None) as driver:
            found = measure_hardware(driver)
        checks.append({"name": "worker process", "ok": True, "found": "starts and answers"})
        devices = ", ".join(f"{d.kind} {d.name}" for d in found.devices)
        checks.append({"name": "device", "ok": True, "found": devices})
    except AutoaccelError as error:
        checks.append({"name": "worker process", "ok": False, "found": error.message})
    return checks
