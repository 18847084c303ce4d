"""The stopwatch keeps its deadline and takes the shortest; the load is what others did. On a clock that is told."""

from __future__ import annotations

import math

import pytest

from autoaccel.hardware import stopwatch
from autoaccel.hardware.load import Counters, counters, load_between
from autoaccel.hardware.stopwatch import REPEATS, Allowance, Took, allow, best


class Clock:
    """Both clocks, moved by hand; each look at them costs nothing."""

    def __init__(self) -> None:
        self.at = Took(100.0, 7.0)

    def __call__(self) -> Took:
        return self.at

    def pass_by(self, wall_s: float, cpu_s: float) -> None:
        self.at = Took(self.at.wall_s + wall_s, self.at.cpu_s + cpu_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stopwatch, "now", made)
    return made


def test_the_shortest_of_each_clock_counts_and_the_first_call_does_not(clock: Clock) -> None:
    times = iter([(0.1, 0.1), (5.0, 2.0), (4.0, 3.0), (6.0, 1.0)])
    took = best(lambda: clock.pass_by(*next(times)), Allowance(1e3, slice_s=0.0))
    assert took == Took(4.0, 1.0) and next(times, None) is None


def test_a_slice_is_filled(clock: Clock) -> None:
    n = []
    best(lambda: (n.append(1), clock.pass_by(1.0, 1.0)), Allowance(1e3, slice_s=10.0))
    assert len(n) == 1 + 10


def test_the_queue_is_drained_on_both_sides(clock: Clock) -> None:
    seen = []
    best(lambda: seen.append("call"), Allowance(1e3, 0.0), lambda: seen.append("drain"))
    assert seen == ["drain", "call", "drain"] * (1 + REPEATS)


@pytest.mark.parametrize("left_s", [0.0, -1.0, math.nan, 3.5])
def test_what_would_end_after_the_deadline_is_not_begun(clock: Clock, left_s: float) -> None:
    n = []
    with pytest.raises(TimeoutError):
        best(lambda: (n.append(1), clock.pass_by(1.0, 1.0)), Allowance(100.0 + left_s, slice_s=10.0))
    assert len(n) == (1 if left_s > 1 else 0)


def test_a_slice_ends_at_the_deadline(clock: Clock) -> None:
    best(lambda: clock.pass_by(1.0, 1.0), Allowance(108.0, slice_s=100.0))
    assert clock.at.wall_s <= 108.0


def test_slices_share_the_limit(clock: Clock) -> None:
    assert allow(0.9, 6) == Allowance(100.9, pytest.approx(0.05))
    assert allow(1e6, 6).slice_s == stopwatch.LONGEST_SLICE_S
    assert 0 < allow(0.9, 0).slice_s <= 0.3


# ----------------------------------------------------------------------------------------------------------------- load


def test_others_are_all_but_this_process() -> None:
    load = load_between(Counters(100.0, 50.0, 10.0), Counters(120.0, 65.0, 15.0))
    assert load.others == pytest.approx((15 - 5) / 20)


@pytest.mark.parametrize(("own_s", "others"), [(15.5, 0.0), (-30.0, 1.0)])
def test_ticks_never_make_a_share_impossible(own_s: float, others: float) -> None:
    assert load_between(Counters(100.0, 50.0, 0.0), Counters(120.0, 65.0, own_s)).others == others


def test_no_time_no_share() -> None:
    assert load_between(Counters(1.0, 1.0, 0.0), Counters(1.0, 1.0, 0.0)).others is None


def test_counters_only_rise() -> None:
    first = counters()
    while counters().own_s < first.own_s + 0.05:
        sum(range(10**5))
    then = counters()
    ticks_s = 0.02  # Linux may take back what it counted as waiting
    assert then.total_s >= first.total_s - ticks_s > 0 and then.busy_s >= first.busy_s - ticks_s
    assert then.busy_s <= then.total_s
