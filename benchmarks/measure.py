"""Trainings for benchmarks: the same worker process and trainer a tuning uses, one training after another.

Also the protocol: the target of a task as the 10th percentile of its default recipe's final metric. Must not know
which benchmark asks.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoaccel.clock import utc_timestamp
from autoaccel.config import TrainerConfig, from_dict, to_params
from autoaccel.execution.local import LocalExecutor, TaskSource
from autoaccel.fingerprint import software
from autoaccel.trial import Ended, Target, TrialSpec
from benchmarks.estimates import interval, selections

FRESH_SEEDS = 5_000_000_000
"""Benchmarks count from here; searches stay below 2**31, confirmations below 2**31 + 10**6."""


class Trainings:
    """A worker with a loaded task; `facts` is what preflight said of it."""

    def __init__(self, source: TaskSource) -> None:
        self._executor = LocalExecutor(source)
        self._next = 0
        self.facts = self._run(TrialSpec(0, "preflight")).facts

    def train(self, config: TrainerConfig, seed: int, target: Target | None) -> Ended:
        """One training to the target, or to the horizon without one."""
        return self._run(TrialSpec(0, "benchmark", replace(config, seed=seed), target))

    def close(self) -> None:
        self._executor.close()

    def _run(self, spec: TrialSpec) -> Ended:
        self._next += 1
        self._executor.start(replace(spec, trial=self._next))
        while True:
            for event in self._executor.wait(600.0):
                if isinstance(event, Ended):
                    if event.outcome in ("refused", "crashed"):
                        raise RuntimeError(event.message)
                    return event


@contextmanager
def trainings(source: TaskSource) -> Iterator[Trainings]:
    """A `Trainings` that is closed at the end."""
    opened = Trainings(source)
    try:
        yield opened
    finally:
        opened.close()


def paired(
    run: Trainings, baseline: TrainerConfig, tuned: TrainerConfig, target: Target, seeds: list[int]
) -> list[dict[str, Any]]:
    """Both configurations on each seed, in turns and in alternating order; a row per seed, progress on stderr."""
    rows = []
    for index, seed in enumerate(seeds):
        pair = [("baseline", baseline), ("tuned", tuned)]
        row: dict[str, Any] = {"seed": seed}
        for name, config in pair if index % 2 else reversed(pair):
            ended = run.train(config, seed, target)
            row |= {f"{name}_hit": ended.outcome == "hit", f"{name}_s": ended.elapsed_s}
        rows.append(row)
        print(f"seed {index + 1}/{len(seeds)}: {row}", file=sys.stderr)
    return rows


def speedup(rows: list[dict[str, Any]], full_training_s: float) -> dict[str, Any]:
    """ERT(baseline) / ERT(tuned) with a paired 95 % bootstrap interval; an arm that never hits counts as ten full
    default trainings."""
    time = {name: np.array([row[f"{name}_s"] for row in rows]) for name in ("baseline", "tuned")}
    hit = {name: np.array([row[f"{name}_hit"] for row in rows]) for name in ("baseline", "tuned")}

    def ert(name: str, index: Any) -> Any:
        hits = hit[name][index].sum(axis=-1)
        measured = time[name][index].sum(axis=-1) / np.maximum(hits, 1)
        return np.where(hits == 0, 10 * full_training_s, measured)

    everything = np.arange(len(rows))
    draws = selections(len(rows))
    value = float(ert("baseline", everything) / ert("tuned", everything))
    return {
        "speedup": value,
        "interval": interval(ert("baseline", draws) / ert("tuned", draws)),
        "bound": not hit["baseline"].any(),
        "baseline_s": float(ert("baseline", everything)),
        "tuned_s": float(ert("tuned", everything)),
    }


def write_protocol(file: Path, source: TaskSource, n_seeds: int) -> None:
    """Run the task's baseline to its horizon on fresh seeds; its 10th percentile becomes the target."""
    with trainings(source) as run:
        baseline = from_dict(run.facts["baseline"])
        values = []
        for index in range(n_seeds):
            ended = run.train(baseline, FRESH_SEEDS // 2 + index, None)
            values.append(ended.value)
            print(f"seed {index + 1}/{n_seeds}: {ended.value} in {ended.elapsed_s:.2f}s", file=sys.stderr)
    percentile = float(np.quantile([v if v is not None else 0.0 for v in values], 0.1))
    document = {
        "recipe": to_params(baseline),
        "recipe_source": "Keras documentation, examples/vision/mnist_convnet: Adam at its default rate, batch 128, "
        "15 epochs",
        "cadence": "one evaluation per epoch, the same for every configuration",
        "metric": run.facts["metric"],
        "n_validation": run.facts["n_validation"],
        "seeds": n_seeds,
        "final_values": values,
        "target": math.floor(percentile * 1e4) / 1e4,
        "target_rule": "10th percentile of the recipe's final validation metric, rounded down to 4 digits",
        "date": utc_timestamp(),
        "software": software(),
    }
    file.write_text(json.dumps(document, indent=2) + "\n")
    print(f"target {document['target']} written to {file}", file=sys.stderr)
