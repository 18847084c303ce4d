"""Decisions one at a time: what comes next, how long it may be, what is kept back, and when it is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from autoaccel.budget import Spent, parse_budget
from autoaccel.config import TrainerConfig, to_params, with_params
from autoaccel.errors import UsageError
from autoaccel.search.attempts import standings
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.lessons import lessons
from autoaccel.search.policy import RESERVE_MOST, RESERVE_SHARE, WORTH, Decision, is_idle, next_trial, reserve_share
from autoaccel.search.question import HORIZON, Left, Question, config_at, left_of, longest_horizon, predict
from autoaccel.search.setting import Proposal
from autoaccel.search.translate import as_running, curve_of, proposal_of, setting_of
from autoaccel.space.files import load_space
from autoaccel.trial import Ended, Report, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, COST, question

ASKED = question(parse_budget("60s"))
PLENTY = Left(55.0, math.inf, 0.9)


def record(spec: TrialSpec, outcome: str, seconds: float, value: float = 0.5) -> TrialRecord:
    assert spec.config is not None
    samples = spec.config.horizon.samples
    reports = (Report(spec.trial, seconds, samples, 10, 1e8, value, 0.1),)
    ended = Ended(spec.trial, outcome, seconds, samples=samples, flops=1e8, value=value)
    return TrialRecord(spec, reports, ended, wall_s=seconds)


def baseline_hit(seconds: float = 1.0) -> list[TrialRecord]:
    spec = TrialSpec(1, "baseline", replace(BASELINE, seed=1), ASKED.target, note="baseline")
    return [record(spec, "hit", seconds, 0.87)]


def decided(
    done: Sequence[TrialRecord], left: Left = PLENTY, asked: Question = ASKED, running: Sequence[TrialRecord] = ()
) -> Decision:
    return next_trial(Knowledge(asked), done, left, running)


def following(done: Sequence[TrialRecord], left: Left = PLENTY, asked: Question = ASKED) -> TrialSpec:
    spec = decided(done, left, asked).spec
    assert spec is not None
    return spec


def config_of(spec: TrialSpec) -> TrainerConfig:
    assert spec.config is not None
    return spec.config


def test_the_baseline_comes_first_and_again_if_it_was_cut_off() -> None:
    first = following([])
    assert (first.trial, first.purpose) == (1, "baseline")
    assert replace(config_of(first), seed=0) == BASELINE
    assert following([record(first, "interrupted", 1.0)]).purpose == "baseline"
    assert following([record(first, "stopped", 1.0)]).purpose == "baseline"
    assert following([record(first, "capped", 1.0)]).purpose == "first"


@pytest.mark.parametrize("outcome", ["hit", "missed"])
def test_first_looks_are_short_and_begin_with_the_recipes(outcome: str) -> None:
    done = [record(following([]), outcome, 1.0, 0.87 if outcome == "hit" else 0.5)]
    looks = []
    for _ in range(5):
        spec = following(done)
        assert spec.purpose == "first" and COST.predict(config_of(spec)).seconds < 0.2 * COST.predict(BASELINE).seconds
        looks.append(config_of(spec))
        done.append(record(spec, "missed", 0.1))
    assert [c.optim.lr for c in looks] == [1e-2, BASELINE.optim.lr, 0.1, 3e-2, 3e-3]
    notes = ["rule of thumb", "default recipe, annealed early", *["rule of thumb"] * 3]
    assert [r.spec.note for r in done[1:]] == notes
    assert following(done).purpose == ("race" if outcome == "hit" else "reach")


def test_recipes_that_differ_in_nothing_that_is_searched_are_tried_once() -> None:
    pinned = replace(ASKED, space=ASKED.space.fix({"optim.lr": 2e-3}, "pinned"))
    points = setting_of(pinned).recipes
    assert len(pinned.space.recipes) == 4 and [p["optim.name"] for p in points] == ["adamw", "sgd"]


def test_while_the_last_look_runs_the_next_trial_already_races_the_baseline() -> None:
    done = baseline_hit()
    for _ in range(4):
        done.append(record(following(done), "missed", 0.1))
    last = following(done)
    assert last.purpose == "first"
    beside = Knowledge(ASKED).proposal(done, [as_running(last, [])], 50.0)
    assert beside is not None and beside.purpose in ("race", "repeat") and beside.reference_s < 2.0


def test_a_look_that_hits_ends_the_looks_and_is_raced() -> None:
    done = baseline_hit()
    spec = following(done)
    done.append(record(spec, "hit", 0.1, 0.87))
    after = following(done)
    assert after.purpose in ("race", "repeat")
    assert after.bet["against"] == spec.trial


def test_a_race_is_planned_to_beat_the_time_of_the_best() -> None:
    done = baseline_hit(seconds=1.0)
    for _ in range(6):
        done.append(record(following(done), "missed", 0.1, 0.8))
    spec = following(done)
    assert spec.purpose == "race" and spec.bet["reference_s"] == pytest.approx(1.0, rel=0.3)
    assert predict(ASKED, config_of(spec)).seconds <= spec.bet["reference_s"]


def test_equal_records_give_equal_decisions_whatever_was_asked_before() -> None:
    knowledge, done = Knowledge(ASKED), baseline_hit()
    for _ in range(12):
        spec = next_trial(knowledge, done, PLENTY).spec
        assert spec is not None and spec == following(done)
        assert knowledge.ranked(done) == Knowledge(ASKED).ranked(done)
        done.append(record(spec, "hit" if spec.trial % 4 == 0 else "missed", 0.2, 0.87 if spec.trial % 4 == 0 else 0.7))


def test_a_spec_remembers_its_proposal() -> None:
    done = baseline_hit()
    for _ in range(6):
        done.append(record(following(done), "missed", 0.1, 0.8))
    knowledge = Knowledge(ASKED)
    proposal = knowledge.proposal(done, (), 40.0)
    spec = TrialSpec.from_json(following(done).to_json())
    setting = setting_of(ASKED)
    again = proposal_of(setting, spec)
    assert proposal is not None
    for name in ("rate", "goal", "reference_s", "gain", "purpose", "why"):
        assert getattr(again, name) == getattr(proposal, name)
    assert knowledge.config(done, again.params, again.horizon) == replace(config_of(spec), seed=0)


def test_a_trial_that_runs_is_not_proposed_again() -> None:
    done = baseline_hit()
    for _ in range(7):
        done.append(record(following(done), "missed", 0.1, 0.8))
    first = following(done)
    second = decided(done, running=[as_running(first, ())]).spec
    assert second is not None and second.trial == first.trial + 1
    assert config_of(second).identity != config_of(first).identity


def test_seconds_are_learned_from_what_trials_took() -> None:
    knowledge = Knowledge(ASKED)
    done = baseline_hit(seconds=COST.predict(BASELINE).seconds * 3)
    plain, learned = knowledge.setting([]), knowledge.setting(done)
    assert learned.seconds(learned.default, 15000) == pytest.approx(3 * plain.seconds(plain.default, 15000))
    wild = knowledge.setting(baseline_hit(seconds=1e6))
    assert wild.seconds(wild.default, 15000) < 10 * plain.seconds(plain.default, 15000), "one odd time ruled it all"


def test_a_curve_is_what_a_training_showed() -> None:
    setting = setting_of(ASKED)
    curve = curve_of(ASKED, setting, baseline_hit()[0])
    assert curve.outcome == "hit" and curve.margins[-1] > 0 and curve.samples == (15000.0,)
    assert HORIZON not in curve.params and curve.params["optim.weight_decay"] == 1e-6, "outside of the space"
    for outcome, name in (("capped", "cut"), ("stopped", "cut"), ("oom", "failed"), ("missed", "missed")):
        assert curve_of(ASKED, setting, replace(baseline_hit()[0], ended=Ended(1, outcome))).outcome == name


# ---------------------------------------------------------------------------------------------------- pinned and narrow


def test_a_pinned_horizon_races_under_its_cap_alone() -> None:
    pinned = replace(ASKED, space=ASKED.space.fix({HORIZON: 15000}, "pinned"))
    done = baseline_hit(1.0)
    for _ in range(9):
        spec = following(done, asked=pinned)
        assert config_of(spec).horizon.samples == 15000
        done.append(record(spec, "missed", 0.9))
    races = [r.spec for r in done if r.spec.purpose == "race"]
    assert races and all(spec.cap_s is not None and spec.cap_s <= spec.bet["reference_s"] for spec in races)


def test_what_the_baseline_has_under_a_condition_does_not_outlive_it() -> None:
    """Its mixup exists where samples are shuffled: elsewhere the two would be no config."""
    baseline = with_params(BASELINE, {"augment.mixup": 0.2, "optim.momentum": 0.95})
    space = load_space("survey").in_samples(1000)
    asked = replace(ASKED, baseline=baseline, space=space)
    easy = config_at(asked, {"data.sampling": "uniform", "data.order": "easy_to_hard"})
    assert easy.augment.mixup == 0.0
    assert config_at(asked, {"data.order": "shuffled", "augment.mixup": 0.4}).augment.mixup == 0.4
    minimal = replace(ASKED, baseline=baseline)
    assert config_at(minimal, {"optim.name": "adamw"}).optim.momentum == 0.95, "nothing the space has a condition for"


def test_what_is_pinned_may_make_points_impossible_and_the_search_avoids_them() -> None:
    """Pinned, the budget no longer says that it needs a model without checkpointing."""
    space = load_space("survey").in_samples(1000).narrow("batch.size", 1, 1000).narrow("horizon.samples", 1, 60_000)
    space = space.fix({"compile.mode": "default", "memory.budget": 0.5}, "pinned")
    asked = replace(ASKED, baseline=with_params(BASELINE, {"compile.mode": "default"}), space=space)
    with pytest.raises(UsageError, match="both decide"):
        config_at(asked, {**space.fixed, "memory.checkpointing": "full"})
    done = [record(following([], asked=asked), "hit", 1.0)]
    for _ in range(25):
        spec = following(done, asked=asked)
        assert config_of(spec).memory.checkpointing == "none"
        done.append(record(spec, "missed", 0.1, 0.8))


@pytest.mark.parametrize("searched", ["horizon.samples", "schedule.warmup"])
def test_what_the_space_does_not_search_stays_as_in_the_baseline(searched: str) -> None:
    baseline = replace(BASELINE, batch=replace(BASELINE.batch, accumulation=2))
    knobs = tuple(k for k in ASKED.space.knobs if k.path == searched)
    asked = replace(ASKED, baseline=baseline, space=replace(ASKED.space, knobs=knobs, fixed={}))
    done = [record(following([], asked=asked), "missed", 1.0)]
    for _ in range(9):
        spec = following(done, asked=asked)
        ours, theirs = to_params(config_of(spec)), to_params(baseline)
        assert {p for p in ours if ours[p] != theirs[p]} <= {searched, "seed"}
        done.append(record(spec, "missed", 1.0))


# --------------------------------------------------------------------------------------------------------- what is left


@pytest.mark.parametrize("left", [Left(0.0, math.inf, 0.5), Left(9.0, 0.0, 0.5), Left(9.0, math.inf, 0.0)])
def test_nothing_begins_when_something_is_used_up(left: Left) -> None:
    assert decided([], left).spec is None
    decision = decided(baseline_hit(), left)
    assert decision.spec is None and "used up" in decision.why


def test_nothing_begins_that_does_not_fit() -> None:
    done = baseline_hit()
    reserve_s = 60 * reserve_share(ASKED, standings(done))
    assert decided(done, Left(reserve_s + 0.01, math.inf, 0.5)).spec is None


def test_caps_lie_inside_what_is_left() -> None:
    done = baseline_hit(50.0)
    spec = following(done, Left(60 * RESERVE_MOST + 1.0, 1e12, 0.9))
    assert spec.cap_s is not None and spec.cap_s <= 1.0 and spec.cap_flops is not None


def test_the_reserve_grows_with_what_an_attempt_costs() -> None:
    assert reserve_share(ASKED, standings(baseline_hit(0.1))) == RESERVE_SHARE
    assert RESERVE_SHARE < reserve_share(ASKED, standings(baseline_hit(6.0))) < RESERVE_MOST
    assert reserve_share(ASKED, standings(baseline_hit(59.0))) == RESERVE_MOST


def test_without_a_hit_nothing_is_kept_back() -> None:
    done = [record(following([]), "missed", 1.0)]
    assert reserve_share(ASKED, standings(done)) == 0.0
    assert following(done, Left(2.0, math.inf, 0.03)).purpose == "first"


def test_what_is_left_keeps_time_for_the_answer() -> None:
    left = left_of(ASKED, Spent(seconds=20.0, flops=1e9))
    assert (left.seconds, left.flops, left.share) == (39.0, math.inf, pytest.approx(2 / 3))


@pytest.mark.parametrize("flops", [3e10, 5e9])
def test_a_flop_budget_alone_bounds_what_is_proposed(flops: float) -> None:
    asked = replace(ASKED, budget=parse_budget("1e11FLOPs"), baseline=replace(BASELINE))
    done = [record(following([], asked=asked), "missed", 1.0)]
    for _ in range(10):
        spec = decided(done, Left(math.inf, flops, flops / 1e11), asked).spec
        if spec is None:
            break
        assert COST.predict(config_of(spec)).flops <= flops and spec.cap_flops is not None and spec.cap_flops <= flops
        done.append(record(spec, "missed", 1.0))
    assert len(done) > 3


def test_the_longest_horizon_is_the_longest_that_fits() -> None:
    for seconds in (0.05, 0.3, 0.777, 1.0):
        samples = longest_horizon(ASKED, BASELINE, seconds)
        assert cost_s(samples) <= seconds < cost_s(samples + BASELINE.batch.size)
    assert longest_horizon(ASKED, BASELINE, 1e9) == BASELINE.horizon.samples
    assert longest_horizon(ASKED, BASELINE, 1e-6) == 0
    assert longest_horizon(ASKED, BASELINE, 1e9, flops=1e6) == 0


def cost_s(samples: int) -> float:
    config: TrainerConfig = replace(BASELINE, horizon=replace(BASELINE.horizon, samples=samples))
    return COST.predict(config).seconds


# ------------------------------------------------------------------------------------------------------ enough, and why


def raced(gain: float, n: int = 20) -> tuple[list[TrialRecord], Proposal]:
    """A study in which every bet was expected to gain as much, and the next one that is."""
    proposal = Proposal({}, 100.0, 1.0, 0.1, "race", "expected gain", gain=gain)
    config = replace(BASELINE, horizon=replace(BASELINE.horizon, samples=3000))
    bets = [TrialSpec(i, "race", replace(config, seed=i), ASKED.target, bet={"gain": gain}) for i in range(2, n)]
    return [*baseline_hit(), *(record(spec, "missed", 0.2) for spec in bets)], proposal


def test_a_search_is_idle_when_all_that_fits_gains_next_to_nothing() -> None:
    fits = 60 * 0.5 / 0.2  # trials of 0.2 s in half of 60 s
    for gain, idle in ((0.9 * WORTH / fits, True), (1.1 * WORTH / fits, False)):
        done, proposal = raced(gain)
        assert is_idle(ASKED, done, proposal, Left(30.0, math.inf, 0.5)) is idle
    done, proposal = raced(0.0)
    assert not is_idle(ASKED, done, replace(proposal, gain=0.1), PLENTY), "the next one promises more"
    assert not is_idle(ASKED, raced(0.0, n=8)[0], proposal, PLENTY), "too few trials to say"
    assert not is_idle(ASKED, done, replace(proposal, purpose="repeat"), PLENTY)
    pinned = replace(ASKED, space=ASKED.space.fix({HORIZON: 15000}, "pinned"))
    assert not is_idle(pinned, done, proposal, PLENTY), "the model cannot say"


def test_lessons_name_every_trial_that_became_the_best() -> None:
    done = baseline_hit()
    for outcome in ("missed", "hit", "hit", "missed", "missed"):
        spec = following(done)
        done.append(record(spec, outcome, 0.1, 0.9 if outcome == "hit" else 0.4))
    found = lessons(done, Knowledge(ASKED).ranked(done))
    assert found[0].trial == 1 and found[0].purpose == "baseline"
    assert len(found) >= 2 and found[-1].trial == Knowledge(ASKED).ranked(done)[0].trial
    assert [x.known_after for x in found] == sorted(x.known_after for x in found)
