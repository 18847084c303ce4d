"""Whole studies on a machine that becomes slower in the middle: the answer, its stated time, and the budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.clock import ManualClock
from autoaccel.config import TrainerConfig
from autoaccel.cost.drift import corrected
from autoaccel.cost.effects import Effect
from autoaccel.execution.simulated import Course, SimulatedExecutor
from autoaccel.search.confirm import Evidence, answer
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.loop import run_study
from autoaccel.search.probes import measure_reference
from autoaccel.search.question import Question
from autoaccel.search.reference import SHARE
from autoaccel.trial import REFERENCE, TrialRecord, TrialSpec
from tests.simulated.problems import Problem, driver, question

BUDGET_S = 18.0
ASKED = replace(question(parse_budget(f"{BUDGET_S:g}s")), use_all_budget=True)
SHORT = replace(ASKED, budget=parse_budget("12s"))
STEP_S = 0.004
QUIET = Problem()


@dataclass(frozen=True)
class Machine:
    """A machine on which everything takes `factor` times as long between two moments."""

    clock: ManualClock
    factor: float = 2.0
    from_s: float = BUDGET_S / 2
    until_s: float = float("inf")
    threads: int = 0
    """That compute and wait for each other, spinning; 0: the steps are a device's."""
    resident: bool = True

    def __call__(self, spec: TrialSpec) -> Course:
        now = self.clock.now()
        if spec.purpose == REFERENCE:
            step_s = STEP_S * (self.factor if self.from_s <= now < self.until_s else 1.0)
            facts: dict[str, Any] = {
                "wall_s": [step_s] * 6,
                "cpu_s": [self.threads * step_s] * 6 if self.threads else None,
                "threads": max(1, self.threads),
                "default_threads": 1,
                "resident": self.resident,
                "flops": 1e6,
            }
            return Course((), "done", 7 * step_s, facts)
        if spec.threads:
            return _longer(QUIET(spec), spec.slower)
        course = QUIET(spec)
        setup_s = self.took(now, course.setup_s)
        points = tuple(replace(p, elapsed_s=self.took(now + setup_s, p.elapsed_s)) for p in course.points)
        return replace(course, points=points, setup_s=setup_s)

    def took(self, begin_s: float, quiet_s: float) -> float:
        """Seconds by the clock of so many seconds of the quiet machine."""
        before = min(max(0.0, self.from_s - begin_s), quiet_s)
        slow_s = self.factor * (quiet_s - before)
        room_s = max(0.0, self.until_s - max(begin_s, self.from_s))
        return before + (slow_s if slow_s <= room_s else room_s + (slow_s - room_s) / self.factor)


def _longer(course: Course, factor: float) -> Course:
    return replace(course, points=tuple(replace(p, elapsed_s=factor * p.elapsed_s) for p in course.points))


def studied(folder: Path, asked: Question, **machine: Any) -> tuple[TrialRecord, ...]:
    """The records of a study on a machine, as recorded; the budget holds."""
    folder.mkdir()
    made = lambda clock: SimulatedExecutor(clock, Machine(clock, **machine))  # noqa: E731
    with driver(folder, QUIET, executor=made) as running:
        measure_reference(running, asked)
        done = run_study(running, asked)
        assert running.spent().seconds <= (asked.budget.seconds or math.inf)
    return done


def answered(asked: Question, done: tuple[TrialRecord, ...]) -> Evidence:
    records = corrected(done)
    found = answer(asked, records, Knowledge(asked).ranked(records))
    assert found is not None
    return found


def true_ert_s(config: TrainerConfig, n: int = 60) -> float:
    """Expected running time on the quiet machine, by fresh seeds."""
    spent_s, hits = 0.0, 0
    for seed in range(n):
        points = QUIET(TrialSpec(1, "confirm", replace(config, seed=10**7 + seed), ASKED.target)).points
        hit = next((p for p in points if ASKED.target.reached(p.value)), None)
        spent_s, hits = spent_s + (hit or points[-1]).elapsed_s, hits + (hit is not None)
    return spent_s / max(hits, 0.1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_machine_that_becomes_slower_half_way_changes_no_answer(tmp_path: Path, seed: int) -> None:
    asked = replace(ASKED, seed=seed)
    quiet = answered(asked, studied(tmp_path / "quiet", asked, factor=1.0))
    slow = answered(asked, studied(tmp_path / "slow", asked))
    assert slow.ert_s == pytest.approx(true_ert_s(slow.config), rel=0.15), "it is stated in another machine's seconds"
    assert true_ert_s(slow.config) < 1.1 * true_ert_s(quiet.config)
    assert slow.attempts >= 5 and quiet.n_slowed == 0 and slow.n_slowed == slow.attempts


def test_trainings_of_decided_threads_get_the_time_that_reference_steps_of_as_many_say(tmp_path: Path) -> None:
    asked = replace(ASKED, space=ASKED.space.fix({"system.threads": 2}, "by hand"), budget=parse_budget("25 trials"))
    done = studied(tmp_path / "slow", asked, factor=4.0, from_s=2.0, threads=2, resident=False)
    known_s = [r.ended_at_s for r in done if r.spec.purpose == REFERENCE and r.ended_at_s > 2.0][1]
    races = [(r.ended_at_s - r.wall_s, r.spec.cap_s or 0.0) for r in done if r.spec.purpose in ("first", "race")]
    before, after = [c for at_s, c in races if at_s < 2.0], [c for at_s, c in races if at_s > known_s]
    assert len(before) > 3 and len(after) > 3 and min(after) > 2.0 * max(before)


def test_trainings_have_one_thread_for_as_long_as_others_disturb_several(tmp_path: Path) -> None:
    two = Effect("system.threads", 2, (16, 64, 256), (0.01,) * 3, (0.0065,) * 3, (0.01,) * 3)
    asked = replace(ASKED, space=ASKED.space.fix({"system.threads": 2}, "by hand"))
    asked = replace(asked, cost=asked.cost.with_effects({("system.threads", 2): two}))
    done = studied(tmp_path / "slow", asked, factor=8.0, from_s=4.0, until_s=12.0, threads=2)
    looks = [r.ended_at_s for r in done if r.spec.purpose == REFERENCE]
    known_s, over_s = next(at_s for at_s in looks if at_s > 5.0), next(at_s for at_s in looks if at_s > 12.5)
    trained = [r for r in done if r.spec.config is not None]
    single = [r for r in trained if r.spec.threads and r.spec.purpose != "confirm_baseline"]  # it has one anyway
    assert len(single) > 10 and all(r.spec.threads == 1 and 1.2 < r.spec.slower < 1.6 for r in single)
    assert all(4.0 < r.ended_at_s < over_s + 1.0 for r in single)
    assert [r for r in trained if not r.spec.threads and r.ended_at_s - r.wall_s > known_s]
    found = answered(asked, done)
    assert found.attempts >= 5 and found.ert_s == pytest.approx(true_ert_s(found.config), rel=0.15)


def test_only_trainings_on_the_slow_machine_are_corrected(tmp_path: Path) -> None:
    done = studied(tmp_path / "slow", SHORT, factor=3.0, from_s=1.6, until_s=7.0)
    factors = {r.ended_at_s: r.slowdown for r in corrected(done) if r.spec.config is not None}
    references = [r.ended_at_s for r in done if r.spec.purpose == REFERENCE and 1.6 < r.ended_at_s < 7.0]
    slow = [factor for at_s, factor in factors.items() if references[0] < at_s < references[-1]]
    assert len(slow) >= 5 and slow == pytest.approx([3.0] * len(slow)), "between two slow references"
    assert all(1 <= factor < 3.01 for factor in factors.values())
    spacing_s = 7 * STEP_S / SHARE
    assert all(factor == 1 for at_s, factor in factors.items() if not 1.6 - spacing_s < at_s < 7.0 + 2 * spacing_s)


def test_reference_steps_take_their_share_of_the_budget(tmp_path: Path) -> None:
    done = studied(tmp_path / "quiet", SHORT, factor=1.0)
    walls = [r.wall_s for r in done if r.spec.purpose == REFERENCE]
    assert len(walls) >= 4 and sum(walls[1:]) <= SHARE * 12.0
    assert corrected(done) == list(done)


def test_a_finished_run_that_is_continued_runs_no_reference_steps(tmp_path: Path) -> None:
    asked = replace(ASKED, budget=parse_budget("30 trials"), use_all_budget=False)
    done = studied(tmp_path / "run", asked, factor=1.0)
    made = lambda clock: SimulatedExecutor(clock, Machine(clock))  # noqa: E731
    with driver(tmp_path / "run", QUIET, executor=made) as running:
        later = replace(running, carried_s=done[-1].ended_at_s + 1e3)  # to start took long
        assert run_study(later, asked) == done
        more = run_study(later, replace(asked, budget=parse_budget("32 trials")))
    assert more[len(done)].spec.purpose == REFERENCE, "what comes is not compared with what was"


def test_without_the_first_reference_steps_nothing_is_known_or_asked(tmp_path: Path) -> None:
    made = lambda clock: SimulatedExecutor(clock, Machine(clock))  # noqa: E731
    with driver(tmp_path, QUIET, executor=made) as running:
        done = run_study(running, SHORT)
    assert not any(r.spec.purpose == REFERENCE for r in done)
    assert corrected(done) == list(done)
