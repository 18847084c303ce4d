"""Peers built on BoTorch: constrained expected improvement of log time, the target as a constraint on a second process.

The knobs become a unit cube (choices one-hot); the acquisition is maximised over random and local candidates, since the
space is mixed. Must not know other libraries' peers or any problem.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench, Trial
from benchmarks.search.peers.desk import Desk, Form, Peer, active, first_horizon, installed, play, single_thread, snap

HORIZON = "horizon"
START = 10
"""Random trials before the model takes over."""
MAX_TRIALS = 100
"""A suggestion then costs about half a second; the study ends there."""
RANDOM, LOCAL = 768, 256
"""Candidates per suggestion."""
Row = dict[str, float]
Array = NDArray[np.float64]


@dataclass
class Cube:
    """Knobs to and from [0, 1]: a numeric knob on its scale, a choice by its number."""

    knobs: dict[str, BaseDistribution]
    rng: np.random.Generator
    numeric: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.numeric = [name for name, knob in self.knobs.items() if not isinstance(knob, CategoricalDistribution)]

    def draw(self) -> Row:
        """A uniform row."""
        return {name: self.draw_one(name) for name in self.knobs}

    def draw_one(self, name: str) -> float:
        knob = self.knobs[name]
        if isinstance(knob, CategoricalDistribution):
            return float(self.rng.integers(len(knob.choices)))
        return float(self.rng.uniform())

    def near(self, row: Row) -> Row:
        """One to three knobs moved a little, a choice drawn anew."""
        moved = dict(row)
        for name in self.rng.choice(list(row), size=min(len(row), int(self.rng.integers(1, 4))), replace=False):
            if name in self.numeric:
                moved[name] = float(np.clip(row[name] + self.rng.normal(0, 0.1), 0, 1))
            else:
                moved[name] = self.draw_one(name)
        return moved

    def values(self, row: Row) -> dict[str, Any]:
        """A row as knob values."""
        return {name: self.value(name, share) for name, share in row.items()}

    def value(self, name: str, share: float) -> Any:
        knob = self.knobs[name]
        if isinstance(knob, CategoricalDistribution):
            return knob.choices[int(share)]
        low, high, log = bounds(knob)
        return snap(knob, math.exp(low + share * (high - low)) if log else low + share * (high - low))

    def row(self, values: dict[str, Any]) -> Row:
        """Knob values as a row."""
        row = {}
        for name, knob in self.knobs.items():
            if isinstance(knob, CategoricalDistribution):
                row[name] = float(knob.choices.index(values[name]))
                continue
            low, high, log = bounds(knob)
            row[name] = ((math.log(values[name]) if log else values[name]) - low) / max(high - low, 1e-12)
        return row

    def encode(self, rows: list[Row], inactive: Callable[[Row], set[str]]) -> Array:
        """Rows as the model sees them: one-hot choices, and one half for a knob without effect."""
        table = []
        for row in rows:
            silent = inactive(row)
            entry: list[float] = []
            for name, knob in self.knobs.items():
                if isinstance(knob, CategoricalDistribution):
                    seen = [float(number == row[name] and name not in silent) for number in range(len(knob.choices))]
                    entry += seen
                else:
                    entry.append(0.5 if name in silent else row[name])
            table.append(entry)
        return np.array(table)


def bounds(knob: BaseDistribution) -> tuple[float, float, bool]:
    """Ends of a numeric knob on its own scale."""
    if not isinstance(knob, IntDistribution | FloatDistribution):
        raise TypeError(f"{knob!r} is not numeric")
    return (math.log(knob.low), math.log(knob.high), True) if knob.log else (knob.low, knob.high, False)


def scores(x: Array, y: Array, hits: NDArray[np.bool_], candidates: Array, seed: int) -> Array:
    """Log constrained expected improvement of every candidate; before a hit the log chance of one."""
    torch, models = importlib.import_module("torch"), importlib.import_module("botorch.models")
    analytic = importlib.import_module("botorch.acquisition.analytic")
    torch.manual_seed(seed)
    double = torch.float64
    inputs = torch.tensor(x, dtype=double)
    spread = np.maximum(y.std(axis=0), 1e-6)
    time = torch.tensor(((y[:, 0] - y[:, 0].mean()) / spread[0])[:, None], dtype=double)
    gap = torch.tensor((y[:, 1] / spread[1])[:, None], dtype=double)  # not centred: zero is the target
    gap_mean = gap.mean()
    model = models.ModelListGP(
        models.SingleTaskGP(inputs, time, outcome_transform=None),
        models.SingleTaskGP(inputs, gap - gap_mean, outcome_transform=None),
    )
    likelihood = importlib.import_module("gpytorch.mlls").SumMarginalLogLikelihood(model.likelihood, model)
    importlib.import_module("botorch.fit").fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": 50}})
    points = torch.tensor(candidates, dtype=double)[:, None, :]
    limits = {1: (None, float(-gap_mean))}
    with torch.no_grad():
        if hits.any():
            best = float(time[torch.tensor(hits)].min())
            chosen = analytic.LogConstrainedExpectedImprovement(
                model, best_f=best, objective_index=0, constraints=limits, maximize=False
            )
        else:
            chosen = analytic.LogProbabilityOfFeasibility(model, constraints=limits)
        return np.asarray(chosen(points).numpy(), dtype=np.float64)


def search(desk: Desk) -> None:
    """Start at random (strongest: at the default), then the best candidate by the acquisition, for ever."""
    known = desk.known
    rng = np.random.default_rng(desk.bench.seed)
    free = IntDistribution(known.horizon_low, known.full_horizon, log=True)
    cube = Cube({**known.space, HORIZON: free}, rng)
    rows: list[Row] = []
    done: list[Trial] = []

    def inactive(row: Row) -> set[str]:
        values = cube.values(row)
        return {name for name in known.space if not active(known, values, name)}

    while True:
        if desk.capped and not rows:
            row = cube.row({**known.default, HORIZON: first_horizon(known)})
        elif len(rows) < START:
            row = cube.draw()
        else:
            row = choose(desk, cube, rows, done, inactive)
        values = cube.values(row)
        horizon = int(values.pop(HORIZON))
        done.append(desk.train(values, horizon))
        rows.append(row)


def choose(desk: Desk, cube: Cube, rows: list[Row], done: list[Trial], inactive: Callable[[Row], set[str]]) -> Row:
    """The candidate of the best score: random ones, and some near the five best trials."""
    best = sorted(range(len(done)), key=lambda index: desk.penalised(done[index]))[:5]
    candidates = [cube.draw() for _ in range(RANDOM)]
    candidates += [cube.near(rows[best[number % len(best)]]) for number in range(LOCAL)]
    outcomes = np.array([[desk.log_time(trial), gap_of(desk, trial)] for trial in done])
    hits = np.array([trial.hit for trial in done])
    x, seed = cube.encode(rows, inactive), desk.bench.seed * 1000 + len(rows)
    return candidates[int(np.argmax(scores(x, outcomes, hits, cube.encode(candidates, inactive), seed)))]


def gap_of(desk: Desk, trial: Trial) -> float:
    """The constraint: at most zero for a hit, above for any other."""
    gap = desk.last_gap(trial)
    return min(gap, 0.0) if trial.hit else max(gap, 1e-6)


def runner(form: Form) -> Callable[[Bench], None]:
    """A peer's `run`."""

    def run(bench: Bench) -> None:
        with single_thread():
            play(bench, form, search, MAX_TRIALS, fastest_wins=True)

    return run


def peer(name: str, form: Form, recipe: str) -> Peer:
    """A row of the table below."""
    return Peer(
        name, "botorch", form, runner(form), True, installed("botorch"), recipe, ("botorch", "gpytorch", "torch")
    )


BOTORCH_PEERS = (
    peer(
        "botorch-constrained",
        "documented",
        "log constrained EI: SingleTaskGP of log time and of the gap, constraint gap <= 0, chance of a hit before "
        "the first; horizon in the space; maximised over 1,024 candidates instead of by gradient; 100 trials at "
        "most; fastest hit wins",
    ),
    peer(
        "botorch-constrained-cap",
        "strongest",
        "botorch-constrained, default first, capped at the fastest hit; a capped trial counts as its cap, infeasible",
    ),
)
