"""Whole re-tunings in simulated time: on a machine on which steps cost something else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autoaccel.budget import Budget
from autoaccel.config import TrainerConfig
from autoaccel.cost.step_cost import StepCost
from autoaccel.search.confirm import Evidence, answer
from autoaccel.search.inherited import chosen
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.question import Question
from autoaccel.store.library import Past, trainings_of
from autoaccel.trial import TrialRecord, TrialSpec
from tests.simulated import problems
from tests.simulated.problems import Problem, question, study

SHARE, WHOLE_S, TARGET = 0.15, 30.0, 0.86
SLOW = StepCost(
    micro={"fp32": ((16, 0.004), (64, 0.012), (256, 0.04), (1024, 0.15))},
    optimizer={"sgd": 0.0004, "adamw": 0.0008},
    evaluation={"fp32": 0.06},
    flops_per_sample=1e6,
    evaluation_flops=2e8,
)
"""Large batches are not as cheap there as on the machine of `problems`."""


def answered(folder: Path, asked: Question) -> tuple[Evidence, tuple[TrialRecord, ...]]:
    folder.mkdir()
    done = study(folder, Problem(), asked)
    found = answer(asked, done, Knowledge(asked).ranked(done))
    assert found is not None
    return found, done


def again(asked: Question, before: Evidence, done: Sequence[TrialRecord]) -> Question:
    """The question of a job that comes after a run, as `prepare` and `recall` make it."""
    budget = Budget(seconds=SHARE * WHOLE_S)
    asked = replace(asked, budget=budget, baseline=replace(before.config, seed=0), finish_s=0.3)
    return replace(asked, past=chosen(asked, Past(tuple(trainings_of("before", done)), 1)))


def truth(config: TrainerConfig) -> tuple[float, float]:
    """The share that hits, and the time to the target, of 40 seeds that nobody has searched on."""
    courses = [Problem()(TrialSpec(1, "", replace(config, seed=10**6 + k))) for k in range(40)]
    hits = [next((p.elapsed_s for p in c.points if p.value >= TARGET), None) for c in courses]
    took_s = [c.points[-1].elapsed_s if s is None else s for c, s in zip(courses, hits, strict=True)]
    n_hits = sum(s is not None for s in hits)
    return n_hits / len(hits), sum(took_s) / n_hits if n_hits else math.inf


def test_a_share_of_the_budget_finds_what_a_study_from_scratch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, done = answered(tmp_path / "before", question(Budget(seconds=WHOLE_S), TARGET, seed=2))
    monkeypatch.setattr(problems, "COST", SLOW)
    asked = replace(question(Budget(seconds=WHOLE_S), TARGET, seed=102), cost=SLOW)
    scratch, _ = answered(tmp_path / "scratch", asked)
    tuned, trials = answered(tmp_path / "again", again(asked, before, done))
    (rate, ert_s), (_, scratch_s) = truth(tuned.config), truth(scratch.config)
    assert tuned.attempts >= 5 and rate >= 0.9 and ert_s <= 1.05 * scratch_s
    first = trials[0].spec
    assert first.purpose == "baseline" and first.config is not None
    assert first.config.identity == before.config.identity, "the old answer is trained first"
    assert "first" not in {r.spec.purpose for r in trials}, "there is nothing left to look for"


def test_where_the_machine_is_the_same_it_ends_before_its_budget_does(tmp_path: Path) -> None:
    before, done = answered(tmp_path / "before", question(Budget(seconds=WHOLE_S), TARGET, seed=2))
    same = again(question(Budget(seconds=WHOLE_S), TARGET, seed=3), before, done)
    longer = replace(same, budget=Budget(seconds=WHOLE_S))
    tuned, trials = answered(tmp_path / "again", longer)
    assert sum(r.wall_s for r in trials) < 0.7 * WHOLE_S
    assert truth(tuned.config)[1] <= 1.05 * truth(before.config)[1]
