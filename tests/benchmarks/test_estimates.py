"""What benchmarks estimate from seconds and ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.estimates import drawn_means, ert_s, geometric_interval, geometric_mean, interval, median_interval


@pytest.mark.parametrize(
    ("times_s", "hits", "expected"),
    [
        ([1.0, 2.0, 3.0], [True, False, True], 3.0),
        ([1.0, 2.0], [False, False], 100.0),
        ([90.0, 90.0], [True, False], 100.0),
        ([], [], 100.0),
    ],
)
def test_the_expected_time_is_at_most_the_penalty(times_s: list[float], hits: list[bool], expected: float) -> None:
    assert ert_s(times_s, hits, 100.0) == expected


def test_intervals_hold_what_they_are_of_and_repeat() -> None:
    values = np.random.default_rng(1).lognormal(0.0, 0.5, 40)
    low, high = interval(drawn_means(values))
    half = 1.96 * values.std() / math.sqrt(40)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), rel=0.05)
    assert interval(drawn_means(values)) == [low, high] != interval(drawn_means(values, seed=1))
    low, high = median_interval(values)
    assert low < np.median(values) < high
    outlier = median_interval([1.0, 1.1, 1.1, 1.2, 50.0])
    assert outlier[0] == 1.0, "something that happens once moves the median little"


def test_geometric_means_are_of_ratios() -> None:
    logs = np.log([2.0, 0.5, 4.0])
    assert geometric_mean(logs) == pytest.approx(4 ** (1 / 3))
    low, high = geometric_interval(logs) or (math.nan, math.nan)
    assert low == pytest.approx(0.5) and high == pytest.approx(4.0)
    assert geometric_interval([0.0, 0.0]) == [1.0, 1.0]
    assert geometric_mean([]) is geometric_interval([]) is None
