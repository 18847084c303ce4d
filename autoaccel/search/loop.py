"""The study: ask the policy, run, write the ledger, tell whoever watches; until the budget or the questions end.

Must not know how trials are chosen, shown or run, nor wait (see `trials`).
"""

from __future__ import annotations

from collections.abc import Mapping

from autoaccel.errors import TrialsFailedError
from autoaccel.search.confirm import next_confirmation
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.policy import next_trial
from autoaccel.search.question import Left, Question, left_of
from autoaccel.search.trials import Driver, Running, advance, begin
from autoaccel.trial import CONFIRMING, FAILURES, SEARCHING, TrialRecord, TrialSpec

SEARCH_OVER = "search_over"
"""Kind of the ledger's entry that says why the search ended."""
_SAME_FAILURES, _ANY_FAILURES = 3, 12
"""A study ends after this many failures if nothing else has happened: of one and the same kind, or of any."""


def run_study(driver: Driver, question: Question, knowledge: Knowledge | None = None) -> tuple[TrialRecord, ...]:
    """Search, then confirm; returns all records. Ends early when interrupted: what is done is in the ledger."""
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
            left = left_of(question, driver.spent(running))
            spec = self._next(running, left)
            if spec is None:
                return
            # What is left was measured before the decision, which took time: the executor counts from here.
            begin(driver, running, spec, left_of(question, driver.spent(running)).seconds + question.finish_s / 2)

    def should_stop(self, spec: TrialSpec, running: Running) -> bool:
        """Whether a search trial, after another report, is better given up."""
        if spec.purpose not in SEARCHING:
            return False
        return self._knowledge.should_stop(self._driver.ledger.records, spec, running.reports)

    def _next(self, running: Mapping[int, Running], left: Left) -> TrialSpec | None:
        """The next trial, or None to wait or to end. The baseline and confirmations have the machine to themselves."""
        done = self._driver.ledger.records
        if any(r.spec.purpose in ("baseline", *CONFIRMING) for r in running.values()):
            return None
        spec = self._next_search(running, left)
        if spec is None and not running:
            spec = next_confirmation(self._question, done, left, self._knowledge.ranked(done))
        return spec

    def _next_search(self, running: Mapping[int, Running], left: Left) -> TrialSpec | None:
        done = self._driver.ledger.records
        n_searched = sum(r.spec.purpose in SEARCHING for r in done)
        if self._over is not None and self._over[0] == n_searched and left.share <= self._over[1]:
            return None  # it was over with more left to spend
        decision = next_trial(self._knowledge, done, left, [r.record for r in running.values()])
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
    searched = [r for r in done if r.spec.purpose in SEARCHING]
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
    trained = [r.ended for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING)]
    failed = [e for e in trained if e.outcome in FAILURES]
    if trained and len(failed) == len(trained):
        causes = sorted({f"{e.outcome}: {e.message}" for e in failed})
        raise TrialsFailedError("every trial failed:\n  " + "\n  ".join(causes[:5]), "See worker.log.")
