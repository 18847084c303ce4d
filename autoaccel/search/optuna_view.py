"""Trainings as Optuna sees them, for its dashboard and plots: parameters that were really run, and what is minimised.

Nothing is read back from Optuna. Must not know budgets or executors.
"""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial

from autoaccel.config import to_params
from autoaccel.search.attempts import log_time_to_target
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from autoaccel.trial import Target, TrialRecord


def _distribution(knob: Knob) -> BaseDistribution:
    """A knob as Optuna sees it."""
    if knob.choices:
        return CategoricalDistribution(knob.choices)
    if knob.integer:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)


def optuna_trial(space: Space, record: TrialRecord, target: Target, floor: float) -> FrozenTrial:
    """A finished training as Optuna sees it: the parameters that were really run, and the number that is minimised."""
    assert record.spec.config is not None
    params = space.project(to_params(record.spec.config))
    active = space.active(params)
    return create_trial(
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
