"""Whole studies in simulated time and what becomes of their budget: slots, an early end, more of it, too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoaccel.budget import extended, parse_budget
from autoaccel.config import keras_recipe
from autoaccel.execution.simulated import Course
from autoaccel.search.confirm import answer
from autoaccel.search.extrapolate import extrapolated
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.lessons import lessons
from autoaccel.search.loop import SEARCH_OVER, run_study
from autoaccel.trial import CONFIRMING, SEARCHING, TrialRecord, TrialSpec
from tests.simulated.problems import N_TRAIN, Problem, driver, question, study

ASKED = question(parse_budget("14s"))


def n_searched(done: tuple[TrialRecord, ...]) -> int:
    return sum(r.spec.purpose in SEARCHING for r in done)


# ---------------------------------------------------------------------------------------------------------------- slots


def test_more_slots_search_more_and_confirm_one_at_a_time(tmp_path: Path) -> None:
    asked = replace(question(parse_budget("7s")), use_all_budget=True)
    found = {}
    for n_slots in (1, 3):
        folder = tmp_path / str(n_slots)
        folder.mkdir()
        with driver(folder, Problem(), n_slots=n_slots) as running:
            found[n_slots] = run_study(running, asked)
            assert running.spent().seconds <= 7
    assert n_searched(found[3]) > 1.5 * n_searched(found[1])
    assert [r.spec.trial for r in found[3]] != sorted(r.spec.trial for r in found[3]), "they end in another order"


def test_a_killed_study_with_slots_closes_all_that_ran(tmp_path: Path) -> None:
    with driver(tmp_path, Problem(), n_slots=3, stop_after=9) as first:
        before = run_study(first, ASKED)
    stopped = [r for r in before if r.ended.outcome == "stopped"]
    assert len(before) >= 9 and stopped
    with driver(tmp_path, Problem(), n_slots=3, began_at_s=100.0) as second:
        done = run_study(second, ASKED)
        assert second.spent().seconds <= 14
    assert done[: len(before)] == before
    assert sorted(r.spec.trial for r in done) == list(range(1, len(done) + 1))


# ------------------------------------------------------------------------------------------------------------ early end


def test_a_search_with_nothing_to_gain_ends_early(tmp_path: Path) -> None:
    asked, problem = question(parse_budget("50s")), Problem(setup_s=0.3)
    found, why = {}, {}
    for use_all in (False, True):
        folder = tmp_path / str(use_all)
        folder.mkdir()
        with driver(folder, problem) as running:
            found[use_all] = run_study(running, replace(asked, use_all_budget=use_all))
            (why[use_all],) = [e.data["why"] for e in running.ledger.entries if e.kind == SEARCH_OVER]
    assert "less than 1%" in why[False] and "less than 1%" not in why[True]
    assert n_searched(found[False]) < n_searched(found[True])
    early, late = (answer(asked, found[k], Knowledge(asked).ranked(found[k])) for k in (False, True))
    assert early is not None and late is not None and early.attempts >= 5
    assert early.ert_s < 1.25 * late.ert_s, "it ended although there was much to gain"


def test_the_lessons_lead_to_the_answer(tmp_path: Path) -> None:
    done = study(tmp_path, Problem(), ASKED)
    ranked = Knowledge(ASKED).ranked(done)
    found = lessons(done, ranked)
    assert found[0].purpose == "baseline" and found[-1].trial == ranked[0].trial
    assert found[-1].expected_s < 0.5 * found[0].expected_s


# ---------------------------------------------------------------------------------------------------------- more budget


def test_a_finished_study_searches_on_with_more_budget(tmp_path: Path) -> None:
    asked = replace(ASKED, budget=parse_budget("7s"), use_all_budget=True)
    with driver(tmp_path, Problem()) as first:
        before = run_study(first, asked)
    assert before[-1].spec.purpose in CONFIRMING
    more = replace(asked, budget=extended(asked.budget, "+7s"))
    with driver(tmp_path, Problem(), began_at_s=500.0) as second:
        done = run_study(second, more)
        assert 7 < second.spent().seconds <= 14
    assert done[: len(before)] == before, "attempts that were made stay"
    added = [r.spec.purpose for r in done[len(before) :]]
    first_confirmation = next(i for i, p in enumerate(added) if p in CONFIRMING)
    assert first_confirmation > 5 and set(added[:first_confirmation]) <= {"race", "repeat"}
    assert set(added[first_confirmation:]) <= set(CONFIRMING)
    pairs = [
        (r.spec.config.identity, r.spec.config.seed) for r in done if r.spec.purpose == "confirm" and r.spec.config
    ]
    assert len(set(pairs)) == len(pairs), "a fresh seed was used twice for one configuration"


def test_a_finished_study_without_more_budget_only_ends_again(tmp_path: Path) -> None:
    with driver(tmp_path, Problem()) as first:
        before = run_study(first, ASKED)
    with driver(tmp_path, Problem(), began_at_s=500.0) as second:
        assert run_study(second, ASKED) == before
        assert sum(e.kind == SEARCH_OVER for e in second.ledger.entries) == 1


# ----------------------------------------------------------------------------------------------------- too little of it


def test_without_a_hit_everything_is_searched(tmp_path: Path) -> None:
    asked = question(parse_budget("14s"), target=0.999)
    with driver(tmp_path, Problem(ceiling=0.9)) as running:
        done = run_study(running, asked)
        assert running.spent().seconds > 12.5, "the reserve was given back though there was nothing to confirm"
    assert not any(r.spec.purpose in CONFIRMING for r in done)


def test_a_target_beyond_the_budget_is_extrapolated(tmp_path: Path) -> None:
    problem = Problem()
    asked = question(parse_budget("8s"), target=0.95, baseline=keras_recipe(N_TRAIN, epochs=300))
    done = study(tmp_path, problem, asked)
    assert not any(r.hit for r in done)
    found = extrapolated(Knowledge(asked), done)
    assert found is not None
    assert found.low_s < found.seconds and (found.high_s is None or found.seconds < found.high_s)
    reached = [problem(TrialSpec(1, "confirm", replace(found.config, seed=s), asked.target)) for s in range(5)]
    assert max(c.points[-1].value for c in reached) > 0.93, "nowhere near the target"


@pytest.mark.parametrize("value", [0.1, None])
def test_where_nothing_is_learned_nothing_is_extrapolated(tmp_path: Path, value: float | None) -> None:
    def flat(spec: TrialSpec) -> Course:
        points = Problem()(spec).points
        return Course(tuple(replace(p, value=value or float("nan")) for p in points), setup_s=0.05)

    asked = question(parse_budget("8s"), target=0.95)
    done = study(tmp_path, flat, asked)
    found = extrapolated(Knowledge(asked), done)
    assert found is None or found.high_s is None
    assert extrapolated(Knowledge(ASKED), study_that_hits(tmp_path)) is None


def study_that_hits(folder: Path) -> tuple[TrialRecord, ...]:
    inner = folder / "hits"
    inner.mkdir()
    return study(inner, Problem(), question(parse_budget("9 trials")))
