"""Whole studies in simulated time that start from an earlier one of the same task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.budget import parse_budget
from autoaccel.errors import EnvironmentFaultError
from autoaccel.execution.simulated import Course
from autoaccel.hardware.profile import Device, HardwareProfile, Load
from autoaccel.job import Job
from autoaccel.search.confirm import answer
from autoaccel.search.inherited import chosen
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.loop import run_study
from autoaccel.search.memory import keep, recall
from autoaccel.search.prepare import Prepared
from autoaccel.search.question import Question
from autoaccel.store.ledger import Ledger
from autoaccel.store.library import ANSWER, Past, n_studies, trainings_of
from autoaccel.store.run import PAST
from autoaccel.trial import SEARCHING, TrialRecord, TrialSpec
from tests.simulated.problems import Problem, driver, question, study

BUDGET = parse_budget("14s")


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def started_from(done: tuple[TrialRecord, ...], asked: Question) -> Question:
    return replace(asked, past=chosen(asked, Past(tuple(trainings_of("before", done)), 1)))


def spent_before_hit(done: tuple[TrialRecord, ...]) -> float:
    """Seconds of tuning until a trial other than the baseline hits."""
    first = next(n for n, r in enumerate(done) if r.hit and r.spec.purpose != "baseline")
    return sum(r.wall_s for r in done[: first + 1] if r.spec.purpose != "baseline")


@pytest.mark.parametrize("target", [0.8, 0.86, 0.88])
def test_a_second_study_hits_sooner_and_answers_no_worse(tmp_path: Path, target: float) -> None:
    before = study(folder(tmp_path, "before"), Problem(), question(BUDGET, target=0.86, seed=1))
    asked = question(BUDGET, target=target)
    fresh = study(folder(tmp_path, "fresh"), Problem(), asked)
    again = started_from(before, asked)
    done = study(folder(tmp_path, "again"), Problem(), again)
    assert "first" not in {r.spec.purpose for r in done}
    assert spent_before_hit(done) < 0.5 * spent_before_hit(fresh)
    found, plain = (answer(q, d, Knowledge(q).ranked(d)) for q, d in ((again, done), (asked, fresh)))
    assert found is not None and plain is not None and found.hit_rate >= 0.9
    assert found.ert_s < 1.1 * plain.ert_s
    ran = {r.spec.config.identity for r in done if r.spec.config}
    assert found.config.identity in ran


def test_the_best_of_the_past_is_tried_first_on_other_seeds(tmp_path: Path) -> None:
    asked = question(BUDGET)
    before = study(folder(tmp_path, "before"), Problem(), asked)
    done = study(folder(tmp_path, "again"), Problem(), started_from(before, asked))
    second = done[1].spec
    assert (done[0].spec.purpose, second.purpose, second.note) == ("baseline", "repeat", "best of 1 past study")
    identities = {r.spec.config.identity for r in before if r.hit and r.spec.config}
    assert second.config is not None and second.config.identity in identities
    seeds = [{r.spec.config.seed for r in d if r.spec.config} for d in (before, done)]
    assert not seeds[0] & seeds[1], "an attempt was made again"


def test_a_past_that_is_not_repeated_is_forgotten(tmp_path: Path) -> None:
    """Everything hits at once in the past; here it takes its time."""
    asked = question(parse_budget("30s"))

    def lucky(spec: TrialSpec) -> Course:
        plain = Problem()(spec)
        return replace(plain, points=tuple(replace(p, value=0.9) for p in plain.points))

    before = study(folder(tmp_path, "before"), lucky, question(parse_budget("8s")))
    again = started_from(before, asked)
    assert again.past.trainings
    done = study(folder(tmp_path, "again"), Problem(), again)
    found = answer(again, done, Knowledge(again).ranked(done))
    assert found is not None and found.hits >= 5 and found.hit_rate >= 0.9


def decisions(done: tuple[TrialRecord, ...]) -> list[Any]:
    return [(r.spec.purpose, r.spec.config, r.spec.note, r.spec.bet) for r in done]


def test_a_resumed_study_decides_as_it_would_have(tmp_path: Path) -> None:
    asked = replace(question(parse_budget("7s")), use_all_budget=True)  # else it is over after seven trials
    again = started_from(study(folder(tmp_path, "before"), Problem(), question(BUDGET, seed=1)), asked)
    whole = study(folder(tmp_path, "whole"), Problem(), again)
    where = folder(tmp_path, "killed")
    with driver(where, Problem(), stop_after=6) as first:
        run_study(first, again)
    with driver(where, Problem(), began_at_s=50.0) as second:
        done = run_study(second, again)
    assert sum(r.spec.purpose in SEARCHING for r in whole) >= 9
    assert decisions(done)[:9] == decisions(whole)[:9]


PROFILE = HardwareProfile(
    cpu_model="made up",
    isa=(),
    usable_cores=1,
    memory_bytes=2**30,
    n_cpus=1,
    affinity="0",
    cgroup_cores=None,
    cgroup_memory_bytes=None,
    os="",
    python="",
    devices=(Device("cpu", "made up", 2**30, ""),),
    device="cpu",
    n_threads=1,
    rates={},
    notes={},
    skipped={},
    load=Load(None, None),
    host="h",
    fingerprint="f",
)


def prepared(asked: Question, **job: Any) -> Prepared:
    return Prepared(Job(budget=BUDGET, task="made.up:task", **job), asked, {"task": "made up"}, PROFILE, 0.1)


def kept(where: Path, asked: Question, **job: Any) -> str:
    """Run a study in a folder and keep it."""
    ready = prepared(asked, **job)
    study(where, Problem(), asked)
    ledger = Ledger(where / "ledger.jsonl")
    try:
        ledger.append("session", 0.0, {"started_at": where.name})
        return keep(where, ready, ledger, dict.fromkeys(ANSWER))
    finally:
        ledger.close()


def test_the_past_is_frozen_when_a_study_begins(tmp_path: Path) -> None:
    asked = question(parse_budget("7s"))
    where = folder(tmp_path, "again")
    assert recall(where, prepared(asked), ()).question == asked, "an empty library is no past"
    assert not list(where.iterdir())
    assert kept(folder(tmp_path, "one"), asked) == ""
    first = recall(where, prepared(asked), ()).question
    assert first.past.trainings and first.past.generation == 1
    kept(folder(tmp_path, "two"), replace(asked, seed=1))
    assert n_studies() == 2
    done = study(folder(tmp_path, "x"), Problem(), asked)
    assert recall(where, prepared(asked), done).question == first, "resumed: the library has grown since"
    later = recall(folder(tmp_path, "later"), prepared(asked), ()).question.past
    assert later.n_studies == 2 and len(later.trainings) > len(first.past.trainings)


def test_a_run_begun_without_a_past_goes_on_without(tmp_path: Path) -> None:
    asked = question(parse_budget("7s"))
    kept(folder(tmp_path, "one"), asked)
    done = study(folder(tmp_path, "x"), Problem(), asked)
    assert recall(folder(tmp_path, "again"), prepared(asked), done).question == asked


def test_without_the_library_nothing_is_read_or_written(tmp_path: Path) -> None:
    asked = question(parse_budget("7s"))
    kept(folder(tmp_path, "one"), asked)
    where = folder(tmp_path, "again")
    assert recall(where, prepared(asked, use_library=False), ()).question == asked
    kept(where, asked, use_library=False)
    assert n_studies() == 1


def test_a_damaged_past_of_a_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / PAST).write_text("{")
    with pytest.raises(EnvironmentFaultError, match=r"past\.jsonl: it is damaged"):
        recall(tmp_path, prepared(question(BUDGET)), ())


def test_a_library_that_cannot_be_written_costs_no_answer(tmp_path: Path, library: Path) -> None:
    (library / "studies").write_text("a file where the folder should be")
    assert "was not kept in the library" in kept(folder(tmp_path, "one"), question(parse_budget("7s")))
