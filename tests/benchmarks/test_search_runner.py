"""Studies: run once, judged on fresh seeds, kept whole; what is there is not run again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.distributions import FloatDistribution

from benchmarks.search import report, runner
from benchmarks.search.bench import FRESH_SEEDS, Answer, Bench
from benchmarks.search.judge import PENALTY, Judge, effective, judge
from benchmarks.search.problem import Description, Params, Point, Problem
from benchmarks.search.runner import Place, Study, answer_at, done, run_all, run_study, study_digest

BUDGETS = (0.25, 1.0, 2.0)


class Coin(Problem):
    """One look at the horizon; hits where the seed is below `share` of every ten."""

    def __init__(self, name: str = "coin", target: float = 1.0) -> None:
        self.trained: list[tuple[float, int, int]] = []
        default = {"share": 0.3, "idle": 0.5}
        space = {"share": FloatDistribution(0.0, 1.0), "idle": FloatDistribution(0.0, 1.0)}
        conditions = {"idle": ("share", 0.9)}
        self.description = Description(name, "test", space, conditions, 1, 10_000, 100, default, target, full_s=10.0)

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        self.trained.append((params["share"], horizon, seed))
        yield Point(horizon, horizon / 10, float(seed % 10 < 10 * params["share"]))

    def seconds_per_sample(self, params: Params) -> float:
        return 0.1


class Method(SimpleNamespace):
    """Answers with the share of its seed after every training."""

    def run(self, bench: Bench) -> None:
        while True:
            share = 0.1 * (bench.seed + 1 + len(bench.trials))
            bench.run({"share": share, "idle": 0.0}, 40)
            bench.answer({"share": share, "idle": 0.0}, 40)
            bench.claim_s = 20.0


METHOD = Method(name="steps", family="none", form="documented", version="1")


@pytest.fixture
def coin(monkeypatch: pytest.MonkeyPatch) -> Coin:
    found = Coin()
    monkeypatch.setattr(runner, "problem_named", lambda name: found)
    return found


def test_expected_running_time_is_all_time_over_hits() -> None:
    verdict = judge(Coin(), {"share": 0.3, "idle": 0.0}, 100)
    assert (verdict.attempts, verdict.hits) == (20, 6)
    assert verdict.ert == pytest.approx(20 * 1.0 / 6)


def test_an_answer_never_counts_more_than_the_penalty() -> None:
    coin = Coin()
    assert judge(coin, {"share": 0.0, "idle": 0.0}, 100).ert == PENALTY
    assert judge(coin, {"share": 0.05, "idle": 0.0}, 1_000).ert == PENALTY
    long = judge(coin, {"share": 1.0, "idle": 0.0}, 10_000)
    assert (long.hits, long.seconds) == (0, 20 * PENALTY)


def test_answers_are_judged_on_seeds_that_no_study_sees() -> None:
    coin = Coin()
    judge(coin, {"share": 0.3, "idle": 0.0}, 100)
    assert [seed for _, _, seed in coin.trained] == list(range(FRESH_SEEDS, FRESH_SEEDS + 20))


def test_an_answer_is_judged_once(tmp_path: Path) -> None:
    coin = Coin()
    first = Judge(tmp_path / "v.sqlite").verdict(coin, {"share": 0.3, "idle": 0.0}, 100)
    trained = len(coin.trained)
    # Another process' judge; a knob without effect makes no other answer.
    assert Judge(tmp_path / "v.sqlite").verdict(coin, {"share": 0.3, "idle": 0.7}, 100) == first
    assert len(coin.trained) == trained
    Judge(tmp_path / "v.sqlite").verdict(coin, {"share": 0.3, "idle": 0.0}, 101)
    Judge(tmp_path / "v.sqlite").verdict(Coin(target=0.5), {"share": 0.3, "idle": 0.0}, 100)
    assert len(coin.trained) == 2 * trained


def test_only_knobs_with_an_effect_count() -> None:
    known = Coin().description
    assert effective(known, {"share": 0.3, "idle": 0.1}) == {"share": 0.3}
    assert effective(known, {"share": 0.9, "idle": 0.1}) == {"idle": 0.1, "share": 0.9}


def test_the_answer_of_a_budget_is_the_last_one_given_by_then() -> None:
    answers = [Answer(0.5, {"a": 1}, 1), Answer(2.0, {"a": 2}, 1), Answer(2.0, {"a": 3}, 1)]
    assert answer_at(answers, 0.4) is None
    assert answer_at(answers, 1.9) == answers[0]
    assert answer_at(answers, 2.0) == answers[2]


def test_a_study_is_read_at_every_budget(tmp_path: Path) -> None:
    found = run_study(METHOD, Coin(), 0, BUDGETS, Judge(tmp_path / "v.sqlite"))
    points = {point["budget"]: point for point in found["points"]}
    assert (points[0.25]["ert"], points[0.25]["attempts"], points[0.25]["params"]) == (PENALTY, 0, None)
    assert json.loads(points[1.0]["params"])["share"] == pytest.approx(0.2)
    assert points[2.0]["hits"] == 2 * 4  # the fifth training ends with the budget: no answer after it
    assert (found["n_trials"], found["spent"], found["claim"]) == (5, 2.0, 2.0)
    assert points[2.0]["answered_at"] == pytest.approx(1.6)


def test_what_is_done_is_not_run_again(tmp_path: Path, coin: Coin) -> None:
    place = Place(tmp_path, BUDGETS)
    studies = [Study("steps", "coin", seed) for seed in (0, 1)]
    assert run_all(studies, place, 0, {"steps": METHOD}) == []
    digest = study_digest(METHOD, coin, BUDGETS)
    assert all(done(study, place, digest, {}) for study in studies)
    newer = Method(**{**vars(METHOD), "version": "2"})
    assert not done(studies[0], place, study_digest(newer, coin, BUDGETS), {})
    assert not done(studies[0], place, study_digest(METHOD, coin, (1.0,)), {})
    place.part(studies[0]).unlink()
    assert not done(studies[0], place, digest, {})
    assert done(studies[0], place, digest, {studies[0]: digest})


def test_a_killed_study_leaves_nothing_behind(tmp_path: Path, coin: Coin) -> None:
    class Killed(Method):
        def run(self, bench: Bench) -> None:
            bench.run({"share": 0.5, "idle": 0.0}, 40)
            raise KeyboardInterrupt

    place = Place(tmp_path, BUDGETS)
    studies = [Study("steps", "coin", 0), Study("killed", "coin", 0), Study("steps", "coin", 1)]
    with pytest.raises(KeyboardInterrupt):
        run_all(studies, place, 0, {"steps": METHOD, "killed": Killed(**vars(METHOD))})
    digest = study_digest(METHOD, coin, BUDGETS)
    assert [done(study, place, digest, {}) for study in studies] == [True, False, False]
    assert len({row["seed"] for row in report.compact(place)}) == 1


def test_a_failing_method_is_told_and_the_others_go_on(
    tmp_path: Path, coin: Coin, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(Method):
        def run(self, bench: Bench) -> None:
            raise RuntimeError("out of ideas")

    place = Place(tmp_path, BUDGETS)
    studies = [Study("broken", "coin", 0), Study("steps", "coin", 0)]
    failed = run_all(studies, place, 0, {"steps": METHOD, "broken": Broken(**vars(METHOD))})
    assert [study.method for study, _ in failed] == ["broken"]
    assert "out of ideas" in capsys.readouterr().err
    assert place.part(studies[1]).exists()


def test_parts_are_compacted_and_newer_ones_replace(tmp_path: Path, coin: Coin) -> None:
    pytest.importorskip("pyarrow")
    place = Place(tmp_path, BUDGETS)
    run_all([Study("steps", "coin", seed) for seed in (0, 1)], place, 0, {"steps": METHOD})
    rows = report.compact(place)
    assert len(rows) == 2 * len(BUDGETS)
    for file in place.parts.glob("*/*.json"):
        file.unlink()
    assert report.compacted(place) == rows  # a checkout has the Parquet file and no parts
    run_all([Study("steps", "coin", 1)], place, 0, {"steps": Method(**{**vars(METHOD), "version": "2"})})
    again = report.compact(place)
    assert len(again) == len(rows)
    assert len({row["digest"] for row in again}) == 2


def test_studies_are_run_with_the_methods_in_turns() -> None:
    studies = runner.in_turns(["a", "b"], ["x", "y"], [0, 1])
    assert [study.method for study in studies[:4]] == ["a", "b", "a", "b"]
    assert {study.seed for study in studies[:4]} == {0}


def test_a_claim_that_is_no_number_is_none(tmp_path: Path) -> None:
    class Boastful(Method):
        def run(self, bench: Bench) -> None:
            bench.claim_s = math.inf

    found = run_study(Boastful(**vars(METHOD)), Coin(), 0, BUDGETS, Judge(tmp_path / "v.sqlite"))
    assert found["claim"] is None
    assert found["first_hit"] is None
