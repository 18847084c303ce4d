"""The lineage of a run: its own answer and those of its re-tunings, which lie in it, a folder for each machine.

Must not know when a run is tuned again, or how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.hardware.machine import Machine, machine_of
from autoaccel.store.ledger import read_ledger, records
from autoaccel.store.library import Past, merged, read_past, study_id, trainings_of
from autoaccel.store.run import HARDWARE, JOB, LEDGER, PAST, RESULT, RETUNED, VERIFIED, read_json, write_json
from autoaccel.trial import PREFLIGHT


@dataclass(frozen=True)
class Answer:
    """What a finished run answered, and a machine on which that holds."""

    run: Path
    machine: Machine
    result: dict[str, Any]
    """Its result.json."""

    @property
    def config(self) -> TrainerConfig:
        return with_params(TrainerConfig(), self.result["config"])

    @property
    def has_hit(self) -> bool:
        """Whether fresh seeds ever reached the target with it."""
        return bool(self.result["hits"])


def lineage(run: Path) -> list[Answer]:
    """All answers of a run and its re-tunings, the oldest first; one that holds on several machines for each of them.

    Raises:
        UsageError: there is no run, or it is not finished.
    """
    if not (run / JOB).exists():
        raise UsageError(f"{run}: no run here (no {JOB})", "Give the directory of a finished run.")
    if not is_finished(run):
        raise UsageError(f"{run}: the run is not finished", f"Continue it first: autoaccel tune --resume {run}.")
    runs = [run, *(path for path in sorted((run / RETUNED).glob("*")) if is_finished(path))]
    found = [answer for path in runs for answer in _answers(path)]
    return sorted(found, key=lambda answer: str(answer.result["finished_at"]))


def is_finished(run: Path) -> bool:
    """Whether a run came to its end: it has an answer, and nobody stopped it."""
    result = read_json(run / RESULT)
    return result is not None and not result.get("interrupted")


def folder_for(run: Path, machine: Machine) -> Path:
    """Where the run is tuned again for a machine."""
    return run / RETUNED / machine.name


def add_verified(answer: Answer, machine: Machine, facts: dict[str, Any]) -> None:
    """Keep that an answer holds on another machine too; `facts` are for people: when, how fast it was."""
    known = _verified(answer.run)
    write_json(answer.run / VERIFIED, {"machines": [*known, {"machine": machine.to_json(), **facts}]})


def past_of(answers: Sequence[Answer]) -> Past:
    """Every training that a lineage knows: its own, and what its runs had begun from."""
    found = []
    for run in dict.fromkeys(answer.run for answer in answers):
        entries, _ = read_ledger(run / LEDGER)
        begun = _begun_from(run)
        own = trainings_of(study_id(run.name, entries), records(entries))
        found += [begun, Past(tuple(own), begun.generation + 1)]
    return merged(found)


def task_facts(run: Path) -> dict[str, Any]:
    """What the preflight of a run said of its task; empty if its ledger does not have it."""
    entries, _ = read_ledger(run / LEDGER)
    done = (r for r in records(entries) if r.spec.purpose == PREFLIGHT and r.ended.outcome == "done")
    return next((dict(r.ended.facts) for r in done), {})


def _answers(run: Path) -> list[Answer]:
    """That of one run, on the machine it ran on and on those where it was verified."""
    result, hardware = read_json(run / RESULT), read_json(run / HARDWARE)
    try:
        if result is None or hardware is None:
            raise ValueError("not there")
        machines = [machine_of(hardware, result["software"])]
        machines += [machine_of(kept, {}) for kept in _verified(run)]
        return [Answer(run, machine, result) for machine in machines]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{run}: {HARDWARE} or {RESULT} cannot be used ({type(error).__name__}: {error})",
            "Restore the files, or tune anew.",
        ) from error


def _verified(run: Path) -> list[dict[str, Any]]:
    return list((read_json(run / VERIFIED) or {}).get("machines", []))


def _begun_from(run: Path) -> Past:
    try:
        return read_past(run / PAST) if (run / PAST).exists() else Past()
    except ValueError:  # what it had begun from is a help, not a need
        return Past()
