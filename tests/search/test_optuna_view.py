"""Optuna's view of trials: what was really run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoaccel.budget import parse_budget
from autoaccel.config import Params, TrainerConfig, to_params, with_params
from autoaccel.search.optuna_view import optuna_trial
from autoaccel.trial import Ended, Target, TrialRecord, TrialSpec
from tests.simulated.problems import BASELINE, question

SPACE = question(parse_budget("60s")).space
TARGET = Target.at_least(0.9)


def record(point: Params, trial: int, outcome: str = "missed") -> TrialRecord:
    config = with_params(TrainerConfig(), {**point, "batch.accumulation": 1, "seed": trial})
    spec = TrialSpec(trial, "race", config, TARGET, cap_s=2.0)
    return TrialRecord(spec, (), Ended(trial, outcome, 1.0 + 0.1 * trial, value=0.5 + 0.001 * trial))


@pytest.mark.parametrize("outcome", ["hit", "missed", "capped", "oom"])
def test_the_optuna_view_holds_what_was_really_run(outcome: str) -> None:
    params = {**SPACE.project(to_params(BASELINE)), "optim.name": "sgd", "optim.lr": 0.05, "horizon.samples": 777}
    trial = optuna_trial(SPACE, record(params, 7, outcome), TARGET, 0.001)
    assert trial.params["optim.lr[sgd]"] == 0.05 and "optim.lr[adamw]" not in trial.params
    assert trial.params["horizon.samples"] == 777
    assert trial.user_attrs["outcome"] == outcome and trial.user_attrs["seed"] == 7


def test_what_lies_outside_the_space_is_shown_at_its_edge() -> None:
    spec = TrialSpec(1, "baseline", replace(BASELINE, seed=1), TARGET)
    trial = optuna_trial(SPACE, TrialRecord(spec, (), Ended(1, "hit", 1.0)), TARGET, 0.001)
    assert trial.params["optim.weight_decay"] == 1e-6
