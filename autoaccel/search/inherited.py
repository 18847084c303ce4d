"""Trainings of earlier studies of the same task as evidence of this one.

Samples to the target do not depend on the hardware, seconds do: those are predicted anew by this machine's step cost.
Pure values; what an earlier study found and this one cannot repeat is dropped. Must not know files or decisions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from autoaccel.config import Params, to_params
from autoaccel.cost.memory import PeakMemory
from autoaccel.search.attempts import shortfall
from autoaccel.search.book import Entry, key
from autoaccel.search.evidence import Curve, bent
from autoaccel.search.question import HORIZON, Question
from autoaccel.search.setting import Setting
from autoaccel.search.transfer import as_here
from autoaccel.search.translate import config_of, point_of, setting_of
from autoaccel.space.knobs import Knob
from autoaccel.store.library import Past, PastTraining

MOST = 200
"""Past trainings that are used."""
_NEAR_MOST = 150
"""Of them, those that came near: a model needs to know what is bad too."""
_NEAR = -0.5
"""The least margin that is near."""
TRIES = 2
"""A configuration that hit before and misses so often here, without a hit, is no longer believed."""
_PIECES = "batch.accumulation"
_REFUTED = 3
"""So many of those and nothing of the past is believed: it was another task after all."""


def chosen(question: Question, past: Past) -> Past:
    """The trainings this study can use, the newest first to be kept, those that came near preferred."""
    setting = setting_of(question)
    curves = [(training, curve_of_past(question, setting, training)) for training in past.trainings]
    usable = [(n, t, max(c.margins, default=-math.inf)) for n, (t, c) in enumerate(curves) if c is not None]
    near = [(n, t) for n, t, margin in usable if margin >= _NEAR]
    far = [(n, t) for n, t, margin in usable if margin < _NEAR]
    kept = far[-max(MOST - _NEAR_MOST, MOST - len(near)) :]
    kept += near[-(MOST - len(kept)) :]
    return replace(past, trainings=tuple(t for _, t in sorted(kept, key=lambda pair: pair[0])))


def past_curves(question: Question, setting: Setting) -> list[Curve]:
    """The past of a question as curves, oldest first; what does not fit into the space is left out."""
    found = (curve_of_past(question, setting, training) for training in question.past.trainings)
    return [curve for curve in found if curve is not None]


def curve_of_past(question: Question, setting: Setting, training: PastTraining) -> Curve | None:
    """A past training as it would have been here, for this target; None if it cannot be run here."""
    point = _point(question, setting, training.params)
    if point is None or not setting.possible(point):
        return None
    reached = [v is not None and question.target.reached(v) for v in training.values]
    n_seen = reached.index(True) + 1 if any(reached) else len(reached)
    samples = tuple(float(n) for n in training.samples[:n_seen])
    shortfalls = [shortfall(question.target, v, question.floor) for v in training.values[:n_seen]]
    return Curve(
        params=point,
        horizon=float(training.params[HORIZON]),
        samples=samples,
        margins=tuple(bent(-s) for s in shortfalls),
        seconds=setting.seconds(point, samples[-1] if samples else 0.0),
        outcome="hit" if any(reached) else _outcome(training.outcome),
    )


def standing(past: Sequence[Curve], own: Iterable[Curve]) -> list[int]:
    """Places of the past curves that this study has not refuted."""
    tried, hits = Counter[tuple[Any, ...]](), set()
    for curve in own:
        tried[key(curve.params, curve.horizon)] += 1
        if curve.hit:
            hits.add(key(curve.params, curve.horizon))
    refuted = {k for c in past if c.hit and (k := key(c.params, c.horizon)) not in hits and tried[k] >= TRIES}
    if len(refuted) >= _REFUTED:
        return []
    return [n for n, c in enumerate(past) if key(c.params, c.horizon) not in refuted]


def is_unproven(best: Entry, own: Sequence[Curve], running: Sequence[Curve]) -> bool:
    """Whether a configuration is known from the past alone: it has not hit here and is not being tried."""
    mine = key(best.params, best.horizon)
    if any(key(c.params, c.horizon) == mine for c in running):
        return False
    return not any(c.hit and key(c.params, c.horizon) == mine for c in own)


def _outcome(ended: str) -> str:
    """`hit` was one of a lower target: it was cut before this one."""
    return {"missed": "missed", "diverged": "failed"}.get(ended, "cut")


def _point(question: Question, setting: Setting, given: Params) -> Params | None:
    """The point of a config, if it lies in the space and everything that is not searched is as it would be here."""
    known = to_params(question.baseline)
    if not given.keys() <= known.keys():
        return None
    # Knobs it did not know yet are as in the baseline; what changes nothing but seconds is as it is here.
    params = as_here(question.space, known, {**known, **given})
    if any(k.path == _PIECES and not _has(k, params[_PIECES]) for k in setting.space.knobs):
        params[_PIECES] = point_of(setting.space, params)[_PIECES]  # split for a smaller memory, as `curve_of` reads it
    horizon = params[HORIZON]
    if not setting.horizon.low <= horizon <= setting.horizon.high:
        return None
    outside = {k.path for k in setting.space.active(params) if not _has(k, params[k.path])}
    if any(params[path] != known[path] for path in outside):  # the baseline may be outside, as in `curve_of`
        return None
    point = point_of(setting.space, params)
    if not setting.possible(point):
        return None
    # Without a memory that is too small for a micro-batch: split, it is the same training.
    anywhere = replace(question, cost=replace(question.cost, memory=PeakMemory()))
    here = to_params(config_of(anywhere, setting, point, horizon))
    ignored = ({*setting.space.paths, "seed"} - point.keys()) | outside | {"evaluate.batch"}
    if any(here[path] != value for path, value in params.items() if path not in ignored):
        return None
    return point if point_of(setting.space, here) == point else None


def _has(knob: Knob, value: Any) -> bool:
    if not knob.is_numeric:
        return value in knob.choices
    return isinstance(value, int | float) and knob.low <= value <= knob.high
