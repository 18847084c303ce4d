"""Random configs of a tuning's space: predicted by its step cost, then run. Must not know the sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from autoaccel.config import TrainerConfig, to_params, with_params
from autoaccel.cost.step_cost import Prediction
from autoaccel.errors import UsageError
from autoaccel.search.encoding import Encoding
from autoaccel.search.prepare import Prepared
from autoaccel.search.question import HORIZON, config_at, predict
from autoaccel.search.reference import reference_config
from autoaccel.trainer.parts import LoadedTask
from benchmarks.step_cost.steps import Running, running

ONE_THREAD = {"system.threads": 0}
"""Workers have one thread where a config does not say."""
_REFERENCE_POINTS = 2


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
    wanted, found = protocol["configs"], 0
    with running(loaded, reference_config(ready.question)) as reference:
        reference.sample_s(0.0)
        for number, config in enumerate(configs(ready, wanted["seed"])):
            if found == wanted["n"]:
                return
            if sample_seconds(ready, config)[0] * config.batch.size > wanted["largest_step_s"]:
                continue
            key = f"{number}-{config.identity}"
            if key not in known:
                try:
                    known[key] = {"key": key, **_measured(loaded, config, reference, protocol["measured"])}
                except UsageError:  # drawn from knobs that exclude each other for this task
                    continue
            found += 1
            yield _row(ready, config, known[key])


def _measured(loaded: LoadedTask, config: TrainerConfig, reference: Running, how: dict[str, Any]) -> dict[str, float]:
    """Seconds of a sample: of the config, of the reference right before and after it, of the config with one thread."""
    alone = with_params(config, ONE_THREAD)
    with ExitStack() as stack:
        first, second = (stack.enter_context(running(loaded, c)) for c in (config, alone))
        for training in (first, second):
            training.sample_s(0.0)
        before_s = reference.averaged_s(_REFERENCE_POINTS, how["reference_s"], least=2)
        sample_s = first.averaged_s(how["points"], how["enough_s"], least=2)
        after_s = reference.averaged_s(_REFERENCE_POINTS, how["reference_s"], least=2)
        one_thread_s = second.averaged_s(how["points"], how["enough_s"], least=2)
    return {"sample_s": sample_s, "reference_s": (before_s + after_s) / 2, "one_thread_s": one_thread_s}


def _row(ready: Prepared, config: TrainerConfig, measured: dict[str, Any]) -> dict[str, Any]:
    """What was measured beside what was predicted."""
    predicted_s, prediction = sample_seconds(ready, config)
    reference_s, _ = sample_seconds(ready, reference_config(ready.question))
    one_thread_s, _ = sample_seconds(ready, with_params(config, ONE_THREAD))
    error = predicted_s / measured["sample_s"] - 1
    base = to_params(ready.question.baseline)
    return {
        **measured,
        "predicted_s": predicted_s,
        "stated_error": prediction.error,
        "error": error,
        "error_of_ratio": (error + 1) * measured["reference_s"] / reference_s - 1,
        "error_one_thread": one_thread_s / measured["one_thread_s"] - 1,
        "params": {p: v for p, v in to_params(config).items() if v != base[p] and p != "seed"},
    }
