"""Bench: runs one method's trainings on a manual clock and charges everything; notes the method's answer over time.

The rules every method is held to: a training stops at its hit, at its horizon, at its cap, when the method says so, or
when the budget ends; all of its time is charged. Must not know any method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.search.problem import Params, Point, Problem

SEARCH_SEEDS, FRESH_SEEDS = 0, 10**9
"""Trainings of a study draw seeds below FRESH_SEEDS; answers are judged on seeds from there on."""


class BudgetSpent(Exception):
    """The budget is over; the method's loop ends here."""


@dataclass(frozen=True)
class Trial:
    """One training of a study as it went."""

    params: Params
    horizon: int
    points: tuple[Point, ...]
    outcome: str
    """hit, missed (horizon reached), capped, stopped (by the method), diverged, or cut (the budget ended)."""
    seconds: float

    @property
    def hit(self) -> bool:
        return self.outcome == "hit"


@dataclass(frozen=True)
class Answer:
    """What a method would return at a moment."""

    at_s: float
    params: Params
    horizon: int


@dataclass
class Bench:
    """The clock, the trials and the answers of one study."""

    problem: Problem
    budget_s: float
    seed: int
    now_s: float = 0.0
    trials: list[Trial] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    claim_s: float | None = None
    """Expected running time that the method itself gives for its last answer; methods that give none leave it."""

    @property
    def left_s(self) -> float:
        """Budget left, in seconds."""
        return self.budget_s - self.now_s

    def run(
        self,
        params: Params,
        horizon: int,
        cap_s: float = math.inf,
        stop: Callable[[list[Point]], bool] | None = None,
    ) -> Trial:
        """Train once and charge it.

        Args:
            params: a value for every knob (inactive ones are ignored by the problem).
            horizon: the length its schedule is annealed to.
            cap_s: training seconds after which it is cut.
            stop: looked at after every evaluation that is no hit, with all points so far; True stops the training.

        Raises:
            BudgetSpent: the budget ended; the cut training is in `trials` and everything is charged.
        """
        if self.left_s <= 0:
            raise BudgetSpent
        known = self.problem.description
        horizon = int(min(max(horizon, known.horizon_low), known.horizon_high))
        limit_s = min(cap_s, self.left_s)
        seed = SEARCH_SEEDS + self.seed * 100_000 + len(self.trials)
        points: list[Point] = []
        outcome, seconds = "missed", 0.0
        for point in self.problem.train(params, horizon, seed):
            if point.seconds > limit_s:
                outcome, seconds = ("cut" if limit_s == self.left_s else "capped"), limit_s
                break
            points.append(point)
            seconds = point.seconds
            if not math.isfinite(point.value):
                outcome = "diverged"
                break
            if known.reached(point.value):
                outcome = "hit"
                break
            if point.samples < horizon and stop is not None and stop(points):
                outcome = "stopped"
                break
        trial = Trial(dict(params), horizon, tuple(points), outcome, seconds)
        self.trials.append(trial)
        self.now_s += seconds
        if outcome == "cut" or self.left_s <= 0:
            raise BudgetSpent
        return trial

    def probe(self, params: Params, samples: float) -> float:
        """Measure seconds per sample on `samples` samples and charge their time (and nothing else)."""
        seconds = self.problem.seconds_per_sample(params)
        if seconds * samples > self.left_s:
            self.now_s = self.budget_s
            raise BudgetSpent
        self.now_s += seconds * samples
        return seconds

    def answer(self, params: Params, horizon: int) -> None:
        """What the method would return from now on."""
        known = self.problem.description
        horizon = int(min(max(horizon, known.horizon_low), known.horizon_high))
        if not self.answers or (self.answers[-1].params, self.answers[-1].horizon) != (params, horizon):
            self.answers.append(Answer(self.now_s, dict(params), horizon))
