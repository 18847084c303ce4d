"""Whole studies in simulated time in which trials fail, hang, or never reach the target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoaccel.budget import parse_budget
from autoaccel.cost.memory import MARGIN, Line, PeakMemory
from autoaccel.errors import TrialsFailedError
from autoaccel.execution.base import Event, Executor
from autoaccel.execution.simulated import Course, SimulatedExecutor
from autoaccel.report.summary import result_document
from autoaccel.search.confirm import answer, baseline_evidence
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.loop import check_not_failed, run_study
from autoaccel.trial import TrialSpec
from tests.simulated.problems import BASELINE, Problem, driver, question, study


def test_an_unreachable_target_gives_the_nearest_miss(tmp_path: Path) -> None:
    asked = question(parse_budget("14s"), target=0.999)
    done = study(tmp_path, Problem(ceiling=0.9), asked)
    assert {r.spec.purpose for r in done} == {"baseline", "first", "reach"}
    tuned = answer(asked, done, Knowledge(asked).ranked(done))
    baseline = baseline_evidence(asked, done)
    assert tuned is not None and tuned.attempts == 0
    best = max(done, key=lambda r: r.ended.value or 0.0)
    assert best.spec.config is not None and tuned.config.identity == best.spec.config.identity
    document = result_document(asked, done, baseline, tuned, {"task": "made up"})
    assert (document["target_met"], document["confirmed"], document["hits"]) == (False, False, 0)
    assert document["speedup_vs_baseline"] is None and document["best_value_seen"] < 0.999
    assert max(r.spec.config.horizon.samples for r in done if r.spec.config) > BASELINE.horizon.samples


def test_trials_that_all_crash_alike_end_the_study(tmp_path: Path) -> None:
    def crash(spec: TrialSpec) -> Course:
        return Course((), "crashed", 0.1, message="RuntimeError: no kernel (net.py:7)")

    with pytest.raises(TrialsFailedError, match=r"first 3 trials all failed:\n  crashed: RuntimeError: no kernel"):
        study(tmp_path, crash, question(parse_budget("14s")))


@pytest.mark.parametrize("outcome", ["crashed", "oom", "diverged"])
def test_trials_that_all_fail_end_a_study_that_costs_nothing(tmp_path: Path, outcome: str) -> None:
    def fail(spec: TrialSpec) -> Course:
        return Course((), outcome, 0.0, message=f"tried {spec.trial} GiB")

    with pytest.raises(TrialsFailedError, match="first 12 trials all failed"):
        study(tmp_path, fail, question(parse_budget("1e12FLOPs")))


WALL = 100
"""Samples of the largest micro-batch that fits."""


def walled(spec: TrialSpec) -> Course:
    assert spec.config is not None
    return Course((), "oom", 0.05) if spec.config.batch.micro > WALL else Problem()(spec)


@pytest.mark.parametrize(("is_measured", "most"), [(True, 0), (False, 5)])
def test_a_study_runs_into_its_memory_no_more_than_it_takes_to_know_it(
    tmp_path: Path, is_measured: bool, most: int
) -> None:
    measured = PeakMemory({("fp32", "none"): Line(0.0, 1.0, 1024)}, limit=(1 + MARGIN) * (WALL + 0.5))
    baseline = replace(BASELINE, batch=replace(BASELINE.batch, size=64))
    asked = question(parse_budget("20s"), baseline=baseline)
    asked = replace(asked, space=asked.space.narrow("batch.size", 150, 1000))
    asked = replace(asked, cost=replace(asked.cost, memory=measured if is_measured else PeakMemory()))
    done = study(tmp_path, walled, asked)
    failed = [r.spec.config.batch.micro for r in done if r.spec.config and r.ended.outcome == "oom"]
    assert len(failed) <= most and failed == sorted(failed, reverse=True)
    beyond = [r.spec.config.batch for r in done if r.spec.config and r.ended.outcome != "oom"]
    assert sum(batch.size > WALL for batch in beyond) > 10, "they are split"
    assert any(r.hit for r in done)


def test_a_few_failures_do_not_end_a_study(tmp_path: Path) -> None:
    def course(spec: TrialSpec) -> Course:
        failed = Course((), "diverged" if spec.trial % 2 else "oom", 0.1)
        return failed if spec.trial <= 4 else Problem()(spec)

    done = study(tmp_path, course, question(parse_budget("14s")))
    check_not_failed(done)
    assert any(r.hit for r in done)


def test_a_worker_that_never_begins_is_killed(tmp_path: Path) -> None:
    def course(spec: TrialSpec) -> Course:
        return replace(Problem()(spec), setup_s=1e6 if spec.trial == 3 else 0.05)

    done = study(tmp_path, course, question(parse_budget("90s or 30 trials")))
    stuck = done[2]
    assert stuck.ended.outcome == "timeout" and stuck.is_attempt
    assert stuck.spec.cap_s is not None and stuck.wall_s == pytest.approx(stuck.spec.cap_s + 21, abs=0.3)
    assert stuck.ended.flops == stuck.spec.cap_flops, "what it computed is not known: its whole cap is charged"
    assert len(done) > 20


class Deaf(Executor):
    """Simulated workers that ignore their caps."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def start(self, spec: TrialSpec) -> None:
        self._inner.start(replace(spec, cap_s=None, cap_flops=None))

    def wait(self, timeout_s: float) -> list[Event]:
        return self._inner.wait(timeout_s)

    def stop(self, trial: int) -> None:
        self._inner.stop(trial)

    def kill(self, trial: int) -> None:
        self._inner.kill(trial)

    def close(self) -> None:
        self._inner.close()


def test_a_worker_that_ignores_its_cap_is_killed(tmp_path: Path) -> None:
    def course(spec: TrialSpec) -> Course:
        plain = Problem()(spec)
        if spec.trial != 2:
            return plain
        end = replace(plain.points[-1], value=0.1)
        late = ((end.samples // 3, 10.0), (end.samples // 2, 20.0), (end.samples, 60.0))
        return replace(plain, points=tuple(replace(end, samples=n, elapsed_s=at_s) for n, at_s in late))

    with driver(tmp_path, course, executor=lambda clock: Deaf(SimulatedExecutor(clock, course))) as running:
        done = run_study(running, question(parse_budget("90s or 30 trials")))
        assert running.spent().seconds <= 90
    slow = done[1]
    assert slow.ended.outcome == "capped" and slow.ended.elapsed_s == slow.wall_s
    assert slow.spec.cap_s is not None and slow.wall_s == pytest.approx(slow.spec.cap_s + 21, abs=0.3)


def test_a_trial_that_is_cut_by_the_end_of_the_budget_is_no_failure(tmp_path: Path) -> None:
    def course(spec: TrialSpec) -> Course:
        return replace(Problem()(spec), setup_s=1e6 if spec.trial == 12 else 0.05)

    with driver(tmp_path, course) as running:
        done = run_study(running, question(parse_budget("14s")))
        assert 13 <= running.spent().seconds <= 14
    assert (done[-1].spec.trial, done[-1].ended.outcome, done[-1].ended.elapsed_s) == (12, "capped", 0.0)
    assert not done[-1].is_attempt
