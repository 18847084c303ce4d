"""The numbers of a finished tuning, from its records alone: speed-up, hit rate, intervals, one verdict per knob.

Pure; the terminal and `result.json` show the same values. Must not know how they are shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoaccel.config import to_params
from autoaccel.search.attempts import log_time_to_target
from autoaccel.search.confirm import Evidence
from autoaccel.search.policy import MIN_CONFIRMATIONS, Question
from autoaccel.space.knobs import Knob
from autoaccel.trial import CONFIRMING, SEARCHING, TrialRecord

NEVER_HIT_TRAININGS = 10
"""A baseline that never hits counts as this many full trainings, and the ratio is marked as a bound."""
_DRAWS = 2000
_FEWEST = 3
"""Attempts below which nothing is estimated from them."""
_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True)
class Ratio:
    """A speed-up with its 95 % bootstrap interval; None where it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None
    is_bound: bool = False


@dataclass(frozen=True)
class Verdict:
    """What one knob did: the values, and what the trials say of it."""

    knob: str
    baseline: Any
    tuned: Any
    effect: float | None
    """How many times longer to the target away from the tuned value than near it; None if trials do not tell."""
    low: float | None
    high: float | None
    text: str


def wilson_interval(hits: int, attempts: int) -> tuple[float, float] | None:
    """95 % Wilson score interval of a hit rate (scipy); None without attempts."""
    if attempts == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(hits, attempts).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def ert_interval(evidence: Evidence, seed: int = 0) -> tuple[float, float] | None:
    """95 % bootstrap interval of the expected running time; None below three attempts or without a hit."""
    draws = _ert_draws(evidence, np.random.default_rng(seed))
    return _interval(draws) if len(draws) else None


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
    if not len(above) or not len(below):
        return Ratio(value, None, None)
    return Ratio(value, *_interval(above / below))


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, _INTERVAL)
    return float(low), float(high)


def verdicts(question: Question, done: Sequence[TrialRecord], tuned: Evidence) -> list[Verdict]:
    """One verdict per knob of the space, searched or decided without searching."""
    chosen, before = to_params(tuned.config), to_params(question.baseline)
    searched = [r for r in done if r.spec.purpose in SEARCHING and r.spec.config is not None]
    found = []
    for path in question.space.paths:
        knob = next((k for k in question.space.active(chosen) if k.path == path), None)
        if knob is not None:
            found.append(_verdict(question, searched, knob, before[path], chosen[path]))
    for path, value in question.space.fixed.items():
        reason = question.space.reasons.get(path, "fixed")
        reason += "" if chosen[path] == value else f" (searched with {value}; the answer is the baseline)"
        found.append(Verdict(path, before[path], chosen[path], None, None, None, reason))
    return found


def _verdict(question: Question, searched: Sequence[TrialRecord], knob: Knob, before: Any, chosen: Any) -> Verdict:
    near: list[float] = []
    far: list[float] = []
    for record in searched:
        assert record.spec.config is not None
        point = to_params(record.spec.config)
        if knob not in question.space.active(point):
            continue
        time = log_time_to_target(record, question.target, question.floor)
        (near if _is_near(knob, point[knob.path], chosen) else far).append(time)
    if len(near) < 4 or len(far) < 4:
        text = f"not enough trials to tell ({len(near)} near it, {len(far)} away)"
        return Verdict(knob.path, before, chosen, None, None, None, text)
    draws = _median_draws(far) - _median_draws(near)
    effect = math.exp(median(far) - median(near))
    low, high = (math.exp(q) for q in np.quantile(draws, _INTERVAL))
    interval = f"{effect:.3g}x [{low:.3g}, {high:.3g}]"
    if low > 1:
        text = f"search trials near it were {interval} faster"
    elif high < 1:
        text = f"kept although search trials near it were slower ({interval})"
    else:
        text = f"bought nothing measurable ({interval})"
    return Verdict(knob.path, before, chosen, effect, low, high, f"unchanged; {text}" if before == chosen else text)


def _is_near(knob: Knob, value: Any, chosen: Any) -> bool:
    if not knob.is_numeric:
        return bool(value == chosen)
    # The baseline may lie outside the range (no weight decay at all on a log scale).
    return abs(knob.to_unit(knob.clip(value)) - knob.to_unit(knob.clip(chosen))) <= 0.15


def _median_draws(values: Sequence[float]) -> NDArray[np.float64]:
    """Bootstrap draws of the median."""
    chosen = np.random.default_rng(0).choice(np.asarray(values, dtype=np.float64), (_DRAWS, len(values)))
    return np.asarray(np.median(chosen, axis=1))


def _ert_draws(evidence: Evidence, rng: np.random.Generator) -> NDArray[np.float64]:
    """Bootstrap draws of the ERT over attempts; a draw without hits counts the one that is known to be possible."""
    if evidence.attempts < 3 or not evidence.hits:
        return np.empty(0)
    misses = Counter(evidence.times_s) - Counter(evidence.hit_times_s)
    times = np.array([*evidence.hit_times_s, *misses.elements()])
    chosen = rng.integers(0, evidence.attempts, (_DRAWS, evidence.attempts))
    hits = (chosen < evidence.hits).sum(axis=1)
    return np.asarray(times[chosen].sum(axis=1) / np.maximum(1, hits))


def result_document(
    question: Question, done: Sequence[TrialRecord], baseline: Evidence, tuned: Evidence, facts: dict[str, Any]
) -> dict[str, Any]:
    """The content of result.json: every number the terminal shows, plain JSON, null where not measured.

    Args:
        question: what was asked.
        done: all records.
        baseline, tuned: evidence of both.
        facts: run-level entries that are put first (task, budget, times, fingerprints).
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
        "hit_rate_interval": wilson_interval(tuned.hits, tuned.attempts),
        "time_to_target_s": _finite(tuned.ert_s),
        "time_to_target_interval_s": ert_interval(tuned),
        "test_metric": _mean(tuned.test_values),
        "speedup_vs_baseline": ratio.value,
        "speedup_interval": None if ratio.low is None else [ratio.low, ratio.high],
        "speedup_is_bound": ratio.is_bound,
        "baseline": _evidence_document(baseline),
        "answer_is_baseline": tuned.config.identity == replace(question.baseline, seed=0).identity,
        "best_value_seen": _best_value(question, done),
        "config": to_params(tuned.config),
        "verdicts": [vars(v) for v in verdicts(question, done, tuned)],
        "n_trials": sum(r.spec.purpose in (*SEARCHING, *CONFIRMING) for r in done),
        "outcomes": _counts(done),
    }


def _evidence_document(evidence: Evidence) -> dict[str, Any]:
    return {
        "attempts": evidence.attempts,
        "hits": evidence.hits,
        "hit_rate_interval": wilson_interval(evidence.hits, evidence.attempts),
        "time_to_target_s": _finite(evidence.ert_s),
        "time_to_target_interval_s": ert_interval(evidence),
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
