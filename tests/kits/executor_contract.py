"""What every executor promises, as tests. A subclass says how to make one; see `autoaccel.execution.base`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autoaccel.config import TrainerConfig
from autoaccel.execution.base import Event, Executor
from autoaccel.sections import Batch, Evaluate, Horizon
from autoaccel.trial import Ended, Report, Target, TrialSpec

EASY, IMPOSSIBLE = Target.at_least(0.01), Target.at_least(0.99)
"""A toy task's accuracy lies between these from its first evaluation on, and never reaches the second."""
BATCH, EVALUATE_EVERY = 8, 64
PATIENCE, PATIENCE_S = 240, 120.0
"""Half seconds to wait for what has to come, simulated ones too; far more than it takes."""

_numbers = itertools.count(1)


def training(
    target: Target = EASY,
    n_evaluations: int = 3,
    *,
    seed: int = 0,
    cap_s: float | None = None,
    cap_flops: float | None = None,
) -> TrialSpec:
    """A toy trial with a number of its own."""
    config = TrainerConfig(
        batch=Batch(size=BATCH),
        horizon=Horizon(samples=n_evaluations * EVALUATE_EVERY),
        evaluate=Evaluate(every_samples=EVALUATE_EVERY),
        seed=seed,
    )
    return TrialSpec(next(_numbers), "race", config, target, cap_s, cap_flops)


def endless() -> TrialSpec:
    """A toy trial that would run for hours."""
    return training(IMPOSSIBLE, n_evaluations=10**9)


def until(executor: Executor, done: Callable[[list[Event]], Any]) -> list[Event]:
    """Events up to the moment they satisfy `done`; those that came with the last ones included."""
    events: list[Event] = []
    n_waits, began_s = 0, time.monotonic()
    while n_waits < PATIENCE or time.monotonic() - began_s < PATIENCE_S:  # others may report often meanwhile
        events += executor.wait(0.5)
        if done(events):
            return events
        n_waits += 1
    raise AssertionError(f"waited in vain; the last of {len(events)} events: {events[-3:]}")


def ends(events: list[Event], trial: int | None = None) -> list[Ended]:
    """The ends among them, of one trial if given."""
    return [e for e in events if isinstance(e, Ended) and trial in (None, e.trial)]


def run(executor: Executor, spec: TrialSpec) -> tuple[list[Report], Ended]:
    """Start a trial and see it to its end: its reports, its end, and nothing else."""
    executor.start(spec)
    events = until(executor, ends)
    reports = [e for e in events if isinstance(e, Report)]
    assert events == [*reports, *ends(events)]
    assert {e.trial for e in events} == {spec.trial}
    assert len(ends(events)) == 1
    return reports, ends(events)[0]


def first_report(executor: Executor) -> Report:
    """Wait for a report of what is running."""
    events = until(executor, bool)
    assert isinstance(events[0], Report), events
    return events[0]


class ExecutorContract:
    """Subclass it as `TestSomething`, with a class-scoped fixture `make` that gives `make(n_slots=1) -> Executor`."""

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, make: Callable[..., Executor]) -> Iterator[Executor]:
        """One for the whole class: a worker that imports torch takes seconds to start."""
        executor = make()
        yield executor
        executor.close()

    def test_a_trial_that_reaches_its_target_is_a_hit(self, executor: Executor) -> None:
        reports, ended = run(executor, training(EASY))
        assert ended.outcome == "hit"
        assert len(reports) == 1
        assert ended.elapsed_s == reports[-1].elapsed_s
        assert ended.value == reports[-1].value

    def test_a_trial_that_comes_to_its_horizon_has_missed(self, executor: Executor) -> None:
        reports, ended = run(executor, training(IMPOSSIBLE, n_evaluations=3))
        assert ended.outcome == "missed"
        assert len(reports) == 3
        assert (ended.samples, ended.value) == (3 * EVALUATE_EVERY, reports[-1].value)

    def test_reports_come_before_the_end_and_their_time_rises(self, executor: Executor) -> None:
        reports, ended = run(executor, training(IMPOSSIBLE, n_evaluations=5))
        times = [r.elapsed_s for r in reports]
        assert times == sorted(set(times))
        assert 0 < times[0] <= times[-1] <= ended.elapsed_s
        assert [r.samples for r in reports] == [EVALUATE_EVERY * (i + 1) for i in range(5)]

    def test_a_time_cap_cuts(self, executor: Executor) -> None:
        reports, ended = run(executor, training(IMPOSSIBLE, n_evaluations=10**9, cap_s=0.3))
        assert ended.outcome == "capped"
        assert ended.elapsed_s >= 0.3
        assert all(r.elapsed_s <= ended.elapsed_s for r in reports)

    def test_a_flops_cap_is_not_exceeded(self, executor: Executor) -> None:
        reports, _ = run(executor, training(IMPOSSIBLE, n_evaluations=2))
        assert 0 < reports[0].flops < reports[1].flops
        cap = (reports[0].flops + reports[1].flops) / 2
        reports, ended = run(executor, training(IMPOSSIBLE, n_evaluations=10, cap_flops=cap))
        assert ended.outcome == "capped"
        assert len(reports) == 1
        assert ended.flops <= cap

    def test_every_trial_ends_exactly_once(self, executor: Executor) -> None:
        for spec in [training(EASY), training(IMPOSSIBLE, 1), training(EASY)]:
            run(executor, spec)
        assert executor.wait(0.2) == []

    def test_no_slot_no_start(self, executor: Executor) -> None:
        first, second = endless(), training(EASY)
        executor.start(first)
        with pytest.raises(RuntimeError, match=f"no free slot for trial {second.trial}: .{first.trial}. are running"):
            executor.start(second)
        executor.stop(first.trial)
        until(executor, ends)
        assert run(executor, second)[1].outcome == "hit"

    def test_stop_ends_a_trial(self, executor: Executor) -> None:
        spec = endless()
        executor.start(spec)
        report = first_report(executor)
        executor.stop(spec.trial)
        executor.stop(spec.trial)
        (ended,) = ends(until(executor, ends))
        assert ended.outcome == "stopped"
        assert ended.elapsed_s >= report.elapsed_s
        assert EVALUATE_EVERY <= ended.samples < spec.config.horizon.samples  # type: ignore[union-attr]
        assert executor.wait(0.2) == []

    def test_stop_comes_too_late_for_what_has_ended(self, executor: Executor) -> None:
        spec = training(EASY)
        executor.start(spec)
        events = until(executor, bool)  # the hit is reported; its end has come or is on its way
        executor.stop(spec.trial)
        (ended,) = ends(events) or ends(until(executor, ends))
        assert ended.outcome == "hit"

    def test_kill_ends_a_trial_and_the_next_one_works(self, executor: Executor) -> None:
        spec = endless()
        executor.start(spec)
        first_report(executor)
        executor.kill(spec.trial)
        executor.kill(spec.trial)
        (ended,) = ends(until(executor, ends))
        assert (ended.trial, ended.outcome) == (spec.trial, "timeout")
        assert run(executor, training(EASY))[1].outcome == "hit"
        assert executor.wait(0.2) == []

    def test_unknown_trials_are_ignored(self, executor: Executor) -> None:
        executor.stop(10**6)
        executor.kill(10**6)
        over = training(EASY)
        run(executor, over)
        executor.stop(over.trial)
        executor.kill(over.trial)
        assert run(executor, training(EASY))[1].outcome == "hit"

    def test_wait_gives_nothing_when_nothing_happens(self, executor: Executor) -> None:
        assert executor.wait(0.01) == []
        assert executor.wait(0.0) == []
        assert executor.wait(-1.0) == []

    def test_slots_are_separate(self, make: Callable[..., Executor]) -> None:
        executor = make(n_slots=2)
        a, b, c = endless(), endless(), endless()
        executor.start(a)
        executor.start(b)
        with pytest.raises(RuntimeError, match="no free slot"):
            executor.start(c)
        executor.kill(a.trial)
        events = until(executor, ends)
        assert ends(events) == ends(events, a.trial)
        executor.start(c)
        executor.kill(b.trial)
        executor.kill(c.trial)
        events = until(executor, lambda events: len(ends(events)) == 2)
        assert {e.trial: e.outcome for e in ends(events)} == {b.trial: "timeout", c.trial: "timeout"}
        executor.close()

    def test_close_ends_everything_and_may_be_repeated(self, make: Callable[..., Executor]) -> None:
        unused = make()
        unused.close()
        executor = make()
        spec = endless()
        executor.start(spec)
        executor.close()
        executor.close()
        assert executor.wait(0.1) == []
        executor.kill(spec.trial)
        executor.stop(spec.trial)
        assert executor.wait(0.1) == []
