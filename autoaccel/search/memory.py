"""What a study takes from earlier ones of its task when it begins, and leaves to later ones when it ends.

What it took is frozen in its run directory: resumed, it decides as before, although the library has grown. Must not
know how the past is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoaccel.clock import utc_timestamp
from autoaccel.errors import EnvironmentFaultError
from autoaccel.fingerprint import software, task_fingerprint
from autoaccel.hardware.machine import this_machine
from autoaccel.search.inherited import chosen
from autoaccel.search.prepare import Prepared
from autoaccel.search.transfer import known_past
from autoaccel.store.ledger import Ledger
from autoaccel.store.library import ANSWER, Past, read_past, save_study, study_id, trainings_of, write_past
from autoaccel.store.run import PAST
from autoaccel.trial import SEARCHING, TrialRecord


def recall(path: Path, prepared: Prepared, records: Sequence[TrialRecord]) -> Prepared:
    """The study with its past: what is frozen in its run directory, or before its first trial what there is to know.

    That is what the library has, and for a re-tuning what the run knows that is tuned again.
    """
    job = prepared.job
    if not job.use_library and job.after is None:
        return prepared
    frozen = path / PAST
    if frozen.exists():
        try:
            past = read_past(frozen)
        except ValueError as error:
            raise EnvironmentFaultError(f"{frozen}: {error}", "Restore the file, or start a new run.") from error
    elif any(r.spec.purpose in SEARCHING for r in records):
        past = Past()
    else:
        past = chosen(prepared.question, known_past(job.after, prepared.facts, job.use_library))
        if past.trainings or past.generation:
            write_past(frozen, past, {"task": prepared.facts["task"]})
    return replace(prepared, question=replace(prepared.question, past=past))


def keep(path: Path, prepared: Prepared, ledger: Ledger, result: Mapping[str, Any]) -> str:
    """Add the study and its answer to the library; what went wrong in words, or nothing: an answer is not lost for
    that."""
    if not prepared.job.use_library:
        return ""
    study = study_id(path.name, ledger.entries)
    question = prepared.question
    past = Past(tuple(trainings_of(study, ledger.records)), question.past.generation)
    facts = {
        "task": prepared.facts["task"],
        "metric": question.target.metric,
        "target": question.target.value,
        "hardware": prepared.profile.fingerprint,
        "software": software(),
        "kept_at": utc_timestamp(),
        "run": path.name,
        "machine": this_machine().to_json(),
        "answer": {name: result[name] for name in ANSWER},
    }
    try:
        save_study(task_fingerprint(prepared.facts), past, facts, is_answered=bool(result["target_met"]))
    except EnvironmentFaultError as error:
        return f"this study was not kept in the library: {error.message}"
    return ""
