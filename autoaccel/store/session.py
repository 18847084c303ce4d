"""Opening a run: its job as it is stored, its ledger, and what an earlier driver left unfinished.

Must not know how a job is carried out.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from autoaccel.budget import Budget
from autoaccel.clock import utc_timestamp
from autoaccel.errors import UsageError
from autoaccel.fingerprint import software
from autoaccel.job import Job
from autoaccel.store.ledger import Ledger, interrupted, last_second
from autoaccel.store.run import JOB, LEDGER, read_json, write_json


def stored_job(path: Path) -> Job | None:
    """The job of the run at `path`; None if there is none that can be read."""
    stored = read_json(path / JOB)
    return None if stored is None else Job.from_json(stored, str(path / JOB))


def open_ledger(path: Path, job: Job) -> Ledger:
    """The ledger of a run; trials a dead driver left running are closed and charged.

    Raises:
        UsageError: the run has another job. A larger budget is no other job, it extends the run; nor is another address
            of the cluster.
    """
    stored = stored_job(path)
    if stored is not None:
        before, now = stored.to_json(), job.to_json()
        if _extends(job.budget, stored.budget):
            before["budget"] = now["budget"]
        before["ray_address"] = now["ray_address"]
        if changed := sorted(k for k in now if before[k] != now[k]):
            raise UsageError(
                f"{path}: the run was started with other settings: {', '.join(changed)}", "Use the same ones."
            )
    write_json(path / JOB, job.to_json())
    ledger = Ledger(path / LEDGER)
    close_interrupted(ledger)
    session = {"started_at": utc_timestamp(), "software": software(), "budget": str(job.budget)}
    ledger.append("session", last_second(ledger.entries), session)
    return ledger


def close_interrupted(ledger: Ledger) -> None:
    """Write down the end of trials whose driver died; those that ran at the same time are charged the same seconds."""
    died_s = last_second(ledger.entries)
    for record in interrupted(ledger.entries):
        ledger.end_trial(died_s + record.wall_s, record)


def _extends(budget: Budget, before: Budget) -> bool:
    """Whether it has the same kinds of limits, none of them smaller."""
    pairs = [(getattr(budget, f.name), getattr(before, f.name)) for f in fields(Budget)]
    return all((a is None) == (b is None) and (a or 0) >= (b or 0) for a, b in pairs)
