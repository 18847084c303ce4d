"""Between the words of a study (records, specs, configs) and those of the model (curves, points, proposals).

Pure, one value in and one out. Must not decide anything or remember anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from autoaccel.config import Params, TrainerConfig, to_params
from autoaccel.cost import memory
from autoaccel.cost.step_cost import READS
from autoaccel.errors import UsageError
from autoaccel.search.attempts import shortfall
from autoaccel.search.evidence import Curve, bent
from autoaccel.search.question import HORIZON, Question, config_at, fits, with_horizon
from autoaccel.search.setting import Proposal, Setting, distinct
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from autoaccel.trial import FAILURES, Ended, Report, TrialRecord, TrialSpec

RUNNING = "running"
"""Outcome of a training that has not ended yet."""


def setting_of(question: Question) -> Setting:
    """The question in the words of the model."""
    space, baseline = question.space, question.baseline
    knob = next((k for k in space.knobs if k.path == HORIZON), None)
    pinned = knob is None
    if knob is None:  # pinned, or not in the space at all: what is chosen is the time by which it should have hit
        samples = _pinned_horizon(question)
        knob = Knob(path=HORIZON, low=max(1, samples // 64), high=samples, log=True, integer=True)
    knobs = tuple(k for k in space.knobs if k.path != HORIZON)
    if not knobs:  # the model needs one: any setting, with a choice of one
        knobs = (Knob(path="optim.name", choices=(space.fixed.get("optim.name", baseline.optim.name),)),)
    inner = replace(space, knobs=knobs, fixed={p: v for p, v in space.fixed.items() if p != HORIZON})
    possible = partial(_is_config, question)
    recipes = [point_of(inner, {**to_params(baseline), **r.params}) for r in space.recipes]
    return Setting(
        space=inner,
        horizon=knob,
        unit=float(baseline.horizon.samples),
        default=point_of(inner, to_params(baseline)),
        recipes=distinct([recipe for recipe in recipes if possible(recipe)]),
        seconds=_pricing(question),
        possible=possible,
        pinned=pinned,
        seed=question.seed,
    )


def _pricing(question: Question) -> Callable[[Mapping[str, Any], float], float]:
    """Predicted seconds of a point and a horizon, as a line in the horizon from one sample to that of a full training.

    It starts with the one evaluation that every training ends with, so that short ones are not priced too low: the
    search would expect, for ever, to gain what the price leaves out.

    A decision prices thousands of points: no config is built for it, and the line is remembered for the settings that
    the cost depends on, with micro-batches split as they will be. What is no config has a price like any other;
    `_is_config` tells.
    """
    space, baseline, cost = question.space, question.baseline, question.cost
    long, every = question.full_samples, baseline.evaluate.every_samples
    given = {**to_params(baseline), **question.conditional, **space.fixed}
    reads = READS if math.isinf(cost.memory.limit) else (*READS, *memory.READS)
    varied = [path for path in dict.fromkeys(reads) if path in space.paths]
    lines: dict[tuple[Any, ...], tuple[float, float]] = {}

    def line(params: Mapping[str, Any]) -> tuple[float, float]:
        everything = {**given, **params, **space.fixed}
        everything["batch.accumulation"] = min(everything["batch.accumulation"], everything["batch.size"])
        everything |= cost.split(everything, "batch.accumulation" in space.fixed)
        short_s, long_s = (cost.training(everything, n, every).seconds for n in (1, long))
        slope_s = max(1e-12, (long_s - short_s) / max(1, long - 1))
        return max(0.0, short_s - slope_s), slope_s

    def seconds(params: Mapping[str, Any], samples: float) -> float:
        identity = tuple([params.get(path) for path in varied])
        if identity not in lines:
            lines[identity] = line(params)
        fixed_s, slope_s = lines[identity]
        return fixed_s + slope_s * samples

    return seconds


def _is_config(question: Question, params: Mapping[str, Any]) -> bool:
    """Whether there is a config of these settings, beside what is pinned and what stays as in the baseline, that fits
    into memory."""
    try:
        return fits(question, _config(question, params, question.baseline.horizon.samples))
    except UsageError:
        return False


def point_of(space: Space, params: Params) -> Params:
    """The knobs that are active at the nearest point of the space."""
    point = space.project(params)
    return {knob.path: point[knob.path] for knob in space.active(point)}


def config_of(question: Question, setting: Setting, params: Mapping[str, Any], samples: float) -> TrainerConfig:
    """The config of a point and a horizon, both inside the space. Seed 0."""
    if HORIZON not in question.space.paths:
        return _config(question, params, _pinned_horizon(question))
    return _config(question, params, setting.horizon.clip(samples))


def _pinned_horizon(question: Question) -> int:
    return int(question.space.fixed.get(HORIZON, question.baseline.horizon.samples))


def _config(question: Question, params: Mapping[str, Any], samples: float) -> TrainerConfig:
    return with_horizon(config_at(question, {**params, **question.space.fixed}), samples)


def as_running(spec: TrialSpec, reports: Sequence[Report], crowding: float = 1.0) -> TrialRecord:
    """A training that has not ended, as a record; `crowding` is how much longer it has taken so far than alone."""
    elapsed_s, cpu_s = (reports[-1].elapsed_s, reports[-1].cpu_s) if reports else (0.0, None)
    ended = Ended(spec.trial, RUNNING, elapsed_s, cpu_s=cpu_s)
    return TrialRecord(spec, tuple(reports), ended, crowding=crowding, ended_at_s=math.inf)


def curve_of(question: Question, setting: Setting, record: TrialRecord) -> Curve:
    """What a training has shown, as the model sees it."""
    config, reports = record.spec.config, [r for r in record.reports if r.samples > 0]
    assert config is not None
    return Curve(
        params=point_of(setting.space, to_params(config)),
        horizon=float(config.horizon.samples),
        samples=tuple(float(r.samples) for r in reports),
        margins=tuple(bent(-shortfall(question.target, r.value, question.floor)) for r in reports),
        seconds=record.ended.elapsed_s,
        outcome=_outcome(record.ended.outcome),
    )


def _outcome(ended: str) -> str:
    if ended in ("hit", "missed", RUNNING):
        return ended
    return "failed" if ended in FAILURES else "cut"


def bet_of(proposal: Proposal, against: int | None) -> dict[str, Any]:
    """What a trial was started for, as plain JSON that goes with its spec."""
    return {
        "rate": proposal.rate,
        "goal": proposal.goal,
        "gain": proposal.gain,
        "reference_s": proposal.reference_s if math.isfinite(proposal.reference_s) else None,
        "against": against,
    }


def proposal_of(setting: Setting, spec: TrialSpec) -> Proposal:
    """The proposal a spec came from."""
    config, bet = spec.config, spec.bet
    assert config is not None
    return Proposal(
        params=point_of(setting.space, to_params(config)),
        horizon=float(config.horizon.samples),
        cap_s=spec.cap_s or math.inf,
        rate=bet["rate"],
        purpose=spec.purpose,
        why=spec.note,
        goal=bet["goal"],
        reference_s=math.inf if bet["reference_s"] is None else bet["reference_s"],
        gain=bet["gain"],
    )
