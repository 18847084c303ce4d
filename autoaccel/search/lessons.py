"""How the search came to its answer: every trial that became the best one, with its reason.

A fold over the bets of the records: each was made against the best of its time. Must not decide anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoaccel.search.knowledge import Ranked
from autoaccel.trial import SEARCHING, TrialRecord


@dataclass(frozen=True)
class Lesson:
    """A trial whose configuration became the best known."""

    trial: int
    purpose: str
    why: str
    expected_s: float
    """Expected time to the target, as the model saw it when it first bet against this one; for the baseline and before
    the first race, what the trial took."""
    known_after: int
    """Trials of the search that had ended when it was first taken for the best."""


def lessons(records: Sequence[TrialRecord], ranked: Sequence[Ranked]) -> list[Lesson]:
    """The changes of the best, in order; the last is the search's answer."""
    searched = [r for r in records if r.spec.purpose in SEARCHING]
    by_number = {r.spec.trial: r for r in searched}
    best = [(n, r.spec.bet.get("against"), r.spec.bet.get("reference_s")) for n, r in enumerate(searched)]
    best += [(len(searched), ranked[0].trial, ranked[0].ert_s)] if ranked else []
    found: list[Lesson] = []
    for n_known, trial, expected_s in best:
        record = by_number.get(trial) if trial is not None else None
        if record is None or (found and found[-1].trial == trial):
            continue
        expected_s = record.ended.elapsed_s if expected_s is None else expected_s
        found.append(Lesson(record.spec.trial, record.spec.purpose, record.spec.note, expected_s, n_known))
    return found
