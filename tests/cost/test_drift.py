"""How much slower the machine was: from made-up reference steps and CPU seconds to slow-downs and corrected records."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from autoaccel.config import TrainerConfig, with_params
from autoaccel.cost.drift import LEAST, Drift, corrected, drift_of, slowdown_now, slowdown_of, waits_for_nothing
from autoaccel.trial import REFERENCE, Ended, Report, TrialRecord, TrialSpec

STEP_S = 0.010


def reference(at_s: float, wall: float = 1.0, cpu: float | None = 1.0, **facts: Any) -> TrialRecord:
    """Reference steps that took so many times the seconds of the quiet machine."""
    known = {"threads": 1, "default_threads": 1, "resident": True, "wall_s": [STEP_S * wall] * 3, **facts}
    known["cpu_s"] = None if cpu is None else [STEP_S * cpu] * 3
    spec = TrialSpec(round(1000 * at_s) + 1, REFERENCE)
    return TrialRecord(spec, (), Ended(spec.trial, "done", facts=known), 7 * STEP_S * wall, at_s)


def training(
    end_s: float, seconds: float = 1.0, cpu_s: float | None = None, params: dict[str, Any] | None = None
) -> TrialRecord:
    config = with_params(TrainerConfig(), params or {})
    spec = TrialSpec(round(1000 * end_s), "race", config)
    reports = (
        Report(spec.trial, seconds / 2, 50, 5, 1e6, 0.8, 0.1),
        Report(spec.trial, seconds, 100, 10, 2e6, 0.9, 0.1),
    )
    return TrialRecord(spec, reports, Ended(spec.trial, "hit", seconds, cpu_s=cpu_s), seconds + 0.5, end_s)


def references(walls: Sequence[float], cpus: Sequence[float | None] | None = None) -> list[TrialRecord]:
    """One every ten seconds."""
    return [reference(10.0 * n, wall, cpu) for n, (wall, cpu) in enumerate(zip(walls, cpus or walls, strict=True))]


# ------------------------------------------------------------------------------------------------- nothing is corrected


def test_without_reference_steps_nothing_is_known() -> None:
    done = [training(5.0, 1.0, 0.2), training(6.0)]
    assert drift_of(done) == Drift()
    assert all(a is b for a, b in zip(corrected(done), done, strict=True))
    assert slowdown_now(Drift(), done, TrainerConfig()) == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_on_a_quiet_machine_nothing_is_corrected(seed: int) -> None:
    """Steps scatter by 5 %, and a training now and then loses something to the system."""
    rng = random.Random(seed)
    walls = [math.exp(rng.gauss(0, 0.05)) for _ in range(12)]
    blip = training(33.0, 1.0, 0.8)
    done = [*references(walls), *(training(10.0 * n + 4, 1.0, 0.99) for n in range(11)), blip]
    assert all(a is b for a, b in zip(corrected(done), done, strict=True))
    assert slowdown_now(drift_of(done), done, TrainerConfig()) == 1.0


def test_one_slow_reference_among_fast_ones_is_an_accident() -> None:
    done = [*references([1, 1, 1, 2, 1, 1], [None] * 6), *(training(10.0 * n + 5) for n in range(6))]
    assert drift_of(done).slowdown == (1.0,) * 6
    assert [r.slowdown for r in corrected(done)] == [1.0] * 12


def test_failed_reference_steps_are_none() -> None:
    failed = TrialRecord(TrialSpec(9, REFERENCE), (), Ended(9, "crashed"), ended_at_s=20.0)
    assert drift_of([*references([1, 1]), failed]).at_s == (0.0, 10.0)


# ------------------------------------------------------------------------------------------------------- beside others


def test_neighbours_and_a_slow_machine_are_two_things_that_multiply() -> None:
    """A training beside others on a machine whose steps take twice as long: 1.5 of it is theirs."""
    done = [*references([1, 1, 2, 2, 2], [None] * 5), replace(training(35.0, 6.0), crowding=1.5)]
    found = corrected(done)[-1]
    assert (found.slowdown, found.crowding) == (pytest.approx(2.0), 1.5)
    assert found.ended.elapsed_s == pytest.approx(6.0 / 3.0)
    assert found.reports[0].elapsed_s == pytest.approx(3.0 / 3.0)
    assert found.wall_s == pytest.approx(6.5 / 2.0), "the budget paid for the neighbours too, in their own trials"


def test_neighbours_are_taken_out_also_where_nothing_is_known_of_the_machine() -> None:
    (found,) = corrected([replace(training(5.0, 3.0, 1.5), crowding=2.0)])
    assert (found.ended.elapsed_s, found.slowdown) == (1.5, 1.0)


def test_what_neighbours_take_is_no_drift() -> None:
    """CPU seconds of a training beside another one say that it waited: for that one, not for other processes."""
    looks = references([1, 1, 1.3, 1.3, 1.3], [1, 1, 1, 1, 1])
    alone, beside = training(35.0, 2.0, 1.0), replace(training(35.0, 2.0, 1.0), crowding=2.0)
    assert corrected([*looks, alone])[-1].slowdown == pytest.approx(2.0)
    assert corrected([*looks, beside])[-1].slowdown == pytest.approx(1.3), "the reference steps ran alone"
    assert slowdown_now(drift_of(looks), [*looks, replace(beside, ended_at_s=45.0)], TrainerConfig()) == pytest.approx(
        1.3
    )


# ----------------------------------------------------------------------------------------- seconds that were taken away


def test_cpu_seconds_say_what_was_taken_from_each_training() -> None:
    """Two processors, three that want them; it begins in the middle of the second training."""
    looks = references([1, 1, 1.5, 1.5], [1, 1, 1, 1])
    done = [
        *looks,
        training(11.0, 1.0, 1.0),
        training(15.0, 1.2, 1.0),
        training(19.0, 1.5, 1.0),
        training(25.0, 3.0, 2.0),
    ]
    factors = [r.slowdown for r in corrected(done)[4:]]
    assert factors == [1.0, pytest.approx(1.2), pytest.approx(1.5), pytest.approx(1.5)]
    assert [r.ended.elapsed_s for r in corrected(done)[4:]] == pytest.approx([1.0, 1.0, 1.0, 2.0])


def test_a_cpu_second_that_became_longer_counts_too() -> None:
    """Shared caches, hyperthreads: nothing was taken, and yet a step takes 1.4 times as long; or both."""
    shared = [*references([1, 1, 1.4, 1.4, 1.4]), training(35.0, 1.4, 1.4)]
    assert corrected(shared)[-1].slowdown == pytest.approx(1.4)
    both = [*references([1, 1, 2.1, 2.1, 2.1], [1, 1, 1.4, 1.4, 1.4]), training(35.0, 2.8, 1.4)]
    assert corrected(both)[-1].slowdown == pytest.approx(2 * 1.4)


def test_what_the_references_do_not_see_was_not_taken_away() -> None:
    """The training waited for a disk."""
    assert [r.slowdown for r in corrected([*references([1, 1, 1]), training(15.0, 2.0, 1.0)])] == [1.0] * 4


@pytest.mark.parametrize(
    ("params", "facts", "alone"),
    [
        ({}, {}, True),
        ({"system.threads": 1}, {"default_threads": 2}, True),
        ({"system.threads": 2}, {}, False),
        ({}, {"default_threads": 2}, False),
        ({"loader.workers": 2}, {}, False),
        ({"compile.mode": "default"}, {}, False),
        ({"memory.offload": "disk"}, {}, False),
        ({}, {"resident": False}, False),
        ({}, {"waits": 1.0}, False),
        ({}, {"waits": 0.01}, True),
    ],
)
def test_only_a_training_that_waits_for_nothing_is_judged_by_its_cpu_seconds(
    params: dict[str, Any], facts: dict[str, Any], alone: bool
) -> None:
    looks = [reference(10.0 * n, wall, 1.0, **facts) for n, wall in enumerate((1, 1, 1.5, 1.5))]
    done = [*looks, training(29.0, 3.0, 1.0, params)]
    assert waits_for_nothing(drift_of(looks), with_params(TrainerConfig(), params)) is alone
    assert corrected(done)[-1].slowdown == pytest.approx(3.0 if alone else 1.5)


def test_threads_that_wait_for_each_other_say_nothing_of_the_pace_of_one() -> None:
    """Beside another process two threads spin: their CPU seconds grow too, those of the default's one thread do not."""
    looks = [reference(10.0 * n, wall, 2 * wall, threads=2) for n, wall in enumerate((1, 1, 3, 3))]
    of_two, of_one = training(29.0, 3.0, 6.0, {"system.threads": 2}), training(29.0, 1.5, 1.0)
    assert [r.slowdown for r in corrected([*looks, of_two, of_one])[4:]] == [pytest.approx(3.0), 1.0]
    taken = [
        reference(10.0 * n, wall, cpu, threads=2) for n, (wall, cpu) in enumerate(((1, 2), (1, 2), (3, 4), (3, 4)))
    ]
    assert [r.slowdown for r in corrected([*taken, of_one])[4:]] == [pytest.approx(1.5)]


# ----------------------------------------------------------------------------------------------------- references alone


def test_an_accelerator_is_judged_by_the_references_around() -> None:
    looks = references([1, 1, 1, 2, 2, 2, 1, 1], [None] * 8)
    done = [*looks, *(training(end_s) for end_s in (15.5, 25.5, 40.5, 65.5, 75.0))]
    factors = [r.slowdown for r in corrected(done)[8:]]
    assert factors == [1.0, pytest.approx(math.sqrt(2)), pytest.approx(2.0), 1.0, 1.0]


def test_a_machine_that_was_slow_at_first_is_measured_by_its_best() -> None:
    looks = references([2, 2, 2, 1, 1, 1], [None] * 6)
    done = [*looks, training(5.0), training(55.0)]
    assert [r.slowdown for r in corrected(done)[6:]] == [pytest.approx(2.0), 1.0]


def test_where_references_scatter_less_is_noticed() -> None:
    steady = [1.0, 1.01, 1.0, 1.01, 1.0, 1.15, 1.16, 1.15]
    wild = [1.0, 1.2, 0.95, 1.15, 1.0, 1.15, 1.16, 1.15]
    late = training(65.0)
    assert corrected([*references(steady, [None] * 8), late])[-1].slowdown == pytest.approx(1.15, abs=0.02)
    assert corrected([*references(wild, [None] * 8), late])[-1].slowdown == 1.0


def test_a_change_is_unclear_until_it_is_seen_twice() -> None:
    seen = [
        drift_of(references(walls, [None] * len(walls))).is_clear for walls in ([1], [1, 1], [1, 1, 2], [1, 1, 2, 2])
    ]
    assert seen == [True, True, False, True]


# -------------------------------------------------------------------------------------------------------------- records


def test_a_corrected_record_says_by_how_much_and_keeps_the_rest() -> None:
    raw = training(35.0, 3.0, 1.5)
    (found,) = corrected([raw], drift_of(references([1, 1, 2, 2, 2], [1, 1, 1, 1, 1])))
    assert found.slowdown == pytest.approx(2.0)
    assert found.ended.elapsed_s == found.reports[-1].elapsed_s == pytest.approx(1.5)
    assert (found.reports[0].elapsed_s, found.wall_s) == (pytest.approx(0.75), pytest.approx(1.75))
    assert (found.spec, found.ended.cpu_s, found.ended_at_s) == (raw.spec, 1.5, 35.0)
    assert [r.value for r in found.reports] == [r.value for r in raw.reports]


def test_what_still_runs_is_judged_by_the_latest_reference() -> None:
    drift = drift_of(references([1, 1, 1, 2, 2], [None] * 5))
    running = replace(training(5.0), ended_at_s=math.inf)
    assert slowdown_of(drift, running) == slowdown_of(drift, training(1e6)) == pytest.approx(2.0)


def test_the_present_is_the_latest_training_after_a_disturbed_reference() -> None:
    disturbed, config = references([1, 1, 1.5], [1, 1, 1]), TrainerConfig()
    assert slowdown_now(drift_of(disturbed), disturbed, config) == pytest.approx(1.5)
    done = [*disturbed, training(25.0, 1.8, 1.0)]
    assert slowdown_now(drift_of(done), done, config) == pytest.approx(1.8)
    over = [*done, training(26.0, 1.0, 1.0)]
    assert slowdown_now(drift_of(over), over, config) == 1.0
    seen_quiet = [*done, reference(30.0)]
    assert slowdown_now(drift_of(seen_quiet), seen_quiet, config) == 1.0


def test_a_training_that_had_one_thread_is_told_in_seconds_of_its_own() -> None:
    looks = [reference(10.0 * n, wall, wall, threads=2) for n, wall in enumerate([1, 1, 40, 40])]
    raw = training(35.0, 3.0, 2.0, {"system.threads": 2})
    assert corrected([*looks, raw])[-1].slowdown == pytest.approx(40.0)
    alone = replace(raw, spec=replace(raw.spec, threads=1, slower=1.4))
    found = corrected([*looks, alone])[-1]
    assert found.slowdown == pytest.approx(1.5 * 1.4) and found.ended.elapsed_s == pytest.approx(2.0 / 1.4)
    unknown = replace(alone, ended=replace(alone.ended, cpu_s=None))
    assert corrected([*looks, unknown])[-1].slowdown == corrected([unknown])[-1].slowdown == pytest.approx(1.4)


def test_a_slow_down_too_small_to_matter_is_none() -> None:
    little = 0.5 * (1 + LEAST)
    done = [*references([1, 1, 1.2, 1.2], [1, 1, 1, 1]), training(29.0, little, 1.0)]
    assert corrected(done)[-1].slowdown == 1.0
