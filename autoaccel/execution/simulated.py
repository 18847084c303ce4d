"""Trials in simulated time: a function gives each trial's course, a manual clock moves to the next event.

Applies target and caps as the trainer does, so a whole study runs in milliseconds. Must not know real processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from autoaccel.clock import ManualClock
from autoaccel.execution.base import Event, Executor
from autoaccel.trial import Ended, Report, TrialSpec


@dataclass(frozen=True)
class Point:
    """One evaluation on a course."""

    elapsed_s: float
    value: float
    samples: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Course:
    """What would happen if nobody cut the trial: its evaluations and how it would end.

    `outcome` 'missed' is the normal end at the last point; a failure names itself. A probe has no points but facts.
    """

    points: tuple[Point, ...] = ()
    outcome: str = "missed"
    setup_s: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    message: str = ""


@dataclass
class _Running:
    """A started trial: when its training began, what is still to come of it (and when), and its last report."""

    spec: TrialSpec
    course: Course
    began_s: float
    events: list[tuple[float, Event]]
    last: Report | None = None


class SimulatedExecutor(Executor):
    """Runs courses on a manual clock.

    Args:
        clock: moved forward by `wait`.
        course: what a spec would do.
        n_slots: trials at once.
    """

    def __init__(self, clock: ManualClock, course: Callable[[TrialSpec], Course], n_slots: int = 1) -> None:
        self.n_slots = n_slots
        self._clock = clock
        self._course = course
        self._running: dict[int, _Running] = {}

    def start(self, spec: TrialSpec) -> None:
        if len(self._running) >= self.n_slots:
            raise RuntimeError(f"no free slot for trial {spec.trial}: {sorted(self._running)} are running")
        course = self._course(spec)
        began_s = self._clock.now() + course.setup_s
        events = [(began_s + e.elapsed_s, e) for e in play(spec, course)]
        self._running[spec.trial] = _Running(spec, course, began_s, events)

    def wait(self, timeout_s: float) -> list[Event]:
        due = [(running.events[0][0], trial) for trial, running in self._running.items()]
        until = self._clock.now() + max(0.0, timeout_s)
        if not due or min(due)[0] > until:
            self._advance_to(until)
            return []
        at, trial = min(due)
        self._advance_to(at)
        running = self._running[trial]
        _, event = running.events.pop(0)
        if isinstance(event, Report):
            running.last = event
        else:
            del self._running[trial]
        return [event]

    def stop(self, trial: int) -> None:
        self._cut(trial, "stopped", "")

    def kill(self, trial: int) -> None:
        self._cut(trial, "timeout", "killed by the driver at its deadline")

    def close(self) -> None:
        self._running = {}

    def _cut(self, trial: int, outcome: str, message: str) -> None:
        """Replace what has not happened yet by an end; it knows no more than the reports up to now."""
        running, now = self._running.get(trial), self._clock.now()
        if running is None:
            return
        past = [(at, event) for at, event in running.events if at <= now]
        if past and isinstance(past[-1][1], Ended):
            return
        seen = [running.last, *(event for _, event in past if isinstance(event, Report))]
        last = seen[-1] or Report(trial, 0.0, 0, 0, 0.0, math.nan, math.nan)
        at = Point(max(0.0, now - running.began_s), last.value, last.samples, last.flops)
        cut = Course(setup_s=running.course.setup_s, message=message)
        running.events = [*past, (now, _ended(running.spec, cut, outcome, at))]

    def _advance_to(self, when: float) -> None:
        if math.isfinite(when):
            self._clock.advance(max(0.0, when - self._clock.now()))


def play(spec: TrialSpec, course: Course) -> list[Event]:
    """The events of a course under the spec's target and caps; the last one is the end."""
    cap_s = math.inf if spec.cap_s is None else spec.cap_s
    cap_flops = math.inf if spec.cap_flops is None else spec.cap_flops
    events: list[Event] = []
    at = Point(0.0, math.nan)
    for point in course.points:
        if point.elapsed_s >= cap_s or point.flops > cap_flops:
            cut = min(cap_s, point.elapsed_s)
            return [*events, _ended(spec, course, "capped", replace(at, elapsed_s=cut))]
        at = point
        if math.isfinite(at.value):  # as in a worker: what is not a number is not reported
            events.append(Report(spec.trial, at.elapsed_s, at.samples, at.samples, at.flops, at.value, 0.0))
        if spec.target is not None and spec.target.reached(at.value):
            return [*events, _ended(spec, course, "hit", at)]
    return [*events, _ended(spec, course, course.outcome, at)]


def _ended(spec: TrialSpec, course: Course, outcome: str, at: Point) -> Ended:
    value = at.value if math.isfinite(at.value) else None
    return Ended(
        spec.trial,
        outcome,
        at.elapsed_s,
        course.setup_s,
        at.samples,
        at.samples,
        at.flops,
        value,
        course.message,
        course.facts,
    )
