"""What fresh seeds prove: which configuration stands, when it is refuted, and what counts as an attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import TrainerConfig
from autoaccel.search import confirm
from autoaccel.search.attempts import standings
from autoaccel.search.confirm import Evidence, baseline_evidence
from autoaccel.search.knowledge import Ranked
from autoaccel.search.question import Left, Question, left_of
from autoaccel.store.ledger import spent
from autoaccel.trial import Ended, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, COST, question

ASKED = question(parse_budget("600s"))
PLENTY = Left(500.0, float("inf"), 0.9)


def ranked(done: list[TrialRecord], stretch: float = 1.15) -> list[Ranked]:
    """What a search would say of its hits: here, their plain rate, and a margin."""
    hits = [s for s in standings(done) if s.hits]
    return [Ranked(s.config, s.rank_s, 1.0 if s.is_baseline else stretch, s.rank_s, 1) for s in hits]


def current_candidate(asked: Question, done: list[TrialRecord]) -> TrainerConfig | None:
    return confirm.current_candidate(asked, done, ranked(done))


def next_confirmation(asked: Question, done: list[TrialRecord], left: Left) -> TrialSpec | None:
    return confirm.next_confirmation(asked, done, left, ranked(done))


def answer(asked: Question, done: list[TrialRecord]) -> Evidence | None:
    return confirm.answer(asked, done, ranked(done))


def like_baseline(lr: float, samples: int = 3000) -> TrainerConfig:
    return replace(BASELINE, optim=replace(BASELINE.optim, lr=lr), horizon=replace(BASELINE.horizon, samples=samples))


def trials(
    purpose: str, config: TrainerConfig, outcomes: str, seconds: float = 0.2, first: int = 1
) -> list[TrialRecord]:
    """One record per letter: h(it), m(issed), c(apped)."""
    names = {"h": "hit", "m": "missed", "c": "capped"}
    return [
        TrialRecord(
            TrialSpec(n, purpose, replace(config, seed=n), ASKED.target), (), Ended(n, names[o], seconds, value=0.5)
        )
        for n, o in enumerate(outcomes, start=first)
    ]


def confirmed(config: TrainerConfig, outcomes: str, seconds: float = 0.2) -> list[TrialRecord]:
    """Fresh attempts at what is confirmed for a configuration of the search."""
    candidate = current_candidate(ASKED, trials("race", config, "hh"))
    assert candidate is not None
    return trials("confirm", candidate, outcomes, seconds, first=100)


@pytest.mark.parametrize(
    ("outcomes", "stands"),
    [("", True), ("h", True), ("m", True), ("mm", False), ("hhhhhm", True), ("hhhhmm", False)],
)
def test_two_misses_in_ten_refute(outcomes: str, stands: bool) -> None:
    fast, slow = like_baseline(0.003), like_baseline(0.004)
    done = trials("race", fast, "hh", 0.2) + trials("race", slow, "hh", 5.0, first=10)
    first = current_candidate(ASKED, done)
    assert first is not None and first.optim.lr == 0.003
    done += trials("confirm", first, outcomes, first=20)
    now = current_candidate(ASKED, done)
    assert (now == first) is stands
    if not stands:
        assert now is not None and now.optim.lr == 0.003 and now.horizon.samples > first.horizon.samples, "not repaired"


def test_a_repair_that_would_be_slower_than_the_next_best_is_not_tried() -> None:
    fast, next_best = like_baseline(0.003), like_baseline(0.004)
    done = trials("race", fast, "hh", 0.2) + trials("race", next_best, "hh", 0.21, first=10) + confirmed(fast, "mm")
    now = current_candidate(ASKED, done)
    assert now is not None and now.optim.lr == 0.004


def test_the_baseline_is_neither_stretched_nor_repaired() -> None:
    done = trials("baseline", BASELINE, "h")
    assert current_candidate(ASKED, done) == replace(BASELINE, seed=0)
    done += trials("confirm", BASELINE, "mm", first=50)
    assert current_candidate(ASKED, done) is None
    best = answer(ASKED, done)
    assert best is not None and best.is_baseline and (best.hits, best.attempts) == (0, 2)


def test_a_confirmation_begins_with_the_stretch_the_model_asks_for() -> None:
    done = trials("race", like_baseline(0.003), "hh")
    sure, unsure = (confirm.current_candidate(ASKED, done, ranked(done, stretch)) for stretch in (1.0, 1.25))
    assert sure == like_baseline(0.003)
    assert unsure is not None and unsure.horizon.samples == 3750


@pytest.mark.parametrize(("outcomes", "is_kept"), [("hhhhmm", False), ("hhhhh", True), ("hhhhm", True)])
def test_an_answer_that_was_not_borne_out_is_no_better_than_a_baseline_as_fast(outcomes: str, is_kept: bool) -> None:
    config = like_baseline(0.003)
    done = trials("baseline", BASELINE, "h", 0.22) + trials("race", config, "hh", first=2) + confirmed(config, outcomes)
    done += trials("confirm_baseline", BASELINE, "h", 0.22, first=200)
    best = answer(ASKED, done)
    assert best is not None and best.is_baseline is not is_kept
    if not is_kept:
        assert (best.hits, best.attempts) == (2, 2), "what the baseline has shown is its evidence"


def test_a_pinned_horizon_is_not_stretched() -> None:
    pinned = replace(ASKED, space=ASKED.space.fix({"horizon.samples": 3000}, "pinned"))
    config = like_baseline(0.003)
    done = trials("race", config, "hh")
    assert confirm.current_candidate(pinned, done, ranked(done, stretch=1.0)) == config
    done += trials("confirm", config, "mm", first=50)
    assert confirm.current_candidate(pinned, done, ranked(done, stretch=1.0)) is None, "it was repaired"


def test_an_attempt_has_a_seed_of_its_own_and_both_sides_share_seeds() -> None:
    done = trials("baseline", BASELINE, "h") + trials("race", like_baseline(0.003), "hh", first=2)
    seeds: dict[str, list[int]] = {"confirm": [], "confirm_baseline": []}
    for _ in range(9):
        spec = next_confirmation(ASKED, done, PLENTY)
        assert spec is not None and spec.config is not None and spec.test
        seeds[spec.purpose].append(spec.config.seed)
        done.append(TrialRecord(spec, (), Ended(spec.trial, "hit", 0.2)))
    assert min(seeds["confirm"]) == 2**31
    assert seeds["confirm"] == list(range(2**31, 2**31 + len(seeds["confirm"])))
    assert seeds["confirm_baseline"] == seeds["confirm"][: len(seeds["confirm_baseline"])]


def test_a_cut_attempt_does_not_free_its_seed() -> None:
    done = trials("race", like_baseline(0.003), "hh") + confirmed(like_baseline(0.003), "c", seconds=0.01)
    spec = next_confirmation(ASKED, done, PLENTY)
    assert spec is not None and spec.config is not None and spec.config.seed == 2**31 + 1


def test_an_attempt_cut_by_the_end_of_the_budget_is_dropped_and_one_that_ran_on_and_on_is_a_miss() -> None:
    config = like_baseline(0.003)
    done = trials("race", config, "hh")
    early, late = confirmed(config, "hc", seconds=0.1), confirmed(config, "hc", seconds=5.0)
    assert COST.predict(config).seconds < 2.0
    best, other = answer(ASKED, done + early), answer(ASKED, done + late)
    assert best is not None and (best.hits, best.attempts) == (1, 1)
    assert other is not None and (other.hits, other.attempts) == (1, 2)


def test_an_attempt_needs_room_for_its_whole_course() -> None:
    config = like_baseline(0.003)
    done = trials("race", config, "hh", seconds=0.01)
    candidate = current_candidate(ASKED, done)
    assert candidate is not None
    course_s = COST.predict(candidate).seconds
    assert next_confirmation(ASKED, done, Left(1.2 * course_s, float("inf"), 0.5)) is None
    assert next_confirmation(ASKED, done, Left(1.3 * course_s, float("inf"), 0.5)) is not None
    assert next_confirmation(ASKED, done, Left(100.0, 1.0, 0.5)) is None
    assert next_confirmation(ASKED, done, Left(100.0, float("inf"), 0.0)) is None


def test_the_baseline_never_costs_the_first_five_attempts() -> None:
    asked = question(parse_budget("30 trials"))
    done = trials("baseline", BASELINE, "h") + trials("race", like_baseline(0.003), "h" * 22, first=2)
    left = left_of(asked, spent(5.0, done))
    purposes = []
    while (spec := next_confirmation(asked, done, left)) is not None:
        purposes.append(spec.purpose)
        done.append(TrialRecord(spec, (), Ended(spec.trial, "hit", 0.2)))
        left = left_of(asked, spent(5.0, done))
    assert len(purposes) == 7 and purposes.count("confirm") >= 5


def test_the_baselines_first_trial_counts_while_few_are_fresh() -> None:
    done = trials("baseline", BASELINE, "m", 1.0) + trials("confirm_baseline", BASELINE, "hh", 2.0, first=5)
    evidence = baseline_evidence(ASKED, done)
    assert (evidence.hits, evidence.attempts, evidence.times_s, evidence.ert_s) == (2, 3, (1.0, 2.0, 2.0), 2.5)
    assert evidence.trials == (1, 5, 6)
    done += trials("confirm_baseline", BASELINE, "h", 2.0, first=7)
    assert (baseline_evidence(ASKED, done).times_s, baseline_evidence(ASKED, done).trials) == ((2.0,) * 3, (5, 6, 7))


def test_a_baseline_that_was_only_cut_leaves_the_time_it_took() -> None:
    evidence = baseline_evidence(ASKED, trials("baseline", BASELINE, "c", 1.5))
    assert (evidence.attempts, evidence.cut_s) == (0, 1.5)


def test_the_answer_prefers_many_fresh_hits_to_a_candidate_with_few() -> None:
    proven, newcomer = like_baseline(0.003), like_baseline(0.004)
    done = trials("race", proven, "hh", 0.2) + trials("race", newcomer, "hh", 0.22, first=10)
    done += confirmed(proven, "hhhhhhhmm")
    candidate = current_candidate(ASKED, done)
    assert candidate is not None and candidate.optim.lr == 0.004
    done += trials("confirm", candidate, "m", first=200)
    best = answer(ASKED, done)
    assert best is not None and best.config.optim.lr == 0.003 and best.hits == 7


def test_without_any_hit_the_answer_is_the_nearest_miss_and_no_failure() -> None:
    def missed(trial: int, outcome: str, value: float | None) -> TrialRecord:
        spec = TrialSpec(trial, "reach", replace(like_baseline(0.001 * trial), seed=trial), ASKED.target)
        return TrialRecord(spec, (), Ended(trial, outcome, 1.0, value=value))

    done = [missed(1, "missed", 0.6), missed(2, "missed", 0.7), missed(3, "diverged", 0.8), missed(4, "oom", None)]
    best = answer(ASKED, done)
    assert best is not None and best.config.optim.lr == 0.002 and best.attempts == 0
    assert answer(ASKED, [missed(4, "oom", None)]) is None
