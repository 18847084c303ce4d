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
from autoaccel.cost.roofline import step_roofline
from autoaccel.errors import AutoaccelError, UsageError
from autoaccel.execution.local import LocalExecutor, TaskSource
from autoaccel.fingerprint import software
from autoaccel.hardware.profile import facts
from autoaccel.report.bottleneck import verdict
from autoaccel.search.attempts import standings
from autoaccel.search.probes import measure_breakdown, measure_hardware, measure_step_cost, run_preflight
from autoaccel.search.trials import Driver
from autoaccel.space.files import load_space
from autoaccel.store.ledger import Ledger, last_second, read_ledger, records, spent
from autoaccel.store.library import library_folder, n_studies
from autoaccel.store.run import JOB, LEDGER, RESULT, is_active, read_json
from autoaccel.tasks.load import check_reference

HARDWARE_S, BREAKDOWN_S, STEPS_S = 12.0, 4.0, 6.0
"""What `profile` may take for each part at most; where steps are short it takes a third of it."""


@contextmanager
def scratch_driver(source: TaskSource | None) -> Iterator[Driver]:
    """A driver with a worker and a ledger that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="autoaccel-") as folder:
        executor, clock = LocalExecutor(source), MonotonicClock()
        ledger = Ledger(Path(folder) / LEDGER)
        try:
            yield Driver(executor, ledger, clock, clock.now())
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
        document["steps"] = measure_step_cost(driver, found, baseline, space, room)
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
    amount = spent(last_second(entries), done)
    book = [s for s in standings(done) if s.hits]
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
        "result": result,
    }


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
