"""Calibration: tasks drawn by seed are feasible and repeatable, studies are kept, figures are what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.search.question import Question
from autoaccel.trial import Target, TrialSpec
from benchmarks.calibration import problem as problems
from benchmarks.calibration import study as studies
from benchmarks.calibration.__main__ import HERE, PROTOCOL, kept, rules_of, run_all
from benchmarks.calibration.figures import covers, figures, gap_interval, reliability, reliability_table, width
from benchmarks.calibration.study import Rules, ert, question, study

RULES = Rules(10, 12, 5, 10)


def row(**changed: Any) -> dict[str, Any]:
    known = {
        "claim": True,
        "attempts": 10,
        "hits": 10,
        "stated_hit_rate": 1.0,
        "true_hit_rate": 0.96,
        "exact_hit_rate": 0.97,
        "stated_hit_rate_interval": (0.72, 1.0),
        "stated_ert_interval_s": (1.0, 1.2),
        "true_ert_s": 1.1,
    }
    return {**known, **changed}


# ------------------------------------------------------------------------------------------------------------- problems


def test_a_task_is_drawn_by_its_seed_alone() -> None:
    assert problems.draw(3) == problems.draw(3)
    assert problems.draw(3) != problems.draw(4)


def test_courses_depend_on_configuration_and_seed_and_repeat() -> None:
    task = problems.draw(1)
    spec = TrialSpec(1, "benchmark", problems.BASELINE, task.target)
    again = task.course(spec)
    assert task.course(spec) == again and len(again.points) == 15
    assert [p.samples for p in again.points] == sorted({p.samples for p in again.points})
    other = replace(spec, config=replace(problems.BASELINE, seed=1))
    assert task.course(other) != again


@pytest.mark.parametrize("seed", range(3))
def test_the_target_is_feasible(seed: int) -> None:
    """Some random configuration no longer than the default recipe hits in nine trainings of ten."""
    import random

    task = problems.draw(seed)
    rng = random.Random(0)
    noise = (task.nature.seed_noise**2 + task.nature.evaluation_noise**2) ** 0.5
    found = [problems.anywhere(rng, problems.BASELINE.horizon.samples) for _ in range(300)]
    best = max(found, key=lambda config: problems.expected(task.nature, config, 1.0))
    assert problems.expected(task.nature, best, 1.0) > task.target.value + noise
    assert sum(task.attempt(best, 10**10 + k)[1] for k in range(50)) >= 43


def test_an_attempt_ends_at_its_hit() -> None:
    task = problems.draw(0)
    easy = replace(task, target=Target(0.11))
    seconds, hit = easy.attempt(problems.BASELINE, 7)
    whole, _ = replace(task, target=Target(1.0)).attempt(problems.BASELINE, 7)
    assert hit and seconds < whole / 5


def test_the_space_is_the_shipped_one() -> None:
    assert "precision.dtype" in problems.space().fixed
    assert "horizon.samples" in problems.space().paths


# -------------------------------------------------------------------------------------------------------------- studies


def test_a_study_states_and_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole chain on a small budget; the search itself has tests of its own."""

    def small(task: problems.Problem, rules: Rules) -> Question:
        asked = question(task, rules)
        return replace(asked, budget=replace(asked.budget, seconds=1.5 * task.cost.predict(asked.baseline).seconds))

    monkeypatch.setattr(studies, "question", small)
    found = study(2, RULES)
    assert found["seed"] == 2 and found["n_trials"] >= 1 and isinstance(found["claim"], bool)
    assert 0 <= found["true_hit_rate"] <= 1 and found["attempts"] == len(found["times_s"])
    json.dumps(found)


def test_ert_is_all_time_over_hits() -> None:
    assert ert([(1.0, True), (2.0, False)]) == 3.0
    assert ert([(1.0, False)]) is None


def test_a_study_that_is_there_is_not_run_again(tmp_path: Path) -> None:
    ran = []

    def work(seed: int, rules: Rules) -> dict[str, Any]:
        if seed == 3 and not ran.count(3):
            ran.append(3)
            raise KeyboardInterrupt
        ran.append(seed)
        return {"seed": seed, "claim": False, "n_trials": 1}

    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path, [1, 2, 3, 4], RULES, 0, work)
    run_all(tmp_path, [1, 2, 3, 4], RULES, 0, work)
    assert ran == [1, 2, 3, 3, 4]
    assert kept(tmp_path, 1, RULES) is not None and kept(tmp_path, 9, RULES) is None
    assert kept(tmp_path, 1, replace(RULES, fresh_seeds=6)) is None, "other rules: run anew"


# -------------------------------------------------------------------------------------------------------------- figures


def test_figures_count_claims_only() -> None:
    rows = [
        row(),
        row(stated_hit_rate=0.9, hits=9, true_hit_rate=0.8, exact_hit_rate=0.85, true_ert_s=1.3),
        {"claim": False},
    ]
    found = figures(rows)
    assert (found["n_studies"], found["n_claims"]) == (3, 2)
    assert found["claim_share"] == pytest.approx(2 / 3)
    assert found["gap"] == pytest.approx(0.95 - 0.88)
    assert (found["ert_coverage"], found["ert_true_above"]) == (0.5, 0.5)
    assert found["claims_below_wanted_rate"] == 0.5
    low, high = found["gap_interval"]
    assert low <= found["gap"] <= high


def test_figures_are_null_until_measured() -> None:
    found = figures([])
    assert found.keys() == figures([row()]).keys()
    assert {v for k, v in found.items() if not k.startswith("n_")} == {None}
    assert gap_interval([]) is None and width([row(stated_ert_interval_s=None)]) is None


def test_a_missing_interval_or_truth_is_not_covered() -> None:
    assert covers((1.0, 2.0), 2.0) and not covers((1.0, 2.0), 2.1)
    assert not covers(None, 1.0) and not covers((1.0, 2.0), None)


def test_reliability_groups_claims() -> None:
    groups = reliability([row(), row(attempts=7, hits=7), row(hits=9, stated_hit_rate=0.9), {"claim": False}])
    assert [(g["attempts"], g["misses"], g["claims"]) for g in groups] == [
        ("5 to 9", "none", 1),
        ("10 to 14", "none", 1),
        ("10 to 14", "some", 1),
    ]
    assert reliability_table(groups)[2] == "| 5 to 9 | none | 1 | 1 | 0.97 |"
    assert reliability_table([]) == ["not measured"]


def test_the_protocol_is_complete() -> None:
    rules = rules_of(PROTOCOL)
    assert rules.fresh_seeds == 50 and rules.ert_seeds >= rules.fresh_seeds and rules.budget_low < rules.budget_high
    assert PROTOCOL["studies"] >= 200 and PROTOCOL["first_seed"] + PROTOCOL["studies"] <= 1000, "seeds of a job"
    text = (HERE / "README.md").read_text()
    assert all(f"<!-- {name}: {end} -->" in text for name in ("table", "reliability") for end in ("begin", "end"))
