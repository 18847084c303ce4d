"""A study shown in a database while it runs: every training that ends is added to the study of its question.

One question on one kind of machine is one study, whoever asks it: several drivers add to the same. Must not know how
trials are chosen, nor wait for the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoaccel.cost.drift import Drift, corrected
from autoaccel.fingerprint import digest, task_fingerprint
from autoaccel.search.optuna_view import optuna_trial
from autoaccel.search.prepare import Prepared
from autoaccel.search.trials import Snapshot, Watch
from autoaccel.store.ledger import Ledger
from autoaccel.store.shared import SharedStudy, Storage
from autoaccel.trial import CONFIRMING, LOST, SEARCHING, TrialRecord


def share(storage: Storage, prepared: Prepared, driver: str) -> SharedStudy:
    """The study of a question in a storage; `driver` marks what this run adds."""
    question, target = prepared.question, prepared.question.target
    facts = {
        "task": prepared.facts["task"],
        "target": str(target),
        "hardware": prepared.profile.fingerprint,
        "space": question.space.name,
        "value": "log of the seconds to the target; of a miss, what a power law says it lacks",
    }
    return SharedStudy(storage, study_name(prepared), driver, facts)


def study_name(prepared: Prepared) -> str:
    """The same for the same task, target, space and machine: values of other ones would mean something else, and Optuna
    refuses other choices of the same parameter."""
    target, knobs = prepared.question.target, prepared.question.space.knobs
    what = [
        task_fingerprint(prepared.facts),
        [target.metric, target.value],
        prepared.profile.fingerprint,
        sorted([k.name, list(k.choices), k.log, k.integer] for k in knobs),
    ]
    return f"{prepared.facts['task'][:80]}-{digest(what, 8)}"


def showing(shared: SharedStudy, prepared: Prepared, ledger: Ledger, view: Watch) -> Watch:
    """The view, and with it the study: what an earlier session left out is added first."""
    question, n_shown = prepared.question, 0

    def watch(snapshot: Snapshot) -> None:
        nonlocal n_shown
        view(snapshot)
        new, n_shown = ledger.records[n_shown:], len(ledger.records)
        new = corrected(new, Drift())  # drift is not known before the next reference steps
        shared.offer([optuna_trial(question.space, r, question.target, question.floor) for r in _trained(new)])

    return watch


def storage_document(prepared: Prepared) -> dict[str, Any] | None:
    """What result.json says of the study in the storage: its name, and what is not there yet. Waits for that a while,
    as long as the budget keeps for writing the answer."""
    if prepared.shared is None:
        return None
    left = prepared.shared.close(prepared.question.finish_s / 2)
    url = str(prepared.job.storage)
    return {"url": url, "study": prepared.shared.name, "missing": left.missing, "why": left.why}


def _trained(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [r for r in records if r.spec.purpose in (*SEARCHING, *CONFIRMING) and r.ended.outcome != LOST]
