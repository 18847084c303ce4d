"""Confirmation: the best configurations race each other on fresh seeds, beside the baseline; and what may be claimed.

Only attempts made here count for the answer: attempts that helped to select it are no evidence for it. Pure
functions of the records; must not run anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoaccel.config import TrainerConfig
from autoaccel.search.attempts import standings
from autoaccel.search.knowledge import Ranked
from autoaccel.search.question import (
    HORIZON,
    MIN_CONFIRMATIONS,
    OVERRUN,
    SLACK,
    Left,
    Question,
    predict,
    share_of,
    slowed,
    with_horizon,
)
from autoaccel.trial import FAILURES, TrialRecord, TrialSpec

MOST_ATTEMPTS = 20
BASELINE_ATTEMPTS = 10
REPAIR = 1.25
"""A configuration that misses too often gets a horizon this much longer and another chance."""
_FEW_FRESH = 3
"""Fewer fresh attempts of the baseline than this, and its first training counts too."""
_FIRST_FRESH_SEED = 2**31
"""Search seeds stay below (see `question.seed_of`), so a confirmation seed was never searched on."""
_FRESH_SEEDS = 1_000_000
"""Of one study of a task: past confirmations are evidence for later ones, so none of their seeds is fresh again."""


@dataclass(frozen=True)
class Evidence:
    """What fresh seeds say of one configuration."""

    config: TrainerConfig
    attempts: int
    hits: int
    times_s: tuple[float, ...]
    """Training time of every attempt, hits and misses, in order."""
    hit_times_s: tuple[float, ...]
    test_values: tuple[float, ...] = ()
    is_baseline: bool = False
    cut_s: float = 0.0
    """The longest time it trained without a hit before it was cut; such a try is no attempt."""
    n_slowed: int = 0
    """Attempts whose times are corrected, because the machine was slower then."""
    trials: tuple[int, ...] = ()
    """Numbers of the trials that were the attempts."""

    @property
    def hit_rate(self) -> float:
        return self.hits / self.attempts if self.attempts else 0.0

    @property
    def believed_rate(self) -> float:
        """The hit rate after one pseudo-hit and one pseudo-miss."""
        return (self.hits + 1) / (self.attempts + 2)

    @property
    def believed_s(self) -> float:
        """Expected running time at that rate; infinite without an attempt."""
        return sum(self.times_s) / self.attempts / self.believed_rate if self.attempts else math.inf

    @property
    def ert_s(self) -> float:
        """Expected running time to the target; infinite without a hit."""
        return sum(self.times_s) / self.hits if self.hits else math.inf


def next_confirmation(
    question: Question,
    records: Sequence[TrialRecord],
    left: Left,
    ranked: Sequence[Ranked],
    running: Sequence[TrialRecord] = (),
) -> TrialSpec | None:
    """The next fresh-seed attempt at the best of `ranked` that stands, or None when enough is known or none fits.

    Seconds of records, of what is left and of its caps are those of the machine at its best (see `cost.drift`).
    `running` are attempts that run meanwhile; they count as attempts that will have been made.
    """
    question = slowed(question, left.slowdown)
    candidate = current_candidate(question, records, ranked)
    if candidate is None:
        return None
    begun = (*records, *running)
    baseline = _begun(_evidence_of(question, question.baseline, records, "confirm_baseline"), running)
    evidence = _begun(_evidence_of(question, candidate, records, "confirm"), running)
    if _baseline_is_due(question, records, evidence, baseline, left):
        return _attempt(question, begun, question.baseline, "confirm_baseline", left)
    if evidence.attempts >= MOST_ATTEMPTS:
        return None
    return _attempt(question, begun, candidate, "confirm", left)


def current_candidate(
    question: Question, records: Sequence[TrialRecord], ranked: Sequence[Ranked]
) -> TrainerConfig | None:
    """The best configuration that fresh seeds have not refuted: from the search, or a repair of a refuted one."""
    standing: list[tuple[float, TrainerConfig]] = []
    for entry in ranked:
        longer = HORIZON in question.space.paths and entry.config.identity != question.baseline.identity
        for repair in (1.0, REPAIR, REPAIR**2) if longer else (1.0,):
            config = with_horizon(entry.config, entry.stretch * repair * entry.config.horizon.samples)
            if not _refuted(question, _evidence_of(question, config, records, "confirm")):
                standing.append((entry.reliable_s * repair, config))
                break
    return min(standing, key=lambda pair: pair[0])[1] if standing else None


def answer(question: Question, records: Sequence[TrialRecord], ranked: Sequence[Ranked]) -> Evidence | None:
    """The configuration to return with its fresh evidence; None if nothing was ever trained.

    The candidate left standing, if fresh seeds hit often enough and often were asked; else the confirmed one whose hit
    rate is highest after one pseudo-hit and one pseudo-miss (2 of 2 is less than 9 of 10), unless the baseline, which
    may be an earlier answer, is expected to take less time; else the nearest miss.
    """
    candidate = current_candidate(question, records, ranked)
    confirmed = [_evidence_of(question, s.config, records, "confirm") for s in standings(records, ("confirm",))]
    if candidate is not None:
        evidence = _evidence_of(question, candidate, records, "confirm")
        enough = evidence.attempts >= MIN_CONFIRMATIONS and evidence.hit_rate >= question.hit_probability
        if enough or not confirmed:
            return evidence
    if confirmed:
        best = max(confirmed, key=lambda e: (e.believed_rate, -e.ert_s))
        baseline = baseline_evidence(question, records)
        return baseline if not best.is_baseline and baseline.believed_s < best.believed_s else best
    searched = [r for r in records if r.spec.config is not None and r.ended.value is not None]
    if not searched:
        return None
    sign = 1 if question.target.direction == "max" else -1
    nearest = max(searched, key=lambda r: (r.ended.outcome not in FAILURES, sign * (r.ended.value or 0.0)))
    assert nearest.spec.config is not None
    return _evidence_of(question, nearest.spec.config, records, "confirm")


def unconfirmed(question: Question, config: TrainerConfig) -> Evidence:
    """A configuration that was never run on a fresh seed."""
    return _evidence_of(question, config, (), "confirm")


def baseline_evidence(question: Question, records: Sequence[TrialRecord]) -> Evidence:
    """All attempts of the baseline: nothing was selected by them, so where there are few the first one counts too."""
    fresh = _evidence_of(question, question.baseline, records, "confirm_baseline")
    if fresh.attempts >= _FEW_FRESH:
        return fresh
    first = _evidence_of(question, question.baseline, records, "baseline")
    return replace(
        fresh,
        attempts=fresh.attempts + first.attempts,
        hits=fresh.hits + first.hits,
        times_s=first.times_s + fresh.times_s,
        hit_times_s=first.hit_times_s + fresh.hit_times_s,
        cut_s=max(first.cut_s, fresh.cut_s),
        n_slowed=first.n_slowed + fresh.n_slowed,
        trials=first.trials + fresh.trials,
    )


def _begun(evidence: Evidence, running: Sequence[TrialRecord]) -> Evidence:
    """With the attempts at its configuration that are still running."""
    identities = [r.spec.config.identity for r in running if r.spec.config is not None]
    return replace(evidence, attempts=evidence.attempts + identities.count(evidence.config.identity))


def _refuted(question: Question, evidence: Evidence) -> bool:
    """More misses than the wanted hit rate allows in 10 (or 20) attempts: 2 (or 3) at a rate of 0.9."""
    ceiling = 10 if evidence.attempts <= 10 else MOST_ATTEMPTS
    allowed = math.floor((1 - question.hit_probability) * ceiling + 1e-9)
    return evidence.attempts - evidence.hits > allowed


def _baseline_is_due(
    question: Question, records: Sequence[TrialRecord], tuned: Evidence, baseline: Evidence, left: Left
) -> bool:
    """Interleaved, one baseline attempt to three of the candidate (more when that has enough), and never at the cost
    of the candidate's first five."""
    if baseline.attempts >= BASELINE_ATTEMPTS:
        return False
    if baseline.attempts >= tuned.attempts // 3 and tuned.attempts < MOST_ATTEMPTS:
        return False
    if tuned.config.identity == question.baseline.identity:
        return False
    missing = max(0, MIN_CONFIRMATIONS - tuned.attempts)
    ours, theirs = predict(question, tuned.config), predict(question, question.baseline)
    seconds = max(_mean_s(records, question.baseline), theirs.seconds) + missing * ours.seconds
    flops = theirs.flops + missing * ours.flops
    need = share_of(question, seconds, flops, 1 + missing)
    return seconds * SLACK <= left.seconds and flops <= left.flops and need <= left.share


def _attempt(
    question: Question, records: Sequence[TrialRecord], config: TrainerConfig, purpose: str, left: Left
) -> TrialSpec | None:
    predicted = predict(question, config)
    # The whole course has to fit: if only a hit did, misses would be cut and forgotten.
    seconds = max(predicted.seconds, _mean_s(records, config))
    if seconds * SLACK > left.seconds or predicted.flops > left.flops or left.share <= 0:
        return None
    # Cut attempts count here too, so that no seed is used twice for one configuration.
    index = sum(
        r.spec.purpose == purpose and r.spec.config is not None and r.spec.config.identity == config.identity
        for r in records
    )
    seed = _FIRST_FRESH_SEED + question.past.generation * _FRESH_SEEDS + question.seed * 1_000 + index
    flops_cap = left.flops if math.isfinite(left.flops) else None
    return TrialSpec(
        trial=1 + max((r.spec.trial for r in records), default=0),
        purpose=purpose,
        config=replace(config, seed=seed),
        target=question.target,
        cap_s=min(left.seconds, OVERRUN * seconds + 1),
        cap_flops=flops_cap,
        test=True,
        note=f"fresh seed {index + 1}",
    )


def _mean_s(records: Sequence[TrialRecord], config: TrainerConfig) -> float:
    """Mean training time of its attempts in the search; 0 without any."""
    return next((s.mean_s for s in standings(records) if s.identity == config.identity), 0.0)


def _evidence_of(question: Question, config: TrainerConfig, records: Sequence[TrialRecord], purpose: str) -> Evidence:
    """Attempts made for one purpose. One that was cut after twice its predicted course is a miss, not forgotten."""
    tried = [
        r
        for r in records
        if r.spec.purpose == purpose and r.spec.config is not None and r.spec.config.identity == config.identity
    ]
    long_s = 2 * predict(question, config).seconds
    mine = [r for r in tried if r.is_attempt or (r.ended.outcome == "capped" and r.ended.elapsed_s >= long_s)]
    return Evidence(
        config=replace(config, seed=0),
        attempts=len(mine),
        hits=sum(r.hit for r in mine),
        times_s=tuple(r.ended.elapsed_s for r in mine),
        hit_times_s=tuple(r.ended.elapsed_s for r in mine if r.hit),
        test_values=tuple(r.ended.facts["test_value"] for r in mine if "test_value" in r.ended.facts),
        is_baseline=config.identity == question.baseline.identity,
        cut_s=max((r.ended.elapsed_s for r in tried if r not in mine), default=0.0),
        n_slowed=sum(r.slowdown > 1 for r in mine),
        trials=tuple(r.spec.trial for r in mine),
    )
