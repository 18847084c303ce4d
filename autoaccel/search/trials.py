"""Running trials: begin, wait, stop what is not worth finishing, kill what overruns, write each end down.

The only place of the search that waits. Must not know how trials are chosen or what they are for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoaccel.budget import Spent
from autoaccel.clock import Clock
from autoaccel.cost.drift import Drift, corrected, drift_of
from autoaccel.errors import UsageError
from autoaccel.execution.base import Executor
from autoaccel.search.attempts import Standing, standings
from autoaccel.search.crowding import ALONE, Company, Crowding
from autoaccel.search.losses import judged
from autoaccel.search.translate import as_running
from autoaccel.store.ledger import Ledger, spent
from autoaccel.trial import (
    CONFIRMING,
    CROWDING,
    FAILURES,
    LOST,
    SEARCHING,
    STEP_PROBES,
    Ended,
    Report,
    TrialRecord,
    TrialSpec,
)

KILL_GRACE_S = 1.0
"""A trial that has not ended this long after its cap (or the end of the budget) is killed."""
_SETUP_ALLOWANCE_S = 20.0
"""Time a fresh worker may take before its training begins, beyond the cap."""


@dataclass(frozen=True)
class Snapshot:
    """What a viewer may show at one moment."""

    stage: str
    spent: Spent
    n_trials: int
    running: tuple[TrialSpec, ...]
    last_report: Report | None
    """Of the first of the running trials."""
    incumbent: Standing | None
    baseline: Standing | None
    finished: tuple[TrialRecord, ...]
    """The last few, newest last."""
    plan: str = ""
    """What the budget will buy, once it is known."""


Watch = Callable[[Snapshot], None]


@dataclass
class Running:
    """A started trial."""

    spec: TrialSpec
    began_s: float
    deadline_s: float
    """On the driver's clock; it is killed then."""
    reports: list[Report] = field(default_factory=list)
    company: Company = field(default_factory=Company)
    noted_s: float = 0.0
    """Up to when its company was noted."""
    is_stopped: bool = False
    """Whether it was asked to end."""

    @property
    def record(self) -> TrialRecord:
        """As far as it is known."""
        return as_running(self.spec, self.reports, self.company.crowding)


ShouldStop = Callable[[TrialSpec, Running], bool]


@dataclass(frozen=True)
class Seen:
    """All that has ended, in seconds of the machine at its best (see `cost.drift`): what is decided from, and shown."""

    records: Sequence[TrialRecord] = ()
    drift: Drift = field(default_factory=Drift)
    book: Sequence[Standing] = ()
    """Of the search."""


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
    n_devices: int = 1
    crowding: Crowding = ALONE
    plan: str = ""
    watch: Watch = lambda _: None
    interrupted: Callable[[], bool] = lambda: False
    _latest: list[Seen] = field(default_factory=lambda: [Seen()])
    """What was seen last: to correct and rank hundreds of records anew takes tens of milliseconds, four times a second
    beside a training."""

    def seen(self) -> Seen:
        """What the ledger's records say; made anew for a new one only."""
        recorded = self.ledger.records
        if len(self._latest[0].records) != len(recorded):
            drift = drift_of(recorded)
            done = corrected(recorded, drift)
            self._latest[0] = Seen(done, drift, standings(done))
        return self._latest[0]

    def at_s(self) -> float:
        """Budget seconds spent so far, earlier sessions included."""
        return self.carried_s + self.clock.now() - self.began_s

    def spent(self, running: Mapping[int, Running] | None = None) -> Spent:
        """Everything spent so far; running trials are charged their whole cap of FLOPs until they end."""
        amount = spent(self.at_s(), self.ledger.records, self.n_devices)
        for trial in (running or {}).values():
            amount += Spent(flops=trial.spec.cap_flops or 0.0, trials=1)
        return amount


def run_trial(driver: Driver, spec: TrialSpec, seconds_left: float = math.inf) -> TrialRecord:
    """Run one trial or probe to its end and write it down; once more if its worker is lost.

    Args:
        driver: what to run with.
        spec: the trial.
        seconds_left: it is killed when these are over, whatever it does.

    Raises:
        UsageError: the worker refused the input.
    """
    running: dict[int, Running] = {}
    begin(driver, running, spec, seconds_left)
    while running:
        advance(driver, running, lambda *_: False)
    record = driver.ledger.records[-1]
    if record.ended.outcome == LOST and not driver.interrupted():
        return run_trial(driver, replace(spec, trial=spec.trial + 1), seconds_left)
    return record


def run_together(driver: Driver, specs: Sequence[TrialSpec], seconds_left: float) -> list[TrialRecord]:
    """Run probes at the same time, each in a slot of its own, to their ends; in the order in which they were given."""
    running: dict[int, Running] = {}
    for spec in specs:
        begin(driver, running, spec, seconds_left)
    while running:
        advance(driver, running, lambda *_: False)
    ended = {r.spec.trial: r for r in driver.ledger.records}
    return [ended[spec.trial] for spec in specs]


def begin(driver: Driver, running: dict[int, Running], spec: TrialSpec, seconds_left: float) -> None:
    """Start a trial and add it to the running ones; it is killed when `seconds_left` are over."""
    _note_company(driver, running)
    start = driver.clock.now()
    driver.ledger.start_trial(driver.at_s(), spec)
    driver.executor.start(spec)
    running[spec.trial] = Running(spec, start, start + min(seconds_left, _longest_s(spec)), noted_s=start)
    _show(driver, running)


def advance(driver: Driver, running: dict[int, Running], should_stop: ShouldStop) -> None:
    """Wait a moment for what running trials report; those that end leave `running`.

    Args:
        driver: what they run with.
        running: by trial number.
        should_stop: asked after each report whether the trial should end.
    """
    patience = min(t.deadline_s for t in running.values()) - driver.clock.now()
    events = driver.executor.wait(min(0.25, max(0.01, patience)))
    _note_company(driver, running)
    for event in events:
        trial = running[event.trial]
        if isinstance(event, Ended):
            del running[event.trial]
            _end(driver, trial, event)
            continue
        trial.reports.append(event)
        if not trial.is_stopped and not driver.interrupted() and should_stop(trial.spec, trial):
            trial.is_stopped = True
            driver.executor.stop(event.trial)
    _enforce(driver, running.values())
    _show(driver, running)


def _note_company(driver: Driver, running: Mapping[int, Running]) -> None:
    """Book the time since the last look with the number of trials that were running."""
    now, factor = driver.clock.now(), driver.crowding.factor(len(running) - 1)
    for trial in running.values():
        trial.company.add(now - trial.noted_s, factor)
        trial.noted_s = now


def _enforce(driver: Driver, running: Iterable[Running]) -> None:
    """Have everything end soon after Ctrl-C, and kill what is past its deadline."""
    for trial in running:
        now = driver.clock.now()
        if driver.interrupted():
            driver.executor.stop(trial.spec.trial)
            trial.deadline_s = min(trial.deadline_s, now + KILL_GRACE_S)
        if now >= trial.deadline_s:
            driver.executor.kill(trial.spec.trial)


def _longest_s(spec: TrialSpec) -> float:
    """Wall-clock seconds after which a trial has ignored its cap."""
    return math.inf if spec.cap_s is None else spec.cap_s + KILL_GRACE_S + _SETUP_ALLOWANCE_S


def _killed(trial: Running, ended: Ended, wall_s: float) -> Ended:
    """The end of a training the driver killed, from its last report.

    Its FLOPs after that are not known: they count as its whole cap. Killed early (end of the budget, Ctrl-C) it is only
    cut, which says nothing about the configuration; so is one that reported but ran over its cap.
    """
    spec, reports = trial.spec, trial.reports
    last = reports[-1] if reports else Report(spec.trial, 0.0, 0, 0, 0.0, math.nan, math.nan)
    overran = wall_s >= _longest_s(spec)
    return replace(
        ended,
        outcome="timeout" if overran and not reports else "capped",
        elapsed_s=wall_s if overran else last.elapsed_s,
        cpu_s=None if overran else last.cpu_s,
        samples=last.samples,
        steps=last.steps,
        flops=last.flops if spec.cap_flops is None else spec.cap_flops,
        value=last.value if reports else None,
    )


def _end(driver: Driver, trial: Running, ended: Ended) -> None:
    spec, wall_s = trial.spec, driver.clock.now() - trial.began_s
    if ended.outcome == "timeout" and spec.purpose in (*SEARCHING, *CONFIRMING):
        ended = _killed(trial, ended, wall_s)
    elif ended.outcome in FAILURES and not ended.elapsed_s:  # died before its first report: not the fastest of all
        ended = replace(ended, elapsed_s=wall_s)
    ended = judged(driver.ledger.records, spec, ended)
    record = TrialRecord(spec, tuple(trial.reports), ended, wall_s, crowding=trial.company.crowding)
    driver.ledger.end_trial(driver.at_s(), record)
    if ended.outcome == "refused":
        raise UsageError(ended.message, ended.facts.get("hint", ""))


def _show(driver: Driver, running: Mapping[int, Running]) -> None:
    done, book = driver.ledger.records, driver.seen().book
    first = next(iter(running.values()), None)
    driver.watch(
        Snapshot(
            stage=_stage(done, first),
            spent=driver.spent(),
            n_trials=sum(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in done),
            running=tuple(t.spec for t in running.values()),
            last_report=first.reports[-1] if first is not None and first.reports else None,
            incumbent=book[0] if book and book[0].hits else None,
            baseline=next((s for s in book if s.is_baseline), None),
            finished=tuple(r for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING))[-5:],
            plan=driver.plan,
        )
    )


_STAGES = {
    "repeat": "race",
    "first": "first looks",
    "confirm_baseline": "confirm",
    CROWDING: "neighbours",
} | dict.fromkeys(STEP_PROBES, "step cost")
"""Of the purposes that are not called so themselves."""


def _stage(done: list[TrialRecord], running: Running | None) -> str:
    purpose = running.spec.purpose if running else (done[-1].spec.purpose if done else "start")
    return _STAGES.get(purpose, purpose)
