"""Seconds are learned from what was run: per sample by the knobs, and a fixed part."""

from __future__ import annotations

import numpy as np
import pytest

from autoaccel.search.encoding import Encoding
from autoaccel.search.seconds import Run, Seconds
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

SPACE = Space("s", (Knob(path="batch", low=8, high=512, log=True), Knob(path="kind", choices=("a", "b"))))
ENCODING = Encoding(SPACE, "horizon")


def true_s(params: dict[str, object], samples: float, fixed_s: float) -> float:
    return fixed_s + samples * (0.001 + 0.05 / float(str(params["batch"]))) * (2 if params["kind"] == "b" else 1)


def runs(n: int, fixed_s: float) -> list[Run]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        params = {"batch": float(8 * 64 ** rng.random()), "kind": "ab"[rng.integers(2)]}
        samples = float(10 ** rng.uniform(2, 4))
        found.append(Run(params, samples, true_s(params, samples, fixed_s)))
    return found


def test_without_runs_a_sample_takes_a_second() -> None:
    assert Seconds(ENCODING, [])({"batch": 64, "kind": "a"}, 10) == 10


def test_one_run_holds_everywhere() -> None:
    seconds = Seconds(ENCODING, [Run({"batch": 64, "kind": "a"}, 100, 5.0)])
    assert seconds({"batch": 8, "kind": "b"}, 200) == pytest.approx(10.0)


@pytest.mark.parametrize("fixed_s", [0.0, 2.0])
def test_knobs_and_the_fixed_part_are_told_apart(fixed_s: float) -> None:
    seconds = Seconds(ENCODING, runs(60, fixed_s))
    for params in ({"batch": 16.0, "kind": "b"}, {"batch": 200.0, "kind": "a"}):
        assert seconds(params, 3000) == pytest.approx(true_s(params, 3000, fixed_s), rel=0.25)
    assert seconds.fixed_s == pytest.approx(fixed_s, abs=0.5)
