"""This project's search as a method of the benchmark: the same decisions as `autoaccel tune`, on the bench's clock.

It measures the step cost of a few points first (charged). Must not look at anything of a problem but its description
and what the bench returned.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autoaccel.search import advice
from autoaccel.search.advice import Models, Proposal, Setting, Variant
from autoaccel.search.encoding import Encoding
from autoaccel.search.evidence import Curve, bent
from autoaccel.search.seconds import Run, Seconds
from autoaccel.search.setting import distinct
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from benchmarks.search.bench import Bench, BudgetSpent, Trial
from benchmarks.search.problem import Description, Params, Point

N_PROBES, PROBE_SHARE = 16, 0.02
"""Points whose step cost is measured, and the share of a full training that all probes together take."""
MOST_TRIALS = 400
"""As for the peers: a study ends here even with budget left."""

ROLES: Final[dict[str, tuple[str, ...]]] = {
    "optimizer": ("optimizer", "optim"),
    "lr": ("lr", "learning_rate"),
    "batch": ("batch", "batch_size"),
    "momentum": ("momentum",),
    "decay": ("weight_decay", "decay"),
    "warmup": ("warmup",),
    "schedule": ("schedule",),
}
"""What a knob may be called in a problem."""
_ADAMW: Final = {"optimizer": "adamw", "schedule": "linear", "warmup": 0.1, "batch": 64}
_SGD: Final = {"optimizer": "sgd", "momentum": 0.9, "schedule": "linear", "warmup": 0.1, "batch": 64, "decay": 5e-4}
RECIPES: Final[tuple[dict[str, Any], ...]] = (
    {**_ADAMW, "lr": 1e-2},
    {**_SGD, "lr": 0.1},
    {**_ADAMW, "lr": 3e-2},
    {**_ADAMW, "lr": 3e-3},
)
"""The rules of thumb of `search_spaces/minimal.toml`, in roles."""


@dataclass(frozen=True)
class Method:
    """One form of our search: as it is, without a part, or with one that was taken out."""

    name: str
    variant: Variant = field(default_factory=Variant)
    knows_cost: bool = True
    """Whether seconds are predicted point by point; else every point is taken to cost the same."""
    family: str = "autoaccel"
    form: str = "ours"
    slow: bool = False
    version: str = "9"
    """Raised with every change of the method, so that old studies are run again."""

    def run(self, bench: Bench) -> None:
        """One study, to the end of its budget."""
        with contextlib.suppress(BudgetSpent):
            _study(bench, self)


OURS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        Method("ours"),
        Method("ours-with-cap", Variant(cap=True)),
        Method("ours-with-cost", Variant(cost=True)),
        Method("ours-without-horizon", Variant(horizon=False)),
        Method("ours-without-censored", Variant(censored=False)),
        Method("ours-without-book", Variant(book=False)),
        Method("ours-without-recipes", Variant(recipes=False)),
        Method("ours-without-step-cost", knows_cost=False),
    )
}


class Clockwork:
    """Seconds of a training to come: probed rates, and what first evaluations took beyond, both by the knobs."""

    def __init__(self, bench: Bench, encoding: Encoding, knows_cost: bool) -> None:
        self._known, self._knows_cost = bench.problem.description, knows_cost
        self._starts: list[Run] = []
        rng = np.random.default_rng([bench.seed, 77])
        points = [dict(self._known.default), *encoding.params(encoding.anywhere(rng, N_PROBES - 1))]
        samples = PROBE_SHARE * self._known.full_horizon / N_PROBES
        points = points if knows_cost else points[:1]
        self._runs = [Run(p, samples, samples * bench.probe(p, samples)) for p in points]
        self._encoding = encoding
        self._rate, self._start = Seconds(encoding, self._runs), Seconds(encoding, [])

    def __call__(self, params: Params, horizon: float) -> float:
        point = params if self._knows_cost else self._known.default
        start_s = self._start.per_sample(point) if self._starts else 0.0
        return start_s + self._rate.per_sample(point) * horizon

    def learn(self, params: Params, points: tuple[Point, ...]) -> None:
        """From a training: what its samples took after its first evaluation, and what it started with before.

        A single evaluation cannot tell them apart; the rate predicted for it does.
        """
        first, last = points[0], points[-1]
        point = params if self._knows_cost else self._known.default
        if self._knows_cost and last.samples > first.samples and last.seconds > first.seconds:
            self._runs.append(Run(params, last.samples - first.samples, last.seconds - first.seconds))
            self._rate = Seconds(self._encoding, self._runs)
        start_s = first.seconds - first.samples * self._rate.per_sample(point)
        self._starts.append(Run(point, 1.0, max(start_s, 1e-3 * first.seconds)))
        self._start = Seconds(self._encoding, self._starts)


def space_of(known: Description) -> Space:
    """The problem's knobs in our terms; conditional ones after their parents."""
    knobs = [knob_of(name, d, known.conditions.get(name)) for name, d in known.space.items()]
    return Space(known.name, tuple(sorted(knobs, key=lambda knob: bool(knob.when))))


def knob_of(name: str, d: BaseDistribution, parent: tuple[str, Any] | None = None) -> Knob:
    """An Optuna distribution as a knob."""
    when = {parent[0]: parent[1]} if parent else {}
    if isinstance(d, CategoricalDistribution):
        return Knob(path=name, choices=tuple(d.choices), when=when)
    assert isinstance(d, FloatDistribution | IntDistribution)
    return Knob(path=name, low=d.low, high=d.high, log=d.log, integer=isinstance(d, IntDistribution), when=when)


def recipes(known: Description) -> tuple[Params, ...]:
    """The rules of thumb in the problem's names, as far as it has such knobs.

    Where the optimizer is no knob, momentum tells which one it is: the other's learning rates are not meant for it.
    """
    names = {role: next((n for n in options if n in known.space), None) for role, options in ROLES.items()}
    found = []
    only = None if names["optimizer"] else "adamw" if names["momentum"] is None else "sgd"
    for recipe in RECIPES:
        if only not in (None, recipe["optimizer"]):
            continue
        params = dict(known.default)
        for role, value in recipe.items():
            name = names[role]
            knob = knob_of(name, known.space[name]) if name is not None else None
            if knob is not None and (knob.is_numeric or value in knob.choices):
                params[knob.path] = knob.clip(value) if knob.is_numeric else value
        found.append(params)
    return distinct(found)


def margin(known: Description, value: float) -> float:
    """Log of the allowed error over the error, bent where it is hopeless."""
    if not math.isfinite(value):
        return bent(math.nan)
    if known.direction == "max":
        return bent(-math.log((max(0.0, 1 - value) + known.floor) / (1 - known.target + known.floor)))
    return bent(-math.log(max(value, 1e-9) / known.target))


def curve_of(known: Description, proposal: Proposal, points: list[Point], seconds: float, outcome: str) -> Curve:
    """What a training showed, in margins."""
    samples, margins = tuple(p.samples for p in points), tuple(margin(known, p.value) for p in points)
    return Curve(proposal.params, proposal.horizon, samples, margins, seconds, outcome)


def _study(bench: Bench, method: Method) -> None:
    known = bench.problem.description
    bench.answer(known.default, known.full_horizon)
    space = space_of(known)
    blank = Setting(
        space=space,
        horizon=Knob(path="horizon", low=known.horizon_low, high=known.horizon_high, log=True, integer=True),
        unit=known.full_horizon,
        default=dict(known.default),
        recipes=recipes(known),
        seconds=lambda _params, horizon: horizon,
        seed=bench.seed,
        variant=method.variant,
    )
    clockwork = Clockwork(bench, Encoding(space, blank.horizon.path), method.knows_cost)
    setting = replace(blank, seconds=clockwork)
    models, curves = Models(setting), list[Curve]()
    while len(curves) < MOST_TRIALS:
        proposal = advice.propose(setting, models, curves, bench.left_s)
        if proposal is None:
            return
        trial = _train(bench, setting, models, curves, proposal)
        if trial.points:
            clockwork.learn(proposal.params, trial.points)
        outcome = {"hit": "hit", "missed": "missed", "diverged": "failed"}.get(trial.outcome, "cut")
        curves.append(curve_of(known, proposal, list(trial.points), trial.seconds, outcome))
        params, horizon = advice.answer(setting, models, curves)
        bench.answer(_complete(known, params), round(horizon))


def _train(bench: Bench, setting: Setting, models: Models, curves: list[Curve], proposal: Proposal) -> Trial:
    known = bench.problem.description

    def stop(points: list[Point]) -> bool:
        running = curve_of(known, proposal, points, points[-1].seconds, "running")
        return advice.should_stop(setting, models, curves, running, proposal)

    return bench.run(_complete(known, proposal.params), round(proposal.horizon), proposal.cap_s, stop)


def _complete(known: Description, params: Mapping[str, Any]) -> dict[str, Any]:
    """A value for every knob; the ones that have no effect at this point as in the default recipe."""
    return {name: params.get(name, known.default[name]) for name in known.space}
