"""Trains for real what a replay holds to be fastest: a surrogate is wrong first where a search exploits it.

Prints a line per recipe: expected running time replayed, and with real curves on the replay's clock, in full default
trainings. Needs torch and the data. Must not know any method of the benchmark.

    python -m benchmarks.search.horizon.verify [--problem digits_cnn] [--recipes 8]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.search.horizon.plan import NEAR, Job, from_unit, near
from benchmarks.search.horizon.replay import horizon_problems
from benchmarks.search.horizon.setups import SETUPS
from benchmarks.search.problem import Point, Problem

STARTS, MOVES, REAL_SEEDS = 250, 150, 6


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.search.horizon.verify", description=__doc__.split("\n")[0])
    parser.add_argument("--problem", choices=list(SETUPS), action="append", help="all, unless named")
    parser.add_argument("--recipes", type=int, default=8)
    given = parser.parse_args(arguments)
    for problem in horizon_problems():
        name = problem.description.name
        if name not in (given.problem or SETUPS):
            continue
        ratios = []
        for seed in range(given.recipes):
            job = fastest(problem, np.random.default_rng(seed))
            curves = trained(problem, job)
            replayed, real = ert(problem, replays(problem, job, range(5000, 5040))), ert(problem, curves)
            hits = sum(any(problem.description.reached(point.value) for point in points) for points in curves)
            ratios.append(real / replayed)
            print(f"{name}: replayed {replayed:.3f}, real {real:.3f} with {hits} of {REAL_SEEDS} hits:", end=" ")
            print(f"{job.horizon} samples of {job.params}", flush=True)
        print(f"{name}: real over replayed, median {np.median(ratios):.2f}, largest {max(ratios):.2f}")
    return 0


def fastest(problem: Problem, rng: np.random.Generator) -> Job:
    """A recipe that the replay holds to be fast: random ones, then steps from the best of them."""
    known, setup = problem.description, SETUPS[problem.description.name]
    jobs = []
    for index in range(STARTS):
        params: dict[str, Any] = {name: from_unit(knob, rng.random()) for name, knob in known.space.items()}
        horizon = round(known.horizon_low * (known.horizon_high / known.horizon_low) ** rng.random())
        jobs.append(Job(NEAR, index, params, horizon, 0))
    best_s, best = min(((ert(problem, replays(problem, job, range(4))), job) for job in jobs), key=lambda pair: pair[0])
    for index in range(MOVES):
        job = near(setup, best, index, rng)
        if ert(problem, replays(problem, job, range(6))) < best_s:
            seconds = ert(problem, replays(problem, job, range(30)))
            if seconds < best_s:
                best_s, best = seconds, job
    return best


def replays(problem: Problem, job: Job, seeds: Iterable[int]) -> list[list[Point]]:
    """Replayed trainings of a recipe."""
    return [list(problem.train(job.params, job.horizon, seed)) for seed in seeds]


def trained(problem: Problem, job: Job) -> list[list[Point]]:
    """Real trainings of a recipe, on the replay's clock."""
    from benchmarks.search.horizon.trainings import train

    curves = [train(problem.description.name, job.params, job.horizon, 900_000 + seed) for seed in range(REAL_SEEDS)]
    clock = max(replays(problem, job, range(8)), key=len)
    return [
        [Point(point.samples, point.seconds, value) for point, value in zip(clock, curve.metric, strict=False)]
        for curve in curves
    ]


def ert(problem: Problem, curves: list[list[Point]]) -> float:
    """Seconds of all over hits, in full default trainings; each ends at its hit."""
    seconds, hits = 0.0, 0
    for points in curves:
        hit = next((point for point in points if problem.description.reached(point.value)), None)
        hits += hit is not None
        seconds += (hit or points[-1]).seconds
    return seconds / hits / problem.description.full_s if hits else math.inf


if __name__ == "__main__":
    sys.exit(main())
