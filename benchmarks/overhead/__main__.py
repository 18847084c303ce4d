"""python -m benchmarks.overhead [--quick] [--json]: milliseconds of a suggestion, by number of trials in the study."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler

from autoaccel import TimeToTargetPruner, TimeToTargetSampler
from benchmarks.document import print_document, write_document
from benchmarks.options import parser

HERE = Path(__file__).parent
TARGET, N_REPORTS = 0.95, 10
SIZES = (20, 100, 300, 3000)
SPACE: dict[str, BaseDistribution] = {
    "optimizer": CategoricalDistribution(("sgd", "adamw", "lion")),
    "schedule": CategoricalDistribution(("cosine", "linear")),
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
    "momentum": FloatDistribution(0.0, 0.99),
    "warmup": FloatDistribution(0.0, 0.5),
    "batch": IntDistribution(8, 1024, log=True),
    "epochs": IntDistribution(1, 100, log=True),
}
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "time_to_target": lambda seed: TimeToTargetSampler(TARGET, "epochs", seed=seed),
    "optuna_tpe": lambda seed: TPESampler(seed=seed),
}


def training(params: dict[str, Any], luck: float) -> tuple[dict[int, float], float]:
    """Accuracy at ten steps and seconds of a made-up training; some hit, most miss, seeds matter."""
    off = (
        np.log10(params["lr"] / 0.05) ** 2 + (params["momentum"] - 0.9) ** 2 + 0.1 * np.log10(params["batch"] / 64) ** 2
    )
    epochs = params["epochs"]
    steps = sorted({max(1, round(epochs * (k + 1) / N_REPORTS)) for k in range(N_REPORTS)})
    errors = {s: (0.03 + 0.02 * off + 0.4 * (1 + s) ** -0.7) * (1.8 - 0.8 * s / epochs) * np.exp(luck) for s in steps}
    values = {s: float(max(0.0, 1 - e)) for s, e in errors.items()}
    first = next((s for s, v in values.items() if v >= TARGET), steps[-1])
    return {s: v for s, v in values.items() if s <= first}, first * (1.0 + 40.0 / params["batch"])


def filled(sampler: BaseSampler, n: int, seed: int) -> optuna.Study:
    """A study with n ended trials at random points; a third were cut on the way."""
    study = optuna.create_study(sampler=sampler)
    rng = np.random.default_rng(seed)
    drawing = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(n):
        params = drawing.ask(SPACE).params
        values, seconds = training(params, rng.normal(0, 0.05))
        cut = rng.random() < 1 / 3 and len(values) > 3
        if cut:
            values = dict(list(values.items())[: len(values) // 2])
        study.add_trial(
            optuna.create_trial(
                params=params,
                distributions=SPACE,
                value=None if cut else seconds,
                state=optuna.trial.TrialState.PRUNED if cut else optuna.trial.TrialState.COMPLETE,
                intermediate_values=values,
                user_attrs={"seconds": seconds},
            )
        )
    return study


def measured(name: str, n: int, repeats: int, seed: int) -> dict[str, Any]:
    """Suggestions of one study while it grows around n trials: the first, which starts from nothing, and the others."""
    sampler = SAMPLERS[name](seed)
    study = filled(sampler, n - repeats // 2, seed)
    pruner = TimeToTargetPruner(sampler) if isinstance(sampler, TimeToTargetSampler) else None
    rng = np.random.default_rng(seed + 1)
    asks, prunes = [], []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        trial = study.ask(SPACE)
        asks.append(1000 * (time.perf_counter() - start))
        values, seconds = training(trial.params, rng.normal(0, 0.05))
        trial.set_user_attr("seconds", seconds)
        for step, value in values.items():
            trial.report(value, step)
            if pruner is not None:
                frozen = study._storage.get_trial(trial._trial_id)
                start = time.perf_counter()
                pruner.prune(study, frozen)
                prunes.append(1000 * (time.perf_counter() - start))
        study.tell(trial, seconds)
    row = {
        "sampler": name,
        "trials": n,
        "repeats": repeats,
        "first_ms": asks[0],
        "median_ms": float(np.median(asks[1:])),
    }
    row |= {"p95_ms": float(np.quantile(asks[1:], 0.95)), "most_ms": max(asks[1:])}
    return row | {"prune_median_ms": float(np.median(prunes)) if prunes else None}


def main() -> None:
    options = parser("overhead", __doc__, quick="10 suggestions instead of 40 at each size", keeps=False).parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for n in SIZES:
        for name in SAMPLERS:
            rows.append(measured(name, n, 10 if options.quick else 40, seed=0))
            print(rows[-1], file=sys.stderr)
    ours = {row["trials"]: row for row in rows if row["sampler"] == "time_to_target"}
    tpe = {row["trials"]: row for row in rows if row["sampler"] == "optuna_tpe"}
    figures: dict[str, Any] = {}
    for n in SIZES:
        figures |= {f"suggest_ms_{n}": ours[n]["median_ms"], f"suggest_p95_ms_{n}": ours[n]["p95_ms"]}
        figures |= {f"first_suggest_ms_{n}": ours[n]["first_ms"], f"prune_ms_{n}": ours[n]["prune_median_ms"]}
        figures |= {f"optuna_tpe_suggest_ms_{n}": tpe[n]["median_ms"]}
    document = write_document(HERE, "overhead", seeds=[0], quick=options.quick, body={"figures": figures, "rows": rows})
    print_document(document, options.json)


if __name__ == "__main__":
    main()
