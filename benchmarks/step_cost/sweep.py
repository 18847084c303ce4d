"""Every combination of the system knobs of a task, run; and the one that probing chose beside the best of them."""

from __future__ import annotations

import itertools
import statistics
import sys
from contextlib import ExitStack
from typing import Any

from autoaccel.config import TrainerConfig, to_params, with_params
from autoaccel.errors import UsageError
from autoaccel.hardware.profile import usable_cores
from autoaccel.search.prepare import Prepared
from autoaccel.sections import KERNELS
from autoaccel.trainer.parts import LoadedTask
from benchmarks.step_cost.steps import first_extra_s, running
from benchmarks.step_cost.unseen import sample_seconds

KNOBS = (
    "precision.dtype",
    "memory.format",
    "system.threads",
    "system.attention",
    "optim.kernel",
    "batch.accumulation",
    "compile.mode",
)
NOT_COMPILED = ("precision.dtype", "system.attention", "optim.kernel", "batch.accumulation")
"""Compiling takes half a minute here: it is tried with the first value of these only."""
BEST = 3
ROUNDS = 10


def combinations(ready: Prepared) -> list[TrainerConfig]:
    """Every combination that this task and machine can have, the plain one first."""
    base = ready.question.baseline
    values: dict[str, tuple[Any, ...]] = {
        "precision.dtype": ("fp32", "bf16"),
        "memory.format": ("contiguous", "channels_last"),
        "system.threads": tuple(dict.fromkeys((0, usable_cores()))),
        "system.attention": ("auto", "math", "efficient", "flash"),
        "optim.kernel": ("auto", *KERNELS[base.optim.name]),
        "batch.accumulation": (1, 2, 4),
        "compile.mode": ("off", "default"),
    }
    for row in ready.facts["unavailable"]:
        if row["path"] in values:
            kept = [v for v in values[row["path"]] if v == row["off"] or (row["values"] and v not in row["values"])]
            values[row["path"]] = tuple(kept)
    found = []
    for point in itertools.product(*values.values()):
        params = dict(zip(values, point, strict=True))
        if params["compile.mode"] == "off" or all(params[path] == values[path][0] for path in NOT_COMPILED):
            found.append(with_params(base, params))
    return found


def swept(ready: Prepared, loaded: LoadedTask, rule: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The regret of what was chosen, and what it is made of."""
    configs = {config.identity: config for config in combinations(ready)}
    plain = next(iter(configs))
    limit_s = None
    for n, (identity, config) in enumerate(configs.items()):
        if identity not in known:
            known[identity] = _look(loaded, config, rule, limit_s)
            if n % 10 == 0:
                print(f"  combination {n + 1} of {len(configs)}", file=sys.stderr)
        if limit_s is None:
            limit_s = rule["hopeless"] * known[identity]["sample_s"]
    sound = {i: row for i, row in known.items() if i in configs and row["sample_s"] is not None}
    best = sorted(sound, key=lambda i: sound[i]["sample_s"] + sound[i]["start_s"])[:BEST]
    chosen = _chosen(ready, configs)
    times = _in_turns(loaded, {i: configs[i] for i in dict.fromkeys((*best, chosen, plain))}, rule)
    medians = {i: statistics.median(t) + sound.get(i, {"start_s": 0.0})["start_s"] for i, t in times.items()}
    fastest = min(medians, key=lambda i: medians[i])
    return {
        "combinations": len(configs),
        "measured": len(sound),
        "regret": medians[chosen] / medians[fastest] - 1,
        "gain_over_plain": medians[plain] / medians[chosen],
        "chosen": _named(configs[chosen]),
        "fastest": _named(configs[fastest]),
    }


def _look(loaded: LoadedTask, config: TrainerConfig, rule: dict[str, Any], limit_s: float | None) -> dict[str, Any]:
    """Seconds of a sample, and its share of what the first step takes; None where it is hopeless or cannot be."""
    try:
        start_s = 0.0
        if config.compile.mode != "off":
            start_s = first_extra_s(loaded, config) / (config.n_steps * config.batch.size)
        with running(loaded, config) as training:
            first_s = training.sample_s(0.0)
            if limit_s is not None and config.compile.mode == "off" and min(first_s, training.sample_s(0.0)) > limit_s:
                return {"sample_s": None, "start_s": start_s, "params": _named(config)}
            sample_s = training.averaged_s(2, rule["enough_s"], least=2)
    except UsageError:
        return {"sample_s": None, "start_s": 0.0, "params": _named(config)}
    return {"sample_s": sample_s, "start_s": start_s, "params": _named(config)}


def _chosen(ready: Prepared, configs: dict[str, TrainerConfig]) -> str:
    """Of least predicted seconds among those that agree with what was decided."""
    decided = ready.question.space.fixed
    fixed = {path: decided[path] for path in KNOBS if path in decided}
    known = {p: v for p, v in fixed.items() if any(to_params(c)[p] == v for c in configs.values())}
    agreeing = [i for i, c in configs.items() if all(to_params(c)[p] == v for p, v in known.items())]
    cost = ready.question.cost

    def predicted_s(identity: str) -> float:
        config = configs[identity]
        effect = cost.effects.get(("compile.mode", config.compile.mode))
        start_s = effect.setup_s / (config.n_steps * config.batch.size) if effect else 0.0
        return sample_seconds(ready, config)[0] + start_s

    return min(agreeing, key=predicted_s)


def _in_turns(loaded: LoadedTask, configs: dict[str, TrainerConfig], rule: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of a sample of each, one after the other, as often as there are rounds."""
    times: dict[str, list[float]] = {identity: [] for identity in configs}
    with ExitStack() as stack:
        trainings = {i: stack.enter_context(running(loaded, config)) for i, config in configs.items()}
        for training in trainings.values():
            training.sample_s(0.0)
        for n in range(ROUNDS):
            for identity in list(configs) if n % 2 == 0 else list(configs)[::-1]:
                times[identity].append(trainings[identity].averaged_s(2, rule["enough_s"], least=2))
    return times


def _named(config: TrainerConfig) -> dict[str, Any]:
    params = to_params(config)
    return {path: params[path] for path in KNOBS}
