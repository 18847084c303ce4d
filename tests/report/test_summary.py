"""The numbers of a result: intervals against known values, bounds, and the document."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import TrainerConfig, with_params
from autoaccel.report.summary import (
    Ratio,
    ert_interval,
    expected_hit_rate,
    result_document,
    speedup,
    stated_speedup,
    wilson_interval,
)
from autoaccel.search.confirm import Evidence
from autoaccel.trial import Ended, Report, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, question

ASKED = question(parse_budget("60s"))


def evidence(
    hits: Sequence[float], misses: Sequence[float] = (), config: TrainerConfig = BASELINE, **more: Any
) -> Evidence:
    times = (*hits, *misses)
    return Evidence(config, len(times), len(hits), times, tuple(hits), **more)


@pytest.mark.parametrize(
    ("hits", "attempts", "low", "high"),
    [  # Brown, Cai, DasGupta 2001; R's binom::binom.wilson
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (9, 10, 0.5958, 0.9821),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval(hits: int, attempts: int, low: float, high: float) -> None:
    assert wilson_interval(hits, attempts) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_no_interval_without_attempts() -> None:
    assert wilson_interval(0, 0) is None
    assert ert_interval(evidence([1.0, 1.1])) is None
    assert ert_interval(evidence([], [1.0, 1.1, 1.2])) is None


@pytest.mark.parametrize(
    ("hits", "attempts", "expected"), [(8, 8, 8.5 / 9), (5, 5, 5.5 / 6), (0, 4, 0.1), (9, 10, 9.5 / 11), (0, 0, None)]
)
def test_the_expected_hit_rate(hits: int, attempts: int, expected: float | None) -> None:
    """The mean of the Jeffreys posterior: never 0 or 1."""
    assert expected_hit_rate(hits, attempts) == (None if expected is None else pytest.approx(expected))


def test_the_interval_holds_the_value_and_shrinks_with_attempts() -> None:
    few, many = evidence([1.0, 1.2, 1.4], [2.0]), evidence([1.0, 1.2, 1.4] * 6, [2.0] * 6)
    narrow, wide = ert_interval(many), ert_interval(few)
    assert narrow is not None and wide is not None
    assert few.ert_s == pytest.approx(many.ert_s) == pytest.approx(5.6 / 3)
    assert wide[0] < narrow[0] < few.ert_s < narrow[1] < wide[1]
    assert ert_interval(few) == wide, "not repeatable"


def test_without_a_miss_the_low_end_is_certain_to_hit_and_the_high_end_is_not() -> None:
    """Equal times leave the hit rate alone: Jeffreys' 2.5 % quantile of 5 of 5 is 0.6206 (R: qbeta(.025, 5.5, .5))."""
    assert ert_interval(evidence([2.0] * 5)) == (2.0, pytest.approx(2.0 / 0.6206, rel=0.03))


def test_times_alone_give_the_interval_of_students_t() -> None:
    """Of a hundred hits the rate is known: 95 % of t with 99 degrees on the log."""
    logs = np.random.default_rng(0).normal(0.0, 0.5, 100)
    interval = ert_interval(evidence(list(np.exp(logs))))
    half = 1.984 * np.std(logs, ddof=1) / 10
    assert interval is not None and interval[0] == pytest.approx(np.exp(logs).mean() * math.exp(-half), rel=0.01)


def test_misses_as_long_as_hits_are_still_misses() -> None:
    interval = ert_interval(evidence([1.0] * 5, [1.0] * 5))
    assert interval is not None and interval[0] < 2.0 < interval[1]


def test_one_hit_among_misses_has_a_wide_interval() -> None:
    interval = ert_interval(evidence([1.0], [1.5, 1.6]))
    assert interval is not None and interval[0] < 4.1 < 3 * 4.1 < interval[1] < math.inf


def test_a_speedup_has_an_interval() -> None:
    ratio = speedup(ASKED, evidence([2.0, 2.1, 1.9]), evidence([0.5, 0.6, 0.5, 0.4]))
    assert ratio.value == pytest.approx(4.0) and not ratio.is_bound
    assert ratio.low is not None and ratio.high is not None and 1.5 < ratio.low < 4.0 < ratio.high < 12.0


def test_a_speedup_of_few_runs_has_none() -> None:
    ratio = speedup(ASKED, evidence([2.0]), evidence([0.5, 0.6, 0.5]))
    assert ratio.value is not None and (ratio.low, ratio.high, ratio.is_bound) == (None, None, False)


def test_a_baseline_that_never_hits_counts_as_ten_full_trainings() -> None:
    ratio = speedup(ASKED, evidence([], [1.0, 1.0, 1.3]), evidence([0.5, 0.5, 0.5]))
    assert ratio.is_bound and (ratio.low, ratio.high) == (None, None)
    assert ratio.value == pytest.approx(10 * 1.1 / 0.5)


def test_one_or_two_misses_do_not_say_that_a_baseline_never_hits() -> None:
    ratio = speedup(ASKED, evidence([], [1.0, 1.0]), evidence([0.5, 0.5, 0.5]))
    assert ratio.value is None and not ratio.is_bound


@pytest.mark.parametrize(("n_hits", "met"), [(4, False), (5, True)])
def test_a_target_is_met_only_with_enough_fresh_seeds(n_hits: int, met: bool) -> None:
    facts = {"task": "t"}
    document = result_document(ASKED, [], evidence([1.0] * 3), evidence([0.5] * n_hits), facts)
    assert (document["target_met"], document["confirmed"]) == (met, met)


def test_a_baseline_that_was_only_cut_counts_as_the_time_it_had() -> None:
    ratio = speedup(ASKED, evidence([], cut_s=3.0), evidence([0.5, 0.5, 0.5]))
    assert (ratio.value, ratio.is_bound) == (6.0, True)


@pytest.mark.parametrize(("before", "after"), [(evidence([1.0]), evidence([], [1.0])), (evidence([]), evidence([1.0]))])
def test_no_speedup_without_a_hit_or_a_baseline(before: Evidence, after: Evidence) -> None:
    ratio = speedup(ASKED, before, after)
    assert ratio.value is None and not ratio.is_bound


# -------------------------------------------------------------------------------------------------------- result.json


def race(trial: int, params: dict[str, Any], seconds: float, outcome: str = "hit") -> TrialRecord:
    config = with_params(replace(BASELINE, seed=trial), {"optim.weight_decay": 1e-4, **params})
    reports = (Report(trial, seconds, 1, 1, 1.0, 0.87, 0.1),)
    return TrialRecord(
        TrialSpec(trial, "race", config, ASKED.target), reports, Ended(trial, outcome, seconds, value=0.87)
    )


def test_the_document_is_plain_json_and_agrees_with_itself() -> None:
    tuned = evidence([0.1, 0.2, 0.15, 0.2], [0.3], with_params(BASELINE, {"optim.lr": 0.01}), test_values=(0.9, 0.8))
    done = [race(n, {}, 1.0, "missed" if n % 3 else "capped") for n in range(1, 10)]
    asked = replace(ASKED, hit_probability=0.75)
    document = result_document(asked, done, evidence([1.0, 1.1, 1.2]), tuned, {"task": "t", "budget": "1m"})
    again = json.loads(json.dumps(document, allow_nan=False))
    assert list(again)[:4] == ["format", "version", "task", "budget"]
    assert again["target"] == {"metric": "accuracy", "direction": "max", "value": 0.86}
    assert (again["attempts"], again["hits"], again["hit_rate"], again["target_met"]) == (5, 4, 0.8, True)
    assert again["expected_hit_rate"] == pytest.approx(4.5 / 6)
    assert again["hit_rate_interval"] == list(wilson_interval(4, 5) or ())
    assert again["time_to_target_s"] == pytest.approx(0.95 / 4)
    assert again["speedup_vs_baseline"] == pytest.approx(1.1 / (0.95 / 4))
    assert again["speedup_interval"][0] < again["speedup_vs_baseline"] < again["speedup_interval"][1]
    assert again["test_metric"] == pytest.approx(0.85)
    assert again["baseline"]["attempts"] == 3 and again["baseline"]["test_metric"] is None
    assert (again["n_trials"], again["outcomes"]) == (9, {"capped": 3, "missed": 6})
    assert again["best_value_seen"] == 0.87 and not again["answer_is_baseline"]
    assert again["config"]["optim.lr"] == 0.01


@pytest.mark.parametrize(
    ("hits", "attempts", "met"), [(9, 10, True), (8, 10, False), (5, 5, True), (4, 5, False), (0, 0, False)]
)
def test_the_target_is_met_at_the_wanted_rate(hits: int, attempts: int, met: bool) -> None:
    tuned = evidence([1.0] * hits, [1.0] * (attempts - hits))
    document = result_document(ASKED, [], evidence([1.0]), tuned, {"task": "t"})
    assert (document["target_met"], document["confirmed"]) == (met, attempts > 0)
    assert document["answer_is_baseline"] and document["best_value_seen"] is None


def test_the_best_value_of_a_falling_metric_is_the_smallest() -> None:
    asked = replace(ASKED, target=replace(ASKED.target, value=0.5, direction="min", metric="loss"))
    records = [
        replace(r, reports=(replace(r.reports[0], value=v),))
        for r, v in zip([race(n, {}, 1.0) for n in (1, 2, 3)], (0.9, 0.7, math.inf), strict=True)
    ]
    assert result_document(asked, records, evidence([1.0]), evidence([]), {"task": "t"})["best_value_seen"] == 0.7


def test_the_documents_speedup_is_the_speedup() -> None:
    before, after = evidence([2.0, 2.1, 1.9]), evidence([0.5, 0.6, 0.5, 0.4])
    document = result_document(ASKED, [], before, after, {})
    assert stated_speedup(json.loads(json.dumps(document))) == speedup(ASKED, before, after, ASKED.seed)
    none = result_document(ASKED, [], evidence([]), evidence([]), {})
    assert stated_speedup(none) == Ratio(None, None, None)
