"""The search loop: ask the policy, run, write the ledger, tell whoever watches; until the budget or the questions end.

The only place of the search that waits. Must not know how trials are chosen, shown or run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoaccel.budget import Spent
from autoaccel.clock import Clock
from autoaccel.errors import TrialsFailedError, UsageError
from autoaccel.execution.base import Executor
from autoaccel.search.attempts import Standing, standings
from autoaccel.search.confirm import next_confirmation
from autoaccel.search.policy import Question, left_of, next_trial
from autoaccel.store.ledger import Ledger, spent
from autoaccel.trial import CONFIRMING, FAILURES, SEARCHING, Ended, Report, TrialRecord, TrialSpec

KILL_GRACE_S = 1.0
"""A trial that has not ended this long after its cap (or the end of the budget) is killed."""
_SETUP_ALLOWANCE_S = 20.0
"""Time a fresh worker may take before its training begins, beyond the cap."""
_SAME_FAILURES, _ANY_FAILURES = 3, 12
"""A study ends after this many failures if nothing else has happened: of one and the same kind, or of any."""


@dataclass(frozen=True)
class Snapshot:
    """What a viewer may show at one moment."""

    stage: str
    spent: Spent
    n_trials: int
    running: TrialSpec | None
    last_report: Report | None
    incumbent: Standing | None
    baseline: Standing | None
    finished: tuple[TrialRecord, ...]
    """The last few, newest last."""
    plan: str = ""
    """What the budget will buy, once it is known."""


Watch = Callable[[Snapshot], None]


@dataclass(frozen=True)
class Driver:
    """What a study runs with: the executor, the ledger, the clock and since when the budget runs.

    `began_s` is the clock's time at which this session's budget second `carried_s` was reached.
    """

    executor: Executor
    ledger: Ledger
    clock: Clock
    began_s: float
    carried_s: float = 0.0
    plan: str = ""
    watch: Watch = lambda _: None
    interrupted: Callable[[], bool] = lambda: False

    def at_s(self) -> float:
        """Budget seconds spent so far, earlier sessions included."""
        return self.carried_s + self.clock.now() - self.began_s

    def spent(self) -> Spent:
        """Everything spent so far."""
        return spent(self.at_s(), self.ledger.records)


def run_study(driver: Driver, question: Question) -> tuple[TrialRecord, ...]:
    """Search, then confirm; returns all records. Ends early when interrupted: what is done is in the ledger."""
    while not driver.interrupted():
        done = driver.ledger.records
        left = left_of(question, driver.spent())
        confirming = any(r.spec.purpose in CONFIRMING for r in done)
        spec = None if confirming else next_trial(question, done, left)
        spec = spec or next_confirmation(question, done, left)
        if spec is None:
            break
        run_trial(driver, spec, left.seconds + question.finish_s / 2)
        _raise_if_hopeless(driver.ledger.records)
    return tuple(driver.ledger.records)


def run_trial(driver: Driver, spec: TrialSpec, seconds_left: float = math.inf) -> TrialRecord:
    """Run one trial or probe to its end and write it down.

    Args:
        driver: what to run with.
        spec: the trial.
        seconds_left: it is killed when these are over, whatever it does.

    Raises:
        UsageError: the worker refused the input.
    """
    start = driver.clock.now()
    driver.ledger.start_trial(driver.at_s(), spec)
    driver.executor.start(spec)
    deadline = start + min(seconds_left, _longest_s(spec))
    reports: list[Report] = []
    _show(driver, spec, reports)
    ended = None
    while ended is None:
        for event in driver.executor.wait(min(0.25, max(0.01, deadline - driver.clock.now()))):
            if isinstance(event, Report):
                reports.append(event)
            else:
                ended = event
        if ended is None and driver.interrupted():
            driver.executor.stop(spec.trial)
            deadline = min(deadline, driver.clock.now() + KILL_GRACE_S)
        if ended is None and driver.clock.now() >= deadline:
            driver.executor.kill(spec.trial)
        _show(driver, spec, reports)
    return _record(driver, spec, reports, ended, driver.clock.now() - start)


def _longest_s(spec: TrialSpec) -> float:
    """Wall-clock seconds after which a trial has ignored its cap."""
    return math.inf if spec.cap_s is None else spec.cap_s + KILL_GRACE_S + _SETUP_ALLOWANCE_S


def _killed(spec: TrialSpec, reports: list[Report], ended: Ended, wall_s: float) -> Ended:
    """The end of a training the driver killed, from its last report.

    Its FLOPs after that are not known: they count as its whole cap. Killed early (end of the budget, Ctrl-C) it is only
    cut, which says nothing about the configuration; so is one that reported but ran over its cap.
    """
    last = reports[-1] if reports else Report(spec.trial, 0.0, 0, 0, 0.0, math.nan, math.nan)
    overran = wall_s >= _longest_s(spec)
    return replace(
        ended,
        outcome="timeout" if overran and not reports else "capped",
        elapsed_s=wall_s if overran else last.elapsed_s,
        samples=last.samples,
        steps=last.steps,
        flops=last.flops if spec.cap_flops is None else spec.cap_flops,
        value=last.value if reports else None,
    )


def _record(driver: Driver, spec: TrialSpec, reports: list[Report], ended: Ended, wall_s: float) -> TrialRecord:
    if ended.outcome == "timeout" and spec.purpose in (*SEARCHING, *CONFIRMING):
        ended = _killed(spec, reports, ended, wall_s)
    elif ended.outcome in FAILURES and not ended.elapsed_s:  # died before its first report: not the fastest of all
        ended = replace(ended, elapsed_s=wall_s)
    record = TrialRecord(spec, tuple(reports), ended, wall_s)
    driver.ledger.end_trial(driver.at_s(), record)
    _show(driver, None, [])
    if ended.outcome == "refused":
        raise UsageError(ended.message, ended.facts.get("hint", ""))
    return record


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


def _show(driver: Driver, running: TrialSpec | None, reports: list[Report]) -> None:
    done = driver.ledger.records
    book = standings(done)
    driver.watch(
        Snapshot(
            stage=_stage(done, running),
            spent=driver.spent(),
            n_trials=sum(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in done),
            running=running,
            last_report=reports[-1] if reports else None,
            incumbent=book[0] if book and book[0].hits else None,
            baseline=next((s for s in book if s.is_baseline), None),
            finished=tuple(r for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING))[-5:],
            plan=driver.plan,
        )
    )


def _stage(done: list[TrialRecord], running: TrialSpec | None) -> str:
    purpose = running.purpose if running else (done[-1].spec.purpose if done else "start")
    names = {"repeat": "race", "confirm_baseline": "confirm", "step_cost": "step cost"}
    return names.get(purpose, purpose)


def check_not_failed(done: tuple[TrialRecord, ...]) -> None:
    """Raise if trainings were run and every one of them failed."""
    trained = [r.ended for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING)]
    failed = [e for e in trained if e.outcome in FAILURES]
    if trained and len(failed) == len(trained):
        causes = sorted({f"{e.outcome}: {e.message}" for e in failed})
        raise TrialsFailedError("every trial failed:\n  " + "\n  ".join(causes[:5]), "See worker.log.")
