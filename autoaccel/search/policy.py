"""What a study does next: the baseline, then what the model proposes, as long as that fits beside the reserve for
confirmation and gains something. A pure decision from the records; nothing else is remembered, so that a killed study
goes on where it was. Must not run anything or read a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoaccel.budget import Spent
from autoaccel.config import TrainerConfig
from autoaccel.search.attempts import Standing, standings
from autoaccel.search.knowledge import Knowledge, Ranked
from autoaccel.search.question import (
    HORIZON,
    MIN_CONFIRMATIONS,
    OVERRUN,
    SLACK,
    Left,
    Question,
    longest_horizon,
    predict,
    seed_of,
    share_of,
    slowed,
    with_horizon,
)
from autoaccel.search.setting import Proposal
from autoaccel.search.translate import bet_of
from autoaccel.trial import LOST, SEARCHING, TrialRecord, TrialSpec

RESERVE_SHARE, RESERVE_MOST = 0.15, 0.4
"""Share of the budget kept for confirmation, and the most it may grow to where attempts are expensive."""
REACH_SHARE = 0.5
"""Before the first hit, a trial takes at most this share of what is left, so that a hit can be confirmed; inside the
last `RESERVE_SHARE` of the budget it may take everything."""
WORTH = 0.01
"""The search ends when all that is left is expected to improve log ERT by less."""
_PATIENCE, _FEWEST = 8, 12
"""Latest trials whose expected gains say whether it is worth going on, and the fewest trials before that is asked."""
_PATIENCE_KNOWING = 4
"""The same where trainings of an earlier study are known, which count among the fewest too: the model has settled."""


@dataclass(frozen=True)
class Decision:
    """The next trial of the search, or None and why the search is over."""

    spec: TrialSpec | None
    why: str = ""


def next_trial(
    knowledge: Knowledge, records: Sequence[TrialRecord], left: Left, running: Sequence[TrialRecord] = ()
) -> Decision:
    """The next trial of the search stages; its caps are seconds of the machine at its best, as all others here.

    Args:
        knowledge: of the study; gives the same answer whenever it is made from the same records.
        records: all trials that have ended, corrected (see `cost.drift`).
        left: what may be spent, running trials already charged.
        running: search trials that run meanwhile (see `translate.as_running`).
    """
    question = slowed(knowledge.question, left.slowdown)
    number = 1 + max((r.spec.trial for r in (*records, *running)), default=0)
    cut = ("stopped", "interrupted", LOST)
    if not any(r.spec.purpose == "baseline" and r.ended.outcome not in cut for r in (*records, *running)):
        return _baseline(question, left, number)
    ranked = knowledge.ranked(records)
    search_left = _search_left(question, standings(records), left)
    if search_left.share <= 0 or search_left.seconds <= 0 or search_left.flops <= 0:
        return Decision(None, "the part of the budget that is for searching is used up")
    proposal = knowledge.proposal(records, running, _longest_s(question, search_left, bool(ranked)))
    spec = None
    if proposal is not None:
        config = knowledge.config(records, proposal.params, proposal.horizon)
        spec = _admitted(question, _spec(question, proposal, config, ranked, number), search_left)
    if proposal is None or spec is None:
        return Decision(None, "no further trial fits into what is left for searching")
    if not question.use_all_budget and is_idle(question, records, proposal, search_left):
        return Decision(None, f"going on would gain less than {WORTH:.0%} (expected)")
    return Decision(spec)


def reserve_share(question: Question, book: Sequence[Standing]) -> float:
    """Share of the budget to keep for confirming the best against the baseline; nothing before there is a hit."""
    if not any(s.hits for s in book):
        return 0.0
    tuned = next((s for s in book if s.hits and not s.is_baseline), None)
    baseline = next((s for s in book if s.is_baseline), None)
    need = (MIN_CONFIRMATIONS + 3) * _cost_share(question, tuned) + 2 * _cost_share(question, baseline)
    return min(RESERVE_MOST, max(RESERVE_SHARE, SLACK * need))


def _search_left(question: Question, book: Sequence[Standing], left: Left) -> Left:
    """What the search stages may spend: all but the reserve."""
    reserve = reserve_share(question, book)
    budget = question.budget
    limit_s = budget.seconds_left(Spent(), question.n_devices)
    seconds = left.seconds - reserve * limit_s if math.isfinite(limit_s) else left.seconds
    flops = left.flops - reserve * budget.flops if budget.flops else left.flops
    # Predictions are of trainings that are alone.
    return Left(seconds / question.crowded, flops, left.share - reserve, left.slowdown)


def _longest_s(question: Question, left: Left, has_hit: bool) -> float:
    """Predicted seconds a trial may take; where the budget is FLOPs, those of the baseline's rate."""
    seconds = left.seconds / SLACK
    if math.isfinite(left.flops):
        full = predict(question, question.baseline)
        seconds = min(seconds, left.flops / full.flops * full.seconds)
    return seconds if has_hit or left.share <= RESERVE_SHARE else REACH_SHARE * seconds


def _baseline(question: Question, left: Left, number: int) -> Decision:
    """The first trial. Cut at 40 % of what is left where the budget is too small for it: then the ratio is a bound."""
    if min(left.seconds, left.flops, left.share) <= 0:
        return Decision(None, "the budget was over before the search began")
    config = replace(question.baseline, seed=seed_of(question, number))
    cap_s, cap_flops = _generous(question, config)
    cap_s, cap_flops = min(0.4 * left.seconds, cap_s), min(0.4 * left.flops, cap_flops)
    return Decision(
        TrialSpec(
            trial=number,
            purpose="baseline",
            config=config,
            target=question.target,
            cap_s=_or_none(cap_s),
            cap_flops=_or_none(cap_flops),
            note="what the answer is compared with",
        )
    )


def _spec(
    question: Question, proposal: Proposal, config: TrainerConfig, ranked: Sequence[Ranked], number: int
) -> TrialSpec:
    config = replace(config, seed=seed_of(question, number))
    cap_s, cap_flops = _generous(question, config)
    return TrialSpec(
        trial=number,
        purpose=proposal.purpose,
        config=config,
        target=question.target,
        cap_s=proposal.cap_s if math.isfinite(proposal.cap_s) else cap_s,
        cap_flops=_or_none(cap_flops),
        note=proposal.why,
        bet=bet_of(proposal, ranked[0].trial if ranked else None),
    )


def _admitted(question: Question, spec: TrialSpec, left: Left) -> TrialSpec | None:
    """The spec with its caps inside what is left, if need be a little shorter; None if it does not fit."""
    assert spec.config is not None
    config, predicted = spec.config, predict(question, spec.config)
    if min(predicted.seconds, spec.cap_s or math.inf) > left.seconds / SLACK or predicted.flops > left.flops:
        samples = longest_horizon(question, config, left.seconds / SLACK, left.flops)
        if HORIZON not in question.space.paths or samples < 0.5 * config.horizon.samples:
            return None
        config = with_horizon(config, samples)
    cap_s = min(spec.cap_s or math.inf, left.seconds)
    cap_flops = min(spec.cap_flops or math.inf, left.flops)
    return replace(spec, config=config, cap_s=_or_none(cap_s), cap_flops=_or_none(cap_flops))


def is_idle(question: Question, records: Sequence[TrialRecord], proposal: Proposal, left: Left) -> bool:
    """Whether the best of the latest bets, in every trial that still fits, would gain next to nothing.

    Where the horizon is pinned the model cannot say: it knows no time to the target other than the horizon.
    """
    bets, n_past = [r for r in records if r.spec.purpose == "race"], len(question.past.trainings)
    n_known = n_past + sum(r.spec.purpose in SEARCHING for r in records)
    patience = _PATIENCE_KNOWING if n_past else _PATIENCE
    if HORIZON not in question.space.paths or proposal.purpose != "race":
        return False
    if len(bets) < patience or n_known < _FEWEST:
        return False
    latest = bets[-patience:]
    share = share_of(
        question,
        sum(r.wall_s for r in latest) / len(latest),
        sum(r.ended.flops for r in latest) / len(latest),
    )
    n_fit = question.n_slots * left.share / share if share > 0 else math.inf
    gains: list[float] = [proposal.gain, *(r.spec.bet["gain"] for r in latest)]
    return n_fit * max(gains) < WORTH


def _generous(question: Question, config: TrainerConfig) -> tuple[float, float]:
    """Caps in seconds and FLOPs for a trial that should run to its horizon."""
    predicted = predict(question, config)
    return OVERRUN * predicted.seconds + 1.0, SLACK * predicted.flops or math.inf


def _or_none(limit: float) -> float | None:
    return limit if math.isfinite(limit) else None


def _cost_share(question: Question, standing: Standing | None) -> float:
    if standing is None or not standing.attempts:
        return 0.0
    return share_of(question, standing.mean_s, standing.flops / standing.attempts)
