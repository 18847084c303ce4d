"""The study: ask the policy, run, write the ledger, tell whoever watches; until the budget or the questions end.

Must not know how trials are chosen, shown or run, nor wait (see `trials`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autoaccel.cost.drift import corrected
from autoaccel.errors import TrialsFailedError
from autoaccel.search.confirm import next_confirmation
from autoaccel.search.crowding import ALONE
from autoaccel.search.disturbance import as_disturbed, slowdown
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.losses import once_more
from autoaccel.search.policy import next_trial
from autoaccel.search.question import Left, Question, left_of
from autoaccel.search.reference import next_reference
from autoaccel.search.trials import Driver, Running, advance, begin
from autoaccel.trial import CONFIRMING, FAILURES, LOST, REFERENCE, SEARCHING, TIMED, TrialRecord, TrialSpec

SEARCH_OVER = "search_over"
"""Kind of the ledger's entry that says why the search ended."""
_SAME_FAILURES, _ANY_FAILURES = 3, 12
"""A study ends after this many failures if nothing else has happened: of one and the same kind, or of any."""


def run_study(driver: Driver, question: Question, knowledge: Knowledge | None = None) -> tuple[TrialRecord, ...]:
    """Search, then confirm; returns all records. Ends early when interrupted: what is done is in the ledger."""
    driver = replace(driver, crowding=question.crowding or ALONE)
    study = _Study(driver, question, knowledge or Knowledge(question))
    running: dict[int, Running] = {}
    while running or not driver.interrupted():
        if not driver.interrupted():
            study.fill(running)
        if not running:
            break
        advance(driver, running, study.should_stop)
        _raise_if_hopeless(driver.ledger.records)
    return tuple(driver.ledger.records)


class _Study:
    """One session of a study: what it runs with, and up to which record the search is known to be over."""

    def __init__(self, driver: Driver, question: Question, knowledge: Knowledge) -> None:
        self._driver, self._question, self._knowledge = driver, question, knowledge
        self._over: tuple[int, float] | None = None

    def fill(self, running: dict[int, Running]) -> None:
        """Start trials while a slot is free and there is something to start."""
        question, driver = self._question, self._driver
        while len(running) < driver.executor.n_slots:
            spec = self._next(running)
            if spec is None:
                return
            # What is left was measured before the decision, which took time: the executor counts from here.
            begin(driver, running, spec, left_of(question, driver.spent(running)).seconds + question.finish_s / 2)

    def should_stop(self, spec: TrialSpec, running: Running) -> bool:
        """Whether a search trial, after another report, is better given up."""
        if spec.purpose not in SEARCHING:
            return False
        seen = self._driver.seen()
        return self._knowledge.should_stop(seen.records, *corrected([running.record], seen.drift))

    def _next(self, running: Mapping[int, Running]) -> TrialSpec | None:
        """The next trial, or None to wait or to end. Reference steps have the machine to themselves; where trials at
        once disturb each other, so have the baseline and the confirmations."""
        question, driver = self._question, self._driver
        alone = (REFERENCE, *(TIMED if question.is_crowded else ()))
        if any(r.spec.purpose in alone for r in running.values()):
            return None
        left, recorded = left_of(question, driver.spent(running)), driver.ledger.records
        reference = None if running else next_reference(recorded, left, driver.at_s())
        if reference is not None and recorded[-1].ended_at_s > driver.carried_s:
            return reference
        spec = once_more(recorded, [r.spec for r in running.values()], left) or self._next_training(running)
        if reference is not None and spec is not None:
            return reference  # a session that continues a finished run has nothing to compare, and changes nothing
        return None if running and spec is not None and spec.purpose in alone else spec

    def _next_training(self, running: Mapping[int, Running]) -> TrialSpec | None:
        """Decided in seconds of a machine at its best without neighbours, but for the cap: a worker's clock is the
        wall's."""
        question, driver = self._question, self._driver
        seen = driver.seen()
        done, drift = seen.records, seen.drift
        slower = slowdown(question, drift, driver.ledger.records)
        left = left_of(question, driver.spent(running), slower)
        begun = corrected([r.record for r in running.values()], drift)
        spec = None
        if not any(r.spec.purpose in CONFIRMING for r in begun):
            spec = self._next_search(done, begun, left)
        if spec is None and all(r.spec.purpose in CONFIRMING for r in begun):
            spec = next_confirmation(question, done, left, self._knowledge.ranked(done), begun)
        if spec is None:
            return None
        spec = as_disturbed(question, drift, spec)
        crowding = 1.0 if question.is_crowded and spec.purpose in TIMED else question.crowded
        return spec if spec.cap_s is None else replace(spec, cap_s=slower * crowding * spec.cap_s)

    def _next_search(self, done: Sequence[TrialRecord], running: list[TrialRecord], left: Left) -> TrialSpec | None:
        n_searched = sum(r.spec.purpose in SEARCHING for r in done)
        if self._over is not None and self._over[0] == n_searched and left.share <= self._over[1]:
            return None  # it was over with more left to spend
        decision = next_trial(self._knowledge, done, left, running)
        if decision.spec is None and not running:
            self._over = (n_searched, left.share)
            self._say_over(n_searched, decision.why)
        return decision.spec

    def _say_over(self, n_searched: int, why: str) -> None:
        """For people; a later session that comes to the same end does not say it again."""
        said = [e.data["n_searched"] for e in self._driver.ledger.entries if e.kind == SEARCH_OVER]
        if n_searched not in said:
            self._driver.ledger.append(SEARCH_OVER, self._driver.at_s(), {"n_searched": n_searched, "why": why})


def _raise_if_hopeless(done: list[TrialRecord]) -> None:
    """Nothing ever worked: all other trials would fail too, and a failure may cost nothing of a FLOP budget."""
    searched = [r for r in done if r.spec.purpose in SEARCHING and r.ended.outcome != LOST]
    failed = [r.ended for r in searched if r.ended.outcome in FAILURES]
    causes = list(dict.fromkeys(f"{e.outcome}: {e.message or 'no message'}" for e in failed))
    same = len(causes) == 1 and failed[0].outcome in ("crashed", "oom")  # another learning rate may not diverge
    if len(failed) == len(searched) >= (_SAME_FAILURES if same else _ANY_FAILURES):
        raise TrialsFailedError(
            f"the first {len(failed)} trials all failed:\n  " + "\n  ".join(causes[:5]),
            "Run `autoaccel train` on the baseline to see it; the run directory's worker.log has the details.",
        )


def check_not_failed(done: tuple[TrialRecord, ...]) -> None:
    """Raise if trainings were run and every one of them failed."""
    trained = [r.ended for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING) and r.ended.outcome != LOST]
    failed = [e for e in trained if e.outcome in FAILURES]
    if trained and len(failed) == len(trained):
        causes = sorted({f"{e.outcome}: {e.message}" for e in failed})
        raise TrialsFailedError("every trial failed:\n  " + "\n  ".join(causes[:5]), "See worker.log.")
