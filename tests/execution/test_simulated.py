"""The simulated executor keeps the contract, moves its clock as asked, and cuts courses as the trainer does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoaccel.clock import ManualClock
from autoaccel.execution.base import Executor
from autoaccel.execution.simulated import Course, Point, SimulatedExecutor
from autoaccel.trial import Ended, Report, TrialSpec
from tests.kits.executor_contract import EASY, EVALUATE_EVERY, IMPOSSIBLE, ExecutorContract, ends, training, until


def toy(spec: TrialSpec) -> Course:
    """One evaluation a tenth of a second; half of the samples are right, always."""
    assert spec.config is not None
    n = min(1000, spec.config.horizon.samples // EVALUATE_EVERY)
    return Course(tuple(Point(0.1 * i, 0.5, EVALUATE_EVERY * i, 1e6 * i) for i in range(1, n + 1)), setup_s=0.05)


class TestSimulated(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Callable[..., Executor]:
        return lambda n_slots=1: SimulatedExecutor(ManualClock(), toy, n_slots)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


def test_time_passes_as_asked_and_no_further(clock: ManualClock) -> None:
    executor = SimulatedExecutor(clock, toy)
    assert executor.wait(7.0) == []
    assert clock.now() == 107.0
    executor.start(training(EASY))
    assert executor.wait(0.1) == []
    assert clock.now() == pytest.approx(107.1)
    (report,) = executor.wait(10.0)
    assert isinstance(report, Report)
    assert clock.now() == pytest.approx(107.15)  # set-up, then one evaluation
    (ended,) = executor.wait(10.0)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.setup_s) == ("hit", 0.05)
    assert clock.now() == pytest.approx(107.15)


def test_events_of_several_trials_come_in_order(clock: ManualClock) -> None:
    executor = SimulatedExecutor(clock, toy, n_slots=2)
    a, b = training(IMPOSSIBLE, 3), training(IMPOSSIBLE, 2)
    executor.start(a)
    executor.wait(0.04)
    executor.start(b)
    events = until(executor, lambda events: len(ends(events)) == 2)
    assert [e.trial for e in events] == [a.trial, b.trial, a.trial, b.trial, b.trial, a.trial, a.trial]


@pytest.mark.parametrize("outcome", ["oom", "crashed", "diverged"])
def test_a_course_that_fails(clock: ManualClock, outcome: str) -> None:
    executor = SimulatedExecutor(clock, lambda _: Course((Point(1.0, 0.2, 64, 1e6),), outcome, message="as planned"))
    spec = training(IMPOSSIBLE)
    executor.start(spec)
    (ended,) = ends(until(executor, ends))
    assert (ended.outcome, ended.elapsed_s, ended.flops, ended.message) == (outcome, 1.0, 1e6, "as planned")


def test_a_probe_gives_its_facts(clock: ManualClock) -> None:
    executor = SimulatedExecutor(clock, lambda _: Course(outcome="done", setup_s=2.0, facts={"n_train": 7}))
    executor.start(TrialSpec(10**7, "preflight"))
    (ended,) = ends(until(executor, ends))
    assert (ended.outcome, ended.facts, ended.value) == ("done", {"n_train": 7}, None)
    assert clock.now() == 102.0


def test_what_is_not_a_number_is_not_reported(clock: ManualClock) -> None:
    points = (Point(1.0, float("nan"), 64, 1e6), Point(2.0, -float("inf"), 128, 2e6))
    executor = SimulatedExecutor(clock, lambda _: Course(points, "diverged"))
    executor.start(training(IMPOSSIBLE))
    (ended,) = until(executor, ends)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.value, ended.flops) == ("diverged", None, 2e6)


@pytest.mark.parametrize("cut", [SimulatedExecutor.stop, SimulatedExecutor.kill])
def test_a_cut_trial_knows_its_past_only(clock: ManualClock, cut: Callable[[SimulatedExecutor, int], None]) -> None:
    executor = SimulatedExecutor(clock, toy)
    spec = training(IMPOSSIBLE, 100)
    executor.start(spec)
    for _ in range(2):
        executor.wait(1.0)
    executor.wait(0.05)
    cut(executor, spec.trial)
    (ended,) = executor.wait(1.0)
    assert isinstance(ended, Ended)
    assert (ended.samples, ended.flops, ended.value) == (2 * EVALUATE_EVERY, 2e6, 0.5)
    assert ended.elapsed_s == pytest.approx(0.25)
    assert clock.now() == pytest.approx(100.30)


def test_a_trial_cut_during_its_set_up_has_trained_nothing(clock: ManualClock) -> None:
    executor = SimulatedExecutor(clock, lambda spec: Course(toy(spec).points, setup_s=5.0))
    spec = training(IMPOSSIBLE)
    executor.start(spec)
    executor.wait(1.0)
    executor.kill(spec.trial)
    (ended,) = executor.wait(10.0)
    assert ended == Ended(spec.trial, "timeout", setup_s=5.0, message="killed by the driver at its deadline")
    assert clock.now() == 101.0
