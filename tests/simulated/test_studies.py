"""Whole studies in simulated time: budgets kept, nothing lost, equal seeds equal, answers confirmed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.budget import Budget, parse_budget
from autoaccel.clock import ManualClock
from autoaccel.config import keras_recipe, to_params
from autoaccel.execution.simulated import Course
from autoaccel.report.summary import result_document, speedup
from autoaccel.search.confirm import MOST_ATTEMPTS, Evidence, baseline_evidence
from autoaccel.search.confirm import answer as confirmed_answer
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.loop import check_not_failed, run_study
from autoaccel.search.question import Question
from autoaccel.search.trials import KILL_GRACE_S, Snapshot
from autoaccel.store.ledger import Entry, last_second, read_ledger, records, spent
from autoaccel.trial import CONFIRMING, FAILURES, SEARCHING, TrialRecord, TrialSpec
from tests.golden.compare import check_golden
from tests.simulated.problems import BASELINE, COST, N_TRAIN, Problem, driver, question, study

BUDGETS = ["6s", "9s", "5e10FLOPs", "1e11FLOPs", "0.002 device-hours", "9 trials", "25 trials", "20s or 15 trials"]


@st.composite
def problems(draw: st.DrawFn) -> Callable[[TrialSpec], Course]:
    """Easy, hopeless, noisy; some trials crash, diverge, run out of memory or hang before they begin."""
    problem = Problem(
        ceiling=draw(st.sampled_from([0.8, 0.9, 0.97])),
        noise=draw(st.sampled_from([0.0, 0.01, 0.05])),
        jitter=draw(st.sampled_from([0.0, 0.2, 0.9])),
        setup_s=draw(st.sampled_from([0.0, 0.3])),
    )
    trouble = draw(st.dictionaries(st.integers(2, 30), st.sampled_from(["crashed", "diverged", "oom", "hang"])))

    def course(spec: TrialSpec) -> Course:
        kind = trouble.get(spec.trial)
        if kind == "hang":
            return replace(problem(spec), setup_s=1e6)
        if kind:
            return Course(problem(spec).points[:1], kind, 0.1, message=f"{kind} in trial {spec.trial}")
        return problem(spec)

    return course


def answer(asked: Question, done: tuple[TrialRecord, ...]) -> Evidence | None:
    return confirmed_answer(asked, done, Knowledge(asked).ranked(done))


@settings(deadline=None, max_examples=10)
@given(text=st.sampled_from(BUDGETS), course=problems(), seed=st.integers(0, 999), n_slots=st.sampled_from([1, 2, 4]))
def test_a_study_keeps_its_budget(text: str, course: Callable[[TrialSpec], Course], seed: int, n_slots: int) -> None:
    asked = question(parse_budget(text), seed=seed)
    with tempfile.TemporaryDirectory() as name:
        with driver(Path(name), course, n_slots=n_slots) as running:
            done = run_study(running, asked)
            amount = running.spent()
        assert_within(asked.budget, amount.seconds, amount.flops, amount.trials)
        entries, _ = read_ledger(Path(name) / "ledger.jsonl")
        assert tuple(records(entries)) == done
        started = [e.data["trial"] for e in entries if e.kind == "started"]
        assert started == sorted(r.spec.trial for r in done) == list(range(1, len(done) + 1))
        assert most_at_once(entries) <= n_slots
        folded = spent(last_second(entries), records(entries))
        assert (folded.flops, folded.trials) == (amount.flops, amount.trials)
        assert folded.seconds == pytest.approx(amount.seconds, abs=1e-5)
    assert_rules(asked.baseline.identity, done)


def most_at_once(entries: list[Entry]) -> int:
    """Trials that ran at the same time; the baseline and confirmations are found to run alone on the way."""
    now: set[int] = set()
    alone: set[int] = set()
    most = 0
    for entry in entries:
        if entry.kind == "started":
            assert not alone, "something was started beside a trial that has the machine to itself"
            if entry.data["purpose"] in ("baseline", *CONFIRMING):
                assert not now
                alone.add(entry.data["trial"])
            now.add(entry.data["trial"])
            most = max(most, len(now))
        elif entry.kind == "ended":
            now.remove(entry.data["spec"]["trial"])
            alone.discard(entry.data["spec"]["trial"])
    return most


def assert_within(budget: Budget, seconds: float, flops: float, trials: int) -> None:
    assert seconds <= min(budget.seconds or math.inf, budget.device_seconds or math.inf) + KILL_GRACE_S
    assert flops <= (budget.flops or math.inf)
    assert trials <= (budget.trials or math.inf)


def assert_rules(baseline: str, done: tuple[TrialRecord, ...]) -> None:
    """What holds in every study: the order of the stages, the seeds, and the bets of the race."""
    purposes = [r.spec.purpose for r in done]
    first_confirmation = next((i for i, p in enumerate(purposes) if p in CONFIRMING), len(purposes))
    assert not set(purposes[first_confirmation:]) & set(SEARCHING)
    configs = [r.spec.config for r in done]
    seeds = [c.seed for c in configs if c]
    searched, fresh = seeds[:first_confirmation], seeds[first_confirmation:]
    assert len(set(searched)) == len(searched)
    assert not set(searched) & set(fresh)
    pairs = [(p, c.identity, c.seed) for p, c in zip(purposes, configs, strict=True) if c and p in CONFIRMING]
    assert len(set(pairs)) == len(pairs), "a fresh seed was used twice for one configuration"
    assert all(r.ended.outcome != "interrupted" for r in done)
    assert {r.spec.purpose for r in done if r.ended.outcome == "stopped"} <= {"first", "reach", "race"}
    for record in done:
        if record.spec.purpose == "race":
            assert_bet(record)


def assert_bet(record: TrialRecord) -> None:
    """A race is against the best of its moment, and cut where it takes far longer than planned."""
    assert record.spec.cap_s is not None and record.spec.bet["reference_s"] > 0
    assert record.ended.elapsed_s <= record.spec.cap_s or record.ended.outcome in (*FAILURES, "capped")


# ------------------------------------------------------------------------------------------------- decisions and resume


def decision(record: TrialRecord) -> str:
    assert record.spec.config is not None
    params = [
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
        for path, value in to_params(record.spec.config).items()
        if value != to_params(BASELINE)[path]
    ]
    return " ".join(
        [str(record.spec.trial), record.spec.purpose, record.ended.outcome, f"[{record.spec.note}]", *params]
    )


def test_equal_seeds_give_equal_records(tmp_path: Path) -> None:
    asked = question(parse_budget("9s"))
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    first = study(folders[0], Problem(), asked)
    assert study(folders[1], Problem(), asked) == first
    assert study(folders[2], Problem(), replace(asked, seed=1)) != first


def test_the_decisions_of_a_study_are_the_reviewed_ones(tmp_path: Path) -> None:
    done = study(tmp_path, Problem(), question(parse_budget("9s")))
    software = f"numpy {version('numpy')}, scipy {version('scipy')}"
    golden = Path(__file__).resolve().parent.parent / "golden" / "decisions.txt"
    if golden.is_file() and not golden.read_text().startswith(f"# {software}\n"):
        pytest.skip(f"the decisions were written with other versions than {software}")
    check_golden("decisions.txt", "\n".join([f"# {software}", *(decision(r) for r in done)]) + "\n")


@pytest.mark.parametrize("after", [1, 7, 20, 30])
def test_a_stopped_study_goes_on_where_it_was(tmp_path: Path, after: int) -> None:
    asked = question(parse_budget("9s"))
    (tmp_path / "whole").mkdir()
    whole = study(tmp_path / "whole", Problem(), asked)
    with driver(tmp_path, Problem(), stop_after=after) as first:
        assert len(run_study(first, asked)) == after
    with driver(tmp_path, Problem(), began_at_s=1000.0) as second:
        done = run_study(second, asked)
        assert second.spent().seconds <= 9
    assert [decision(r) for r in done] == [decision(r) for r in whole]


class Killed(BaseException):
    """kill -9, as far as a ledger can tell."""


@pytest.mark.parametrize("trial", [1, 9, 30])
def test_a_killed_study_loses_and_repeats_nothing(tmp_path: Path, trial: int) -> None:
    def watch(snapshot: Snapshot) -> None:
        if snapshot.running and snapshot.running[0].trial == trial:
            raise Killed

    asked = question(parse_budget("9s"))
    with pytest.raises(Killed), driver(tmp_path, Problem()) as dying:
        run_study(replace(dying, watch=watch), asked)
    before = dying.ledger.records
    with driver(tmp_path, Problem(), began_at_s=50.0) as resumed:
        done = run_study(resumed, asked)
        assert resumed.spent().seconds <= 9
    assert list(done[: trial - 1]) == before
    cut = done[trial - 1]
    assert (cut.spec.trial, cut.ended.outcome) == (trial, "interrupted")
    assert cut.wall_s == cut.spec.cap_s, "what it really took is not known, so its whole cap is charged"
    assert [r.spec.trial for r in done] == list(range(1, len(done) + 1))
    assert "baseline" in [r.spec.purpose for r in done if r.is_attempt], "a baseline that was cut is run again"
    best = answer(asked, done)
    assert best is not None and best.attempts >= 3


def test_an_interrupted_trial_ends_as_stopped(tmp_path: Path) -> None:
    with driver(tmp_path, Problem(jitter=0.0)) as running:
        stopping = replace(running, interrupted=lambda: running.clock.now() > 0.5)
        done = run_study(stopping, question(parse_budget("14s")))
    assert [(r.spec.purpose, r.ended.outcome) for r in done] == [("baseline", "stopped")]
    check_not_failed(done)


# ------------------------------------------------------------------------------------------------------- confirmation


def test_fresh_seeds_confirm_and_the_baseline_takes_turns(tmp_path: Path) -> None:
    asked = question(parse_budget("60s"))
    done = study(tmp_path, Problem(), asked)
    confirming = [r.spec.purpose for r in done if r.spec.purpose in CONFIRMING]
    assert "confirm_baseline" in confirming[:5]
    for index in range(len(confirming)):
        ours, theirs = (confirming[: index + 1].count(p) for p in ("confirm", "confirm_baseline"))
        assert theirs <= ours // 2 or ours >= MOST_ATTEMPTS
    tuned, baseline = answer(asked, done), baseline_evidence(asked, done)
    assert tuned is not None and tuned.attempts == MOST_ATTEMPTS and tuned.hit_rate >= 0.9
    assert baseline.attempts == confirming.count("confirm_baseline"), "its first trial counts only where few are fresh"
    ratio = speedup(asked, baseline, tuned)
    assert ratio.value is not None and ratio.low is not None and 1 < ratio.low < ratio.value and not ratio.is_bound
    document = result_document(asked, done, baseline, tuned, {"task": "made up"})
    assert document["target_met"] and document["outcomes"]["hit"] > 20


FLAKY = "SGD with Nesterov momentum at a high rate"


def flaky(spec: TrialSpec) -> Course:
    """One recipe always hits in the search and every second time on fresh seeds, unless its horizon is longer."""
    assert spec.config is not None
    course = Problem(noise=0.0)(spec)
    if spec.config.optim.name == "adamw":
        return course
    unlucky = spec.config.horizon.samples < 1500 and spec.purpose == "confirm" and spec.config.seed % 2 == 0
    last = replace(course.points[-1], value=0.5 if unlucky else 0.95)
    return replace(course, points=(*(replace(p, value=0.5) for p in course.points[:-1]), last))


def test_a_flaky_configuration_is_refuted_and_repaired_or_replaced(tmp_path: Path) -> None:
    asked = question(parse_budget("60s"))
    asked = replace(asked, space=replace(asked.space, recipes=tuple(r for r in asked.space.recipes if r.name == FLAKY)))
    assert asked.space.recipes
    done = study(tmp_path, flaky, asked)
    fresh: dict[str, list[bool]] = {}
    for record in done:
        if record.spec.purpose == "confirm" and record.spec.config is not None:
            fresh.setdefault(record.spec.config.identity, []).append(record.hit)
    refuted = [hits for hits in fresh.values() if hits.count(False) == 2]
    assert refuted, "the luckiest configuration of the search was not put to the test"
    assert all(hits[-1] is False for hits in refuted), "a refuted configuration was tried once more"
    tuned = answer(asked, done)
    assert tuned is not None and tuned.hit_rate >= 0.9 and tuned.attempts >= 5
    assert tuned.config.identity in fresh and fresh[tuned.config.identity].count(False) <= 1


# ------------------------------------------------------------------------------------------------- more than it can pay


def test_a_baseline_too_long_for_the_budget_is_cut_and_the_ratio_is_a_bound(tmp_path: Path) -> None:
    long = keras_recipe(N_TRAIN, epochs=150)
    asked = question(parse_budget("14s"), baseline=long)
    assert COST.predict(long).seconds > 10
    slow_start = Problem(ceiling=0.97)

    def course(spec: TrialSpec) -> Course:
        plain = slow_start(spec)
        if spec.purpose in ("baseline", "confirm_baseline"):
            return replace(plain, points=tuple(replace(p, value=0.5) for p in plain.points))
        return plain

    done = study(tmp_path, course, asked)
    first = done[0]
    assert first.ended.outcome == "capped" and first.ended.elapsed_s == pytest.approx(0.4 * 13, abs=0.01)
    assert not first.is_attempt
    tuned, baseline = answer(asked, done), baseline_evidence(asked, done)
    assert tuned is not None and tuned.hits >= 3
    ratio = speedup(asked, baseline, tuned)
    assert ratio.is_bound and ratio.low is None
    assert ratio.value == pytest.approx(first.ended.elapsed_s / tuned.ert_s)


@pytest.mark.parametrize("text", ["8s", "2.5e11FLOPs"])
def test_first_looks_are_as_short_as_the_budget_needs(tmp_path: Path, text: str) -> None:
    asked = question(parse_budget(text), target=0.999, baseline=keras_recipe(N_TRAIN, epochs=300))
    done = study(tmp_path, Problem(), asked)
    looks = [r for r in done if r.spec.purpose == "first"]
    assert looks
    assert all(r.ended.outcome in ("missed", "stopped") for r in looks), "a trial was started that could not finish"


def test_the_smaller_time_limit_rules(tmp_path: Path) -> None:
    asked = question(parse_budget("10h or 14 device-seconds"))
    with driver(tmp_path, Problem()) as running:
        done = run_study(running, asked)
        assert 12 < running.spent().seconds <= 14
    assert {"race", "confirm"} <= {r.spec.purpose for r in done}


@pytest.mark.parametrize("path", ["horizon.samples", "optim.name", "everything"])
def test_pinned_knobs_stay_pinned(tmp_path: Path, path: str) -> None:
    asked = question(parse_budget("14s"))
    everything = {p: v for p, v in to_params(BASELINE).items() if p in asked.space.paths}
    pins = {**everything, "optim.lr": 0.004} if path == "everything" else {path: to_params(BASELINE)[path]}
    asked = replace(asked, space=asked.space.fix(pins, "pinned by --fix"))
    done = study(tmp_path, Problem(), asked)
    assert len(done) > 5
    for record in done:
        assert record.spec.config is not None
        if record.spec.purpose not in ("baseline", "confirm_baseline"):
            params = to_params(record.spec.config)
            is_baseline = record.spec.config.identity == BASELINE.identity
            assert is_baseline or {p: params[p] for p in pins} == pins


def test_a_study_with_nothing_left_ends_at_once(tmp_path: Path) -> None:
    with driver(tmp_path, Problem()) as running:
        assert isinstance(running.clock, ManualClock)
        running.clock.advance(20.0)
        assert run_study(running, question(parse_budget("14s"))) == ()
