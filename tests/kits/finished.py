"""Finished runs in simulated time, with everything on disk that a later one may read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autoaccel import api
from autoaccel.budget import Budget
from autoaccel.config import to_dict
from autoaccel.hardware.machine import Machine
from autoaccel.job import Job
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.loop import run_study
from autoaccel.search.prepare import Prepared
from autoaccel.search.question import Question
from autoaccel.store.run import HARDWARE, JOB, RESULT, RunDirectory, read_json, write_json
from autoaccel.trial import Ended, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, N_TRAIN, Problem, driver, question

MACHINE = Machine(cpu_model="some CPU", isa=("avx2",), usable_cores=4, memory_bytes=8 * 2**30, torch="2.15.0")
TASK: dict[str, Any] = {
    "task": "made up",
    "metric": "accuracy",
    "direction": "max",
    "n_train": N_TRAIN,
    "n_validation": 400,
    "data_digest": "d",
    "baseline": to_dict(BASELINE),
    "unavailable": [],
}


def finished_run(
    path: Path,
    *,
    budget_s: float = 7.0,
    machine: Machine = MACHINE,
    finished_at: str = "2030-01-01T00:00:00Z",
    asked: Question | None = None,
    **job: Any,
) -> Path:
    """A whole study of the made-up problem, and its answer, in a run directory."""
    RunDirectory(path).close()
    budget = Budget(seconds=budget_s)
    asked = question(budget) if asked is None else replace(asked, budget=budget)
    request = Job(budget=budget, **{"task": "digits", "use_library": False, **job})
    profile: Any = SimpleNamespace(fingerprint=machine.name)
    with driver(path, Problem()) as running:
        running.ledger.append("session", 0.0, {"started_at": finished_at})
        running.ledger.end_trial(
            0.0, TrialRecord(TrialSpec(1, "preflight"), (), Ended(1, "done", facts={**TASK, "flops": 0.0}))
        )
        knowledge = Knowledge(asked)
        run_study(running, asked, knowledge)
        api._finish(running, Prepared(request, asked, TASK, profile, 0.1), knowledge, path, None)
    write_json(path / JOB, request.to_json())
    write_json(path / HARDWARE, {"fingerprint": machine.name, "machine": machine.to_json()})
    write_json(path / RESULT, {**(read_json(path / RESULT) or {}), "finished_at": finished_at})
    return path
