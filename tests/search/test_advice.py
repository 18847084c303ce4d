"""Decisions from curves: what is tried, cut, repeated and answered, and that the same curves give the same decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from autoaccel.search.acquisition import log_ert_gain
from autoaccel.search.advice import Models, Proposal, Setting, Variant, answer, book, incumbent, propose, should_stop
from autoaccel.search.book import deterministic
from autoaccel.search.evidence import Curve, bent
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

SPACE = Space(
    "test",
    (
        Knob(path="optim", choices=("adamw", "sgd")),
        Knob(path="lr", low=1e-4, high=1.0, log=True),
        Knob(path="batch", low=16, high=512, log=True, integer=True),
        Knob(path="momentum", low=0.0, high=0.99, when={"optim": "sgd"}),
    ),
)
DEFAULT = {"optim": "adamw", "lr": 1e-3, "batch": 64}
HORIZON = Knob(path="horizon", low=10, high=20_000, log=True, integer=True)


def seconds(params: object, horizon: float) -> float:
    assert isinstance(params, dict)
    return float(0.05 + horizon * (0.5 + 32 / params["batch"]) / 1000)


def setting(seed: int = 0, variant: Variant | None = None) -> Setting:
    return Setting(SPACE, HORIZON, 4000.0, DEFAULT, (), seconds, seed, variant or Variant())


def train(proposal: Proposal, seed: int, noise: float = 0.05, bar: float = 0.0) -> Curve:
    """A training of a made-up problem: evaluated ten times, ends at a hit or its cap."""
    rng, params = np.random.default_rng(seed), proposal.params
    best = math.log(3e-3 if params["optim"] == "adamw" else 0.1)
    luck = noise * rng.normal()
    samples, margins, at_s = [], [], 0.0
    for k in range(1, 11):
        n = proposal.horizon * k / 10
        at_s = seconds(params, n)
        if at_s > proposal.cap_s:
            return Curve(params, proposal.horizon, tuple(samples), tuple(margins), proposal.cap_s, "cut")
        off = math.log(params["lr"]) - best
        margin = 0.5 * math.log(n / 600) - 0.2 * off**2 - 0.4 * (1 - k / 10) + luck + 0.3 * noise * rng.normal() - bar
        samples.append(n)
        margins.append(bent(margin))
        if margin >= 0:
            return Curve(params, proposal.horizon, tuple(samples), tuple(margins), at_s, "hit")
    return Curve(params, proposal.horizon, tuple(samples), tuple(margins), at_s, "missed")


def study(n: int, known: Setting, noise: float = 0.05, bar: float = 0.0) -> tuple[list[Curve], list[Proposal]]:
    models = Models(known)
    curves: list[Curve] = []
    proposals: list[Proposal] = []
    for i in range(n):
        proposal = propose(known, models, curves, 1e6)
        assert proposal is not None
        proposals.append(proposal)
        curves.append(train(proposal, i, noise, bar))
    return curves, proposals


def test_finds_a_fast_configuration_and_claims_what_it_is() -> None:
    known = setting()
    curves, _ = study(40, known)
    params, horizon = answer(known, Models(known), curves)
    fresh = [train(Proposal(params, horizon, math.inf, 0.0, "repeat", ""), 10_000 + i) for i in range(100)]
    hits = sum(c.hit for c in fresh)
    assert hits >= 30
    ert_s = sum(c.seconds for c in fresh) / hits
    assert ert_s < 0.35 * known.full_s
    entries = book(known, Models(known).of(curves), curves)
    best = incumbent(entries)
    assert best is not None and best.ert_s == pytest.approx(ert_s, rel=0.5)


def test_the_same_curves_give_the_same_decision_whatever_was_cached() -> None:
    known = setting()
    curves, _ = study(14, known)
    warm = Models(known)
    for n in range(1, 14):
        propose(known, warm, curves[:n], 1e6)
    assert propose(known, warm, curves, 1e6) == propose(known, Models(known), curves, 1e6)
    assert answer(known, warm, curves) == answer(known, Models(known), curves)


def test_before_any_hit_the_answer_is_what_ended_nearest_to_the_target_at_full_length() -> None:
    known = setting()

    def seen(rate: float, margins: tuple[float, ...], outcome: str, horizon: float = 0.1) -> Curve:
        last = horizon * known.unit
        samples = tuple(last * (n + 1) / len(margins) for n in range(len(margins)))
        return Curve({**known.default, "lr": rate}, last, samples, margins, 1.0, outcome)

    cut, nothing = seen(0.1, (-0.1,), "cut"), seen(0.2, (), "failed")
    poor, good = seen(0.3, (-0.2, -0.9), "missed"), seen(0.4, (-2.0, -0.5), "missed")
    for curves, rate, horizon in (
        ([], known.default["lr"], 1.0),
        ([nothing], known.default["lr"], 1.0),
        ([nothing, cut], 0.1, 1.0),
        ([nothing, cut, poor], 0.3, 1.0),
        ([cut, poor, good], 0.4, 1.0),
        ([good, seen(0.5, (-0.3,), "missed", 1.5)], 0.5, 1.5),
    ):
        params, answered = answer(known, Models(known), curves)
        assert params == {**known.default, "lr": rate} and answered == horizon * known.unit
        short = replace(known, horizon=replace(HORIZON, high=500))
        assert answer(short, Models(short), curves) == (params, 500), "never beyond the range of the horizon"


def test_first_looks_are_a_rule_of_thumb_and_the_default_then_points_around_it() -> None:
    far = []
    for seed in range(40):
        known, curves = replace(setting(seed), recipes=({**DEFAULT, "lr": 1e-2},)), list[Curve]()
        for n in range(known.variant.n_initial):
            proposal = propose(known, Models(known), curves, 1e6)
            assert proposal is not None and proposal.purpose == "first"
            if n < 2:
                assert proposal.params == (known.recipes[0] if n == 0 else DEFAULT)
            else:
                far.append(abs(math.log10(proposal.params["lr"] / DEFAULT["lr"])))
            curves.append(Curve(proposal.params, proposal.horizon, (proposal.horizon,), (-1.0,), 1.0, "missed"))
    assert 0.5 * anywhere() < float(np.mean(far)) < 0.95 * anywhere(), "far from it, but nearer than random points"


def test_every_rule_of_thumb_is_looked_at_however_many_there_are() -> None:
    recipes = tuple({**DEFAULT, "lr": lr} for lr in (1e-2, 3e-2, 3e-3, 0.1, 0.3, 3e-4))
    known, curves = replace(setting(), recipes=recipes), list[Curve]()
    while (proposal := propose(known, Models(known), curves, 1e6)) is not None and proposal.purpose == "first":
        curves.append(Curve(proposal.params, proposal.horizon, (proposal.horizon,), (-1.0,), 1.0, "missed"))
    assert [c.params for c in curves] == [recipes[0], DEFAULT, *recipes[1:]]


def anywhere() -> float:
    """Mean distance of even draws of the learning rate from the default."""
    known = setting()
    knob = next(k for k in known.space.knobs if k.path == "lr")
    return float(np.mean([abs(math.log10(knob.from_unit(u) / DEFAULT["lr"])) for u in np.linspace(0.0, 1.0, 101)]))


def test_the_seed_matters() -> None:
    curves, _ = study(10, setting())
    first, second = (propose(setting(s), Models(setting(s)), curves, 1e6) for s in (0, 1))
    assert first is not None and second is not None and first.params != second.params


def test_a_race_is_a_bet_to_beat_the_incumbent() -> None:
    known = setting()
    curves, proposals = study(40, known)
    races = [(i, p) for i, p in enumerate(proposals) if p.purpose == "race"]
    assert len(races) > 10
    for i, proposal in races:
        best = incumbent(book(known, Models(known).of(curves[:i]), curves[:i]))
        assert best is not None
        assert proposal.reference_s == pytest.approx(best.ert_s) and math.isinf(proposal.cap_s)
        assert seconds(proposal.params, proposal.horizon) <= best.ert_s * 1.001


def test_horizons_grow_while_nothing_hits() -> None:
    """The target is out of reach of short trainings: nobody waits for ever at the first horizons."""
    known = setting()
    _, proposals = study(30, known, bar=1.2)
    durations = [seconds(p.params, p.horizon) for p in proposals]
    assert max(durations[:6]) < 0.2 * known.full_s
    assert max(durations[6:]) > 1.0 * known.full_s


def test_trainings_that_are_slow_to_start_do_not_end_the_reach() -> None:
    """The shortest training takes longer than a first look should: the budget is there to be used all the same."""

    def slow_start(params: object, horizon: float) -> float:
        return 5.0 + seconds(params, horizon)

    known = replace(setting(), seconds=slow_start)
    curves = [Curve(DEFAULT, 10.0, (10.0,), (-2.0,), 5.0, "missed")] * 6
    proposal = propose(known, Models(known), curves, 30.0)
    assert proposal is not None and proposal.purpose == "reach"
    assert (
        5.0 < slow_start(proposal.params, proposal.horizon) <= 2.0 * slow_start({**DEFAULT, "batch": 512}, 10.0) * 1.001
    )
    assert propose(known, Models(known), curves, 5.0) is None


def test_before_the_first_hit_a_long_training_that_hits_is_worth_more_than_short_ones_that_rarely_do() -> None:
    known = setting()
    model = Models(known).of([])
    mean = model.scales.aleatoric_sd * np.array([-1.5, 1.5])  # hits 7 % and 93 % of the time
    log_s, sd = np.log([0.2, 1.0]), np.array([1e-6, 1e-6])
    if_known = log_ert_gain(model, mean, sd, log_s, math.log(10.0))
    if_hit = log_ert_gain(model, mean, sd, log_s, math.log(10.0), if_hit=True)
    assert if_known[0] / 0.2 > if_known[1] / 1.0 and if_hit[0] / 0.2 < if_hit[1] / 1.0
    assert if_hit == pytest.approx(if_known * ndtr([-1.5, 1.5]), rel=1e-3)


def test_the_rules_of_thumb_come_first_and_without_any_the_default() -> None:
    rule = {"optim": "sgd", "lr": 0.3, "batch": 64, "momentum": 0.9}
    for known, first in ((setting(), DEFAULT), (replace(setting(), recipes=(rule,)), rule)):
        proposal = propose(known, Models(known), [], 100.0)
        assert proposal is not None and proposal.params == first and proposal.purpose == "first"
        beyond_start_s = seconds(first, proposal.horizon) - seconds(first, 0.0)
        assert beyond_start_s == pytest.approx(0.1 * known.full_s, rel=0.01)


def test_nothing_is_proposed_that_does_not_fit() -> None:
    known = setting()
    curves, _ = study(12, known)
    for left_s in (0.5, 0.2, 0.1):
        proposal = propose(known, Models(known), curves, left_s)
        assert proposal is None or seconds(proposal.params, proposal.horizon) <= left_s * 1.001
    assert propose(known, Models(known), curves, 0.01) is None  # shorter than the shortest training
    assert propose(known, Models(known), curves, 0.0) is None


def test_a_hopeless_training_is_stopped_and_a_good_one_is_not() -> None:
    known = setting()
    curves, _ = study(25, known)
    models = Models(known)
    proposal = propose(known, models, curves, 1e6)
    assert proposal is not None
    n = tuple(proposal.horizon * k / 10 for k in range(1, 6))
    at_s = seconds(proposal.params, n[-1])
    best = max(c.margins[-1] for c in curves)
    good = Curve(proposal.params, proposal.horizon, n, tuple(best - 0.1 * (5 - k) for k in range(5)), at_s, "running")
    bad = replace(good, margins=(-2.0,) * 5)
    if proposal.purpose != "repeat":
        assert should_stop(known, models, curves, bad, proposal)
    assert not should_stop(known, models, curves, good, proposal)
    assert not should_stop(known, models, curves, bad, replace(proposal, purpose="repeat"))


def test_running_trainings_spread_the_next_ones() -> None:
    known = setting()
    curves, _ = study(15, known)
    models = Models(known)
    running: list[Curve] = []
    points = []
    for _ in range(3):
        proposal = propose(known, models, curves, 1e6, running)
        assert proposal is not None
        points.append((tuple(sorted(proposal.params.items())), proposal.horizon))
        running.append(Curve(proposal.params, proposal.horizon, (), (), 0.0, "running"))
    assert len(set(points)) == 3


def one(hit: bool, luck: float, params: dict[str, object], seconds_s: float = 1.0) -> Curve:
    return Curve(params, 1000.0, (500.0, 1000.0), (-0.3 + luck, luck), seconds_s, "hit" if hit else "missed")


def test_one_lucky_hit_is_not_the_incumbent() -> None:
    """Nine misses and a hit at half the time lose against four hits of four."""
    fast, sure = {"optim": "adamw", "lr": 0.5, "batch": 512}, {"optim": "adamw", "lr": 3e-3, "batch": 64}
    curves = [one(False, -0.3 - 0.01 * i, fast, 0.5) for i in range(9)] + [one(True, 0.01, fast, 0.5)]
    curves += [one(True, 0.2 + 0.01 * i, sure, 1.0) for i in range(4)]
    known = setting()
    best = incumbent(book(known, Models(known).of(curves), curves))
    assert best is not None and best.params == sure and best.p_hit > 0.7


def test_without_the_book_the_luckiest_hit_wins() -> None:
    fast, sure = {"optim": "adamw", "lr": 0.5, "batch": 512}, {"optim": "adamw", "lr": 3e-3, "batch": 64}
    curves = [one(False, -0.3, fast, 0.5)] * 9 + [one(True, 0.01, fast, 0.5)] + [one(True, 0.2, sure, 1.0)] * 4
    known = setting(variant=Variant(book=False))
    best = incumbent(book(known, Models(known).of(curves), curves))
    assert best is not None and best.params == fast


def test_repeats_end_where_seeds_change_nothing() -> None:
    same: Sequence[Curve] = [one(True, 0.01, DEFAULT), one(True, 0.01, DEFAULT)]
    assert deterministic(same)
    assert not deterministic([one(True, 0.01, DEFAULT), one(True, 0.02, DEFAULT)])
    assert not deterministic([one(True, 0.01, DEFAULT)])


@pytest.mark.parametrize("changes", [{"horizon": False}, {"cost": True}, {"recipes": False}])
def test_every_part_changes_what_is_tried(changes: dict[str, bool]) -> None:
    as_it_is, _ = study(10, setting())
    other, _ = study(10, setting(variant=replace(Variant(), **changes)))
    assert [(c.params, c.horizon) for c in as_it_is] != [(c.params, c.horizon) for c in other]


@pytest.mark.parametrize("changes", [{"variant": Variant(cap=True)}, {"pinned": True}])
def test_a_race_is_cut_where_that_is_asked_or_its_horizon_is_not_chosen(changes: dict[str, Any]) -> None:
    _, proposals = study(20, replace(setting(), **changes))
    races = [p for p in proposals if p.purpose == "race"]
    assert races and all(p.cap_s == p.reference_s for p in races)


def test_without_stopping_trainings_run_their_course() -> None:
    known = setting(variant=Variant(censored=False))
    curves, proposals = study(15, known)
    assert all(math.isinf(p.cap_s) for p in proposals if p.purpose != "repeat")
    hopeless = Curve(proposals[-1].params, proposals[-1].horizon, (10.0,), (-3.0,), 0.1, "running")
    assert not should_stop(known, Models(known), curves, hopeless, proposals[-1])
