"""The numbers of a finished tuning: hit rate, expected time to the target, speed-up, each with its interval.

What is stated was calibrated on simulated studies (benchmarks/calibration). Pure; the terminal and `result.json` show
the same values. Must not know how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoaccel.config import to_params
from autoaccel.report.verdicts import verdicts
from autoaccel.search.confirm import Evidence
from autoaccel.search.explain import KnobEffect
from autoaccel.search.extrapolate import Extrapolation
from autoaccel.search.question import MIN_CONFIRMATIONS, SLACK, Question
from autoaccel.trial import CONFIRMING, SEARCHING, TrialRecord

NEVER_HIT_TRAININGS = 10
"""A baseline that never hits counts as this many full trainings, and the ratio is marked as a bound."""
_DRAWS = 4000
_FEWEST = 3
"""Attempts below which nothing is estimated from them."""
_INTERVAL = (0.025, 0.975)
_MOST_OFF = 3.0
"""Draws of a mean time stay within this of its log: Student's t has no bounds."""


@dataclass(frozen=True)
class Ratio:
    """A speed-up with its 95 % interval; None where it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None
    is_bound: bool = False


def wilson_interval(hits: int, attempts: int) -> tuple[float, float] | None:
    """95 % Wilson score interval of a hit rate (scipy); None without attempts."""
    if attempts == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(hits, attempts).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def expected_hit_rate(hits: int, attempts: int) -> float | None:
    """What to expect of further seeds: the mean of the Jeffreys posterior. None without attempts.

    The best of many that was confirmed without a miss does not hit always: the plain rate was 0.045 too high.
    """
    return (hits + 0.5) / (attempts + 1) if attempts else None


def ert_interval(evidence: Evidence, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the expected running time; None below three attempts or without a hit."""
    draws = _ert_draws(evidence, np.random.default_rng(seed))
    return None if draws is None else _interval(draws.certain, draws.uncertain)


def speedup(question: Question, baseline: Evidence, tuned: Evidence, seed: int = 0) -> Ratio:
    """ERT(baseline) / ERT(tuned) with its interval.

    Two ratios are bounds: a baseline without a hit in at least three attempts counts as ten of them, and one that was
    only ever cut as the time it had trained by then. No interval below three attempts of either.
    """
    if not tuned.hits:
        return Ratio(None, None, None)
    if not baseline.attempts:
        return Ratio(baseline.cut_s / tuned.ert_s if baseline.cut_s else None, None, None, baseline.cut_s > 0)
    if not baseline.hits:
        if baseline.attempts < _FEWEST:
            return Ratio(None, None, None)  # one or two misses do not say that it never hits
        full_s = sum(baseline.times_s) / baseline.attempts
        return Ratio(NEVER_HIT_TRAININGS * full_s / tuned.ert_s, None, None, is_bound=True)
    value = baseline.ert_s / tuned.ert_s
    rng = np.random.default_rng(seed)
    above, below = _ert_draws(baseline, rng), _ert_draws(tuned, rng)
    if above is None or below is None:
        return Ratio(value, None, None)
    return Ratio(value, *_interval(above.certain / below.uncertain, above.uncertain / below.certain))


def _interval(for_low: NDArray[np.float64], for_high: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.quantile(for_low, _INTERVAL[0])), float(np.quantile(for_high, _INTERVAL[1]))


@dataclass(frozen=True)
class _ErtDraws:
    """The expected running time as far as it is known."""

    certain: NDArray[np.float64]
    """Where no attempt missed: as if none ever did."""
    uncertain: NDArray[np.float64]


def _ert_draws(evidence: Evidence, rng: np.random.Generator) -> _ErtDraws | None:
    """Draws of ERT = mean time of a hit + time of a miss x odds of missing; None below three attempts or without a hit.

    The hit rate is drawn from its Jeffreys posterior, the mean time of a hit from Student's t on its log; a miss takes
    the mean of the misses, or as long as the longest hit where none was seen. A bootstrap of the attempts held the
    truth in 58 to 77 % of simulated studies only: without a miss among them it knows none.
    """
    n_hits, n_misses = evidence.hits, evidence.attempts - evidence.hits
    if evidence.attempts < _FEWEST or not n_hits:
        return None
    hits, everything = np.array(evidence.hit_times_s), np.array(evidence.times_s)
    # One hit says nothing of how hits scatter.
    spread = float(np.std(np.log(hits if n_hits > 1 else everything), ddof=1))
    error = rng.standard_t(max(2, n_hits - 1), _DRAWS) * spread / math.sqrt(n_hits)
    certain = np.mean(hits) * np.exp(np.clip(error, -_MOST_OFF, _MOST_OFF))
    miss_s = (everything.sum() - hits.sum()) / n_misses if n_misses else hits.max()
    rate = rng.beta(n_hits + 0.5, n_misses + 0.5, _DRAWS)
    uncertain = certain + miss_s * (1 - rate) / rate
    # Where nothing missed, a rate below 1 alone would leave out the likeliest value (the modified Jeffreys interval of
    # Brown, Cai and DasGupta 2001).
    return _ErtDraws(uncertain if n_misses else certain, uncertain)


def result_document(
    question: Question,
    done: Sequence[TrialRecord],
    baseline: Evidence,
    tuned: Evidence,
    facts: dict[str, Any],
    effects: Sequence[KnobEffect] = (),
) -> dict[str, Any]:
    """The content of result.json: every number the terminal shows, plain JSON, null where not measured.

    Args:
        question: what was asked.
        done: all records.
        baseline, tuned: evidence of both.
        facts: run-level entries that are put first (task, budget, times, fingerprints).
        effects: of the answer's knobs, by the search's model.
    """
    ratio = speedup(question, baseline, tuned, question.seed)
    confirmed = tuned.attempts >= MIN_CONFIRMATIONS
    met = confirmed and tuned.hit_rate >= question.hit_probability
    return {
        "format": "autoaccel.result",
        "version": 1,
        **facts,
        "target": {
            "metric": question.target.metric,
            "direction": question.target.direction,
            "value": question.target.value,
        },
        "target_met": met,
        "confirmed": confirmed,
        "attempts": tuned.attempts,
        "hits": tuned.hits,
        "hit_rate": tuned.hit_rate if tuned.attempts else None,
        "expected_hit_rate": expected_hit_rate(tuned.hits, tuned.attempts),
        "hit_rate_interval": wilson_interval(tuned.hits, tuned.attempts),
        "time_to_target_s": _finite(tuned.ert_s),
        "time_to_target_interval_s": ert_interval(tuned),
        "n_slowed": tuned.n_slowed,
        "trials": list(tuned.trials),
        "test_metric": _mean(tuned.test_values),
        "speedup_vs_baseline": ratio.value,
        "speedup_interval": None if ratio.low is None else [ratio.low, ratio.high],
        "speedup_is_bound": ratio.is_bound,
        "baseline": _evidence_document(baseline),
        "answer_is_baseline": tuned.config.identity == replace(question.baseline, seed=0).identity,
        "best_value_seen": _best_value(question, done),
        "config": to_params(tuned.config),
        "verdicts": [vars(v) for v in verdicts(question, tuned.config, effects)],
        "n_trials": sum(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in done),
        "outcomes": _counts(done),
    }


def stated_speedup(document: Mapping[str, Any]) -> Ratio:
    """The speed-up of a result document."""
    low, high = document["speedup_interval"] or (None, None)
    return Ratio(document["speedup_vs_baseline"], low, high, document["speedup_is_bound"])


def extrapolation_document(beyond: Extrapolation) -> dict[str, Any]:
    """What result.json says of an answer that nothing confirms."""
    return {
        "time_to_target_s": beyond.seconds,
        "interval_s": [beyond.low_s, beyond.high_s],
        "confirm_s": SLACK * (1 + MIN_CONFIRMATIONS) * (beyond.high_s or beyond.seconds),
    }


def _evidence_document(evidence: Evidence) -> dict[str, Any]:
    return {
        "attempts": evidence.attempts,
        "hits": evidence.hits,
        "expected_hit_rate": expected_hit_rate(evidence.hits, evidence.attempts),
        "hit_rate_interval": wilson_interval(evidence.hits, evidence.attempts),
        "time_to_target_s": _finite(evidence.ert_s),
        "time_to_target_interval_s": ert_interval(evidence),
        "n_slowed": evidence.n_slowed,
        "trials": list(evidence.trials),
        "test_metric": _mean(evidence.test_values),
        "config": to_params(evidence.config),
    }


def _best_value(question: Question, done: Sequence[TrialRecord]) -> float | None:
    values = [report.value for record in done for report in record.reports if math.isfinite(report.value)]
    if not values:
        return None
    return max(values) if question.target.direction == "max" else min(values)


def _counts(done: Sequence[TrialRecord]) -> dict[str, int]:
    outcomes = [r.ended.outcome for r in done if r.spec.purpose in (*SEARCHING, *CONFIRMING)]
    return {name: outcomes.count(name) for name in sorted(set(outcomes))}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
