"""One study in a process of its own, so that every method pays for its imports: python -m benchmarks.live.study FILE.

FILE holds the assignment as JSON and is replaced by the result. The budget counts from the start of the process. Must
not know how answers are judged.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoaccel import api
from autoaccel.budget import Budget
from autoaccel.clock import process_start
from autoaccel.config import to_dict
from autoaccel.errors import AutoaccelError, UsageError
from autoaccel.execution.local import TaskSource
from autoaccel.execution.source import task_source
from autoaccel.inspection import scratch_driver
from autoaccel.job import Job
from autoaccel.search.prepare import prepare
from autoaccel.search.trials import Driver
from autoaccel.store.ledger import Entry, read_ledger
from autoaccel.store.run import LEDGER
from autoaccel.trial import CONFIRMING, PROBES, REFERENCE, SEARCHING, STEP_PROBES

UNCHARGED = ("hardware", REFERENCE, *STEP_PROBES)
"""Probes that peers do not use, beyond the space that all methods share."""


def task_of(name: str, data: str | None) -> Any:
    """A task as `autoaccel.tune` takes it."""
    if name == "digits":
        return "digits"
    from examples.fashion_mnist import fashion

    return fashion(data)  # type: ignore[no-untyped-call]


def source_of(name: str, data: str | None) -> TaskSource:
    """The same for a worker."""
    task = task_of(name, data)
    return task_source(task, None) if isinstance(task, str) else task_source(None, task)


def ours(assignment: dict[str, Any], began_s: float) -> dict[str, Any]:
    """A tuning as a user runs it."""
    with tempfile.TemporaryDirectory(prefix="autoaccel-") as folder:
        run_dir = Path(folder) / "run"
        result = api.tune(
            task_of(assignment["task"], assignment["data"]),
            budget=Budget(seconds=float(assignment["budget_s"])),
            target=assignment["target"],
            run_dir=run_dir,
            seed=assignment["seed"],
            use_library=False,
            progress=False,
            began_s=began_s,
        )
        entries, _ = read_ledger(run_dir / LEDGER)
    stated = {key: result.summary[key] for key in ("target_met", "attempts", "hits", "time_to_target_s", "n_trials")}
    hits = sum(r.hit for r in result.trials if r.spec.config is not None)
    return {
        "answer": to_dict(result.config),
        **stated,
        "n_hits": hits,
        "tuning_s": result.summary["tuning_s"],
        **training_share(entries),
    }


def training_share(entries: list[Entry]) -> dict[str, float | None]:
    """Seconds of training and evaluations, and their share of the time from the end of the last probe to the end."""
    ended = [e for e in entries if e.kind == "ended"]
    probed_s = max((e.at_s for e in ended if e.data["spec"]["purpose"] in PROBES), default=0.0)
    end_s = max((e.at_s for e in entries), default=0.0)
    trained = [e.data["ended"]["elapsed_s"] for e in ended if e.data["spec"]["purpose"] in (*SEARCHING, *CONFIRMING)]
    share = sum(trained) / (end_s - probed_s) if end_s > probed_s else None
    return {"probed_s": probed_s, "training_s": sum(trained), "training_share": share}


def peer(assignment: dict[str, Any], began_s: float) -> dict[str, Any]:
    """A peer on the same worker, trainer and space."""
    from benchmarks.live.peers import FORMS, search

    budget_s = float(assignment["budget_s"])
    # Twice: whether a tuning with confirmations fits into a budget is no question to a peer.
    job = Job(budget=Budget(seconds=2 * budget_s), target=assignment["target"], seed=assignment["seed"])
    with scratch_driver(source_of(assignment["task"], assignment["data"])) as driver:
        driver = replace(driver, began_s=began_s)
        question = prepare(driver, job).question
        driver = replace(driver, began_s=began_s + uncharged_s(driver))
        found = search(driver, question, FORMS[assignment["method"]], budget_s)
        tuning_s = driver.at_s()
    return {
        "answer": to_dict(found.answer),
        "n_trials": len(found.trials),
        "n_hits": sum(t.hit for t in found.trials),
        "tuning_s": tuning_s,
    }


def uncharged_s(driver: Driver) -> float:
    """Seconds that a peer gets back."""
    return sum(r.wall_s for r in driver.ledger.records if r.spec.purpose in UNCHARGED)


def main() -> None:
    began_s = process_start()
    file = Path(sys.argv[1])
    assignment = json.loads(file.read_text())
    try:
        found = (ours if assignment["method"] == "ours" else peer)(assignment, began_s)
    except UsageError:
        raise
    except AutoaccelError as error:  # a study without an answer counts as one that never hits
        found = {"answer": None, "error": error.message, "n_trials": 0, "n_hits": 0}
    file.write_text(json.dumps({**assignment, **found}))


if __name__ == "__main__":
    main()
