"""Suggestions from Optuna: past trials in, one point of the space out.

Every finished trial is added as it really was (horizon shortened or not, recipe or suggestion), so the study never
learns from parameters that were not run. Must not know budgets or executors.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autoaccel.config import Params, to_params
from autoaccel.search.attempts import log_time_to_target
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from autoaccel.trial import SEARCHING, Target, TrialRecord

_BEST, _LATEST = 25, 75
HorizonCap = Callable[[Params], float]
"""Longest horizon, in samples, that is worth running at a point."""


@dataclass(frozen=True)
class Hint:
    """What a suggestion may use besides the trials: the best point (or None), and how long a trial may be."""

    best: Params | None
    longest: HorizonCap


def propose(
    space: Space, records: Iterable[TrialRecord], target: Target, floor: float, *, seed: int, hint: Hint
) -> Params:
    """The next point to try: in turns a suggestion of Optuna's TPE and a neighbour of the best point.

    Args:
        space: the knobs.
        records: all trials so far.
        target, floor: see `attempts.log_time_to_target`, the value that is minimised.
        seed: seed of this suggestion; the same records and seed give the same point.
        hint: best point and bound on the horizon.
    """
    rng = random.Random(seed)
    known = [r for r in records if r.spec.purpose in SEARCHING and r.spec.config is not None]
    if hint.best is not None and rng.random() < 0.5:
        point = neighbour(space, hint.best, rng)
    else:
        point = _suggestion(space, known, target, floor, seed)
    return _shortened(space, point, hint.longest)


def neighbour(space: Space, best: Params, rng: random.Random) -> Params:
    """A point near `best`: a third of the knobs moved a little, at least one.

    A knob whose range changes with a choice (the learning rate of another optimizer) keeps its place in the range.
    """
    before = space.project(best)
    active = space.active(before)
    if not active:  # everything is pinned
        return before
    places = {k.path: k.to_unit(before[k.path]) for k in active if k.is_numeric}
    moved = [k.path for k in active if rng.random() < 0.35] or [rng.choice(active).path]
    point = dict(before)
    for knob in space.knobs:
        if not knob.choices or knob.path not in moved or knob not in active:
            continue
        point[knob.path] = rng.choice([c for c in knob.choices if c != before[knob.path]] or list(knob.choices))
    for knob in space.active(point):
        if knob.is_numeric:
            place = places.get(knob.path, rng.random()) + (_step(knob, rng) if knob.path in moved else 0.0)
            point[knob.path] = knob.from_unit(place)
    return space.project(point)


def _step(knob: Knob, rng: random.Random) -> float:
    """A move on the knob's 0..1 scale; horizons are tried shorter more often than longer."""
    return rng.gauss(-0.05, 0.05) if knob.path == "horizon.samples" else rng.gauss(0.0, 0.12)


def _suggestion(space: Space, known: list[TrialRecord], target: Target, floor: float, seed: int) -> Params:
    study = _study(seed)
    for record in _telling(known, target, floor):
        study.add_trial(optuna_trial(space, record, target, floor))
    return _ask(space, study.ask())


def _telling(known: list[TrialRecord], target: Target, floor: float) -> list[TrialRecord]:
    """The best and the latest of many: TPE looks at a few good points against the rest, and pays for every one."""
    best = sorted(known, key=lambda r: log_time_to_target(r, target, floor))[:_BEST]
    chosen = {r.spec.trial for r in (*best, *known[-_LATEST:])}
    return [r for r in known if r.spec.trial in chosen]


def _study(seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # `group` models conditional knobs jointly; its experimental flag is the only reason for the warning.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=10, group=True, multivariate=True)
    return optuna.create_study(direction="minimize", sampler=sampler)


def _shortened(space: Space, point: Params, longest: HorizonCap) -> Params:
    for knob in space.knobs:
        if knob.path == "horizon.samples":
            point[knob.path] = knob.clip(min(point[knob.path], longest(point)))
    return point


def _ask(space: Space, trial: optuna.Trial) -> Params:
    """Ask a trial for every knob that is active, in the order of the space."""
    point: Params = dict(space.fixed)
    for knob in space.knobs:
        if knob in space.active(point):
            point[knob.path] = trial._suggest(knob.name, _distribution(knob))
    return point


def _distribution(knob: Knob) -> BaseDistribution:
    """A knob as Optuna sees it."""
    if knob.choices:
        return CategoricalDistribution(knob.choices)
    if knob.integer:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def optuna_trial(space: Space, record: TrialRecord, target: Target, floor: float) -> optuna.trial.FrozenTrial:
    """A finished training as Optuna sees it: the parameters that were really run, and the number that is minimised."""
    assert record.spec.config is not None
    params = space.project(to_params(record.spec.config))
    active = space.active(params)
    return optuna.trial.create_trial(
        params={k.name: params[k.path] for k in active},
        distributions={k.name: _distribution(k) for k in active},
        value=log_time_to_target(record, target, floor),
        user_attrs=_attributes(record),
    )


def _attributes(record: TrialRecord) -> dict[str, Any]:
    return {
        "trial": record.spec.trial,
        "purpose": record.spec.purpose,
        "outcome": record.ended.outcome,
        "training_s": record.ended.elapsed_s,
        "metric": record.ended.value,
        "seed": record.spec.config.seed if record.spec.config else None,
        "note": record.spec.note,
    }
