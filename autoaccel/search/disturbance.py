"""One thread instead of several while others disturb the machine: several wait for each other, one waits for nobody.

It is the same training up to rounding, and its seconds are translated by what threads were measured to do. Pure. Must
not know when reference steps are run.
"""

from __future__ import annotations

from dataclasses import replace

from autoaccel.config import TrainerConfig
from autoaccel.cost.drift import Drift, slowdown_now, waits_for_nothing
from autoaccel.search.question import Question, predict
from autoaccel.search.reference import reference_config
from autoaccel.trial import TrialRecord, TrialSpec

_CLEARLY = 1.2
"""So many times longer than one thread alone would, reference steps of several take where trainings get one."""


def has_one_thread(question: Question, drift: Drift) -> bool:
    """Whether trainings are better off with one thread now than with the several that were decided.

    Two threads beside one endless loop on two cores took 2 to 60 times as long, one as long as ever (2-core EPYC,
    libgomp, 2026-11-22).
    """
    config = reference_config(question)
    if config.system.threads < 2 or config.parallel.n > 1 or not waits_for_nothing(drift, _alone(config)):
        return False
    return drift.slowdown[-1] > _CLEARLY * slower(question, config)


def slower(question: Question, config: TrainerConfig) -> float:
    """How many times longer a training takes with one thread on a quiet machine, as predicted; at least 1."""
    return max(1.0, predict(question, _alone(config)).seconds / predict(question, config).seconds)


def as_disturbed(question: Question, drift: Drift, spec: TrialSpec) -> TrialSpec:
    """A training as it is run now: with one thread if that is better."""
    if spec.config is None or not has_one_thread(question, drift):
        return spec
    return replace(spec, threads=1, slower=slower(question, spec.config))


def slowdown(question: Question, drift: Drift, records: list[TrialRecord]) -> float:
    """How many times longer a training takes now than it would with its own threads on the machine at its best."""
    config = reference_config(question)
    if not has_one_thread(question, drift):
        return slowdown_now(drift, records, config)
    return slower(question, config) * slowdown_now(drift, records, _alone(config))


def _alone(config: TrainerConfig) -> TrainerConfig:
    return replace(config, system=replace(config.system, threads=0))
