"""A training made of formulas, with simulated seconds: a user's objective, and what its result is worth.

The schedule is annealed to the horizon: half of a long training is worth less than a short one. Seeds matter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna

TARGET = 0.93


def error(params: dict[str, Any], epochs: int, done: int, luck: float) -> float:
    """Validation error after `done` of `epochs` epochs."""
    best_lr = 3e-3 if params["optimizer"] == "adam" else 0.3
    off = math.log(params["lr"] / best_lr * math.sqrt(64 / params["batch"]), 10)
    momentum = 0.0 if params["optimizer"] == "adam" else (params["momentum"] - 0.9) ** 2
    reachable = 0.02 * (1 + 2.0 * off**2 + 5 * momentum) + 0.01 * math.log2(params["batch"] / 64) ** 2 / 16
    speed = 0.6 / (1 + 1.5 * off**2 + 3 * momentum)
    unfinished = 1 + 0.8 * (1 - done / epochs)
    return min(0.9, (reachable + 0.5 * (1 + done) ** -speed * 0.5) * unfinished * math.exp(luck))


def epoch_s(params: dict[str, Any]) -> float:
    """Seconds of an epoch: many small steps cost more than few large ones."""
    return 1.0 + 40.0 / params["batch"] + (0.3 if params["optimizer"] == "adam" else 0.0)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    params: dict[str, Any] = {"optimizer": trial.suggest_categorical("optimizer", ["sgd", "adam"])}
    params["lr"] = trial.suggest_float("lr", 1e-4, 10.0, log=True)
    params["batch"] = trial.suggest_int("batch", 8, 512, log=True)
    if params["optimizer"] == "sgd":
        params["momentum"] = trial.suggest_float("momentum", 0.0, 0.99)
    return params


def objective(trial: optuna.Trial, epochs: int | None = None) -> float:
    """One training; what it takes is told by the attribute "seconds", as the clock is not real."""
    params = suggest(trial)
    epochs = epochs or trial.suggest_int("epochs", 1, 100, log=True)
    luck = float(np.random.default_rng([trial.number, 5]).normal(0, 0.04))
    seconds = 0.0
    for epoch in range(1, epochs + 1):
        seconds += epoch_s(params)
        accuracy = 1 - error(params, epochs, epoch, luck)
        trial.report(accuracy, epoch)
        trial.set_user_attr("seconds", seconds)
        if accuracy >= TARGET:
            break
        if trial.should_prune():
            raise optuna.TrialPruned
    return seconds if accuracy >= TARGET else seconds + 1000  # how another sampler is told of a miss


def spend(study: optuna.Study, budget_s: float, epochs: int | None = None) -> optuna.Study:
    """Trials until the budget is spent; the last one may overrun, for every method."""
    spent = 0.0
    while spent < budget_s:
        study.optimize(lambda trial: objective(trial, epochs), n_trials=1)
        spent += study.trials[-1].user_attrs["seconds"]
    return study


def expected_s(params: dict[str, Any], epochs: int) -> float:
    """Expected running time to the target of a configuration, over 200 seeds nobody has seen."""
    lucks = np.random.default_rng(123).normal(0, 0.04, 200)
    spent, hits = 0.0, 0
    for luck in lucks:
        first = next((e for e in range(1, epochs + 1) if 1 - error(params, epochs, e, luck) >= TARGET), None)
        spent += epoch_s(params) * (first or epochs)
        hits += first is not None
    return spent / hits if hits else math.inf
