"""Random configs of a tuning's space: predicted by its step cost, then run. Must not know the sweep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from autoaccel.config import TrainerConfig, to_params
from autoaccel.cost.step_cost import Prediction
from autoaccel.errors import UsageError
from autoaccel.search.encoding import Encoding
from autoaccel.search.prepare import Prepared
from autoaccel.search.question import HORIZON, config_at, predict
from autoaccel.trainer.parts import LoadedTask
from benchmarks.step_cost.steps import running


def configs(ready: Prepared, seed: int) -> Iterator[TrainerConfig]:
    """Random points of the space of a tuning, at the baseline's horizon and not compiled."""
    rng, space = np.random.default_rng(seed), ready.question.space
    encoding = Encoding(space, HORIZON)
    off = {"compile.mode": "off"} if "compile.mode" in space.paths else {}
    while True:
        (point,) = encoding.params(encoding.anywhere(rng, 1))
        point = {path: value for path, value in point.items() if path != HORIZON}
        try:
            yield config_at(ready.question, {**point, **space.fixed, **off})
        except UsageError:
            continue


def sample_seconds(ready: Prepared, config: TrainerConfig) -> tuple[float, Prediction]:
    """Predicted seconds of a sample, evaluations and the first step's extra left out."""
    predicted = predict(ready.question, config)
    cost = ready.question.cost
    bare = replace(cost, evaluation={}, evaluation_flops=0.0)
    samples = config.n_steps * config.batch.size
    setup_s = sum(e.setup_s for e in cost.effects.values() if to_params(config)[e.path] == e.value)
    return (bare.predict(config).seconds - setup_s) / samples, predicted


def compared(
    ready: Prepared, loaded: LoadedTask, protocol: dict[str, Any], known: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows of configs that were predicted and measured.

    Args:
        ready: what the tuning knew before it searched.
        loaded: the task.
        protocol: of the benchmark.
        known: rows of an earlier run, by key; they are not measured again.
    """
    how, wanted, found = protocol["measured"], protocol["configs"], 0
    base = to_params(ready.question.baseline)
    for number, config in enumerate(configs(ready, wanted["seed"])):
        if found == wanted["n"]:
            return
        predicted_s, prediction = sample_seconds(ready, config)
        if predicted_s * config.batch.size > wanted["largest_step_s"]:
            continue
        key = f"{number}-{config.identity}"
        if key not in known:
            try:
                with running(loaded, config) as training:
                    training.sample_s(0.0)
                    measured_s = training.averaged_s(how["points"], how["enough_s"], least=2)
            except UsageError:  # drawn from knobs that exclude each other for this task
                continue
            known[key] = {"key": key, "sample_s": measured_s}
        found += 1
        error = predicted_s / known[key]["sample_s"] - 1
        params = {p: v for p, v in to_params(config).items() if v != base[p] and p != "seed"}
        stated = {"predicted_s": predicted_s, "stated_error": prediction.error}
        yield {**known[key], **stated, "error": error, "params": params}
