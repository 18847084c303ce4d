"""Extra problems from public recordings, reported apart: AlgoPerf runs (pick from a list) and TaskSet text RNNs.

Horizons only cut the recorded curves. AlgoPerf: one categorical knob, a training is one of the recorded repeats, judged
on the same repeats that studies see. TaskSet: eight continuous knobs of Adam, answered by the nearest recorded
configuration; no time was recorded, a look counts one second. Must not know any method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, final

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from benchmarks.search.problem import Description, Params, Point, Problem
from benchmarks.search.problems.data import Absent, data_file, protocol

PERCENT: Final = 100
LOOKS: Final = 50
KNOBS: Final = (
    "learning_rate",
    "one_minus_beta1",
    "one_minus_beta2",
    "epsilon",
    "l1",
    "l2",
    "linear_decay",
    "exponential_decay",
)


@final
class AlgoPerf(Problem):
    """One workload; the horizon is in hundredths of the run time that the candidate's rules allow."""

    def __init__(self, workload: str) -> None:
        self._runs, self._allowed_s = recorded_runs(workload)
        entry = protocol()["families"]["algoperf"]["problems"][f"algoperf-{workload}"]
        default = {"candidate": next(name for name in self._runs if name.startswith("baseline-"))}
        target = float(entry["target"])
        self.description = Description(
            name=f"algoperf-{workload}",
            family="algoperf",
            space={"candidate": CategoricalDistribution(tuple(self._runs))},
            conditions={},
            horizon_low=1,
            horizon_high=PERCENT,
            full_horizon=PERCENT,
            default=default,
            target=target,
            direction=entry["direction"],
            floor=1e-3 * target,
            n_fresh=5,
            full_s=self._allowed_s[default["candidate"]],
        )

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        repeats = self._runs[params["candidate"]]
        per_percent = self.seconds_per_sample(params)
        value = 0.0 if self.description.direction == "max" else 1e3 * self.description.target
        for seconds, seen in repeats[seed % len(repeats)]:
            if seconds / per_percent >= horizon:
                break
            value = seen
            yield Point(seconds / per_percent, seconds, value)
            if math.isnan(value):
                return
        yield Point(float(horizon), horizon * per_percent, value)

    def seconds_per_sample(self, params: Params) -> float:
        return self._allowed_s[params["candidate"]] / PERCENT


@final
class TaskSet(Problem):
    """One task; the horizon is in looks, 200 updates each."""

    def __init__(self, task: str) -> None:
        self._logs, self._curves = recorded_table(task)
        entry = protocol()["families"]["taskset"]
        target = float(entry["problems"][f"taskset-{task}"]["target"])
        low, high = np.exp(self._logs.min(axis=0)), np.exp(self._logs.max(axis=0))
        space: dict[str, BaseDistribution] = {
            knob: FloatDistribution(float(a), float(b), log=True) for knob, a, b in zip(KNOBS, low, high, strict=True)
        }
        default = {
            knob: float(np.clip(entry["default"][knob], a, b)) for knob, a, b in zip(KNOBS, low, high, strict=True)
        }
        self.description = Description(
            name=f"taskset-{task}",
            family="taskset",
            space=space,
            conditions={},
            horizon_low=1,
            horizon_high=LOOKS,
            full_horizon=LOOKS,
            default=default,
            target=target,
            direction="min",
            floor=1e-3,
            n_fresh=1,
            full_s=float(LOOKS),
        )

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        wanted = np.log([params[knob] for knob in KNOBS])
        width = np.ptp(self._logs, axis=0)
        nearest = int((((self._logs - wanted) / width) ** 2).sum(axis=1).argmin())
        for look in range(1, min(horizon, LOOKS) + 1):
            value = float(self._curves[nearest, look])
            yield Point(float(look), float(look), value if math.isfinite(value) else math.nan)
            if not math.isfinite(value):
                return

    def seconds_per_sample(self, params: Params) -> float:
        return 1.0


@cache
def recorded_runs(workload: str) -> tuple[dict[str, list[list[tuple[float, float]]]], dict[str, float]]:
    """Candidate -> its repeats as (seconds, value); candidate -> allowed seconds. Held-out workloads are refused."""
    if f"algoperf-{workload}" not in protocol()["families"]["algoperf"]["problems"]:
        raise ValueError(f"workload {workload} is held out")
    only = [("workload", "=", workload)]
    trials = _rows("trials.parquet", only, ["trial_id", "submission", "hparams", "metric", "max_runtime_sec"])
    wanted = {row["trial_id"] for row in trials}
    curves: dict[int, list[tuple[float, float]]] = {}
    scale = 0.01 if trials[0]["metric"] == "bleu" else 1.0
    for row in _rows("curves.parquet", [("trial_id", "in", wanted)], ["trial_id", "time", "val"]):
        if row["val"] is not None and row["time"] is not None:
            curves.setdefault(row["trial_id"], []).append((row["time"], row["val"] * scale))
    runs: dict[str, list[list[tuple[float, float]]]] = {}
    allowed: dict[str, float] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for row in trials:
        key = (row["submission"], row["hparams"] or "", row["max_runtime_sec"])
        name = seen.setdefault(key, f"{row['submission']}-{len(seen)}")
        if row["trial_id"] in curves:
            runs.setdefault(name, []).append(sorted(curves[row["trial_id"]]))
            allowed[name] = float(row["max_runtime_sec"])
    return runs, allowed


def recorded_table(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Logs of the recorded configurations and their validation losses [configuration, look]; look 0 is untrained."""
    if f"taskset-{task}" not in protocol()["families"]["taskset"]["problems"]:
        raise ValueError(f"task {task} is held out")
    with np.load(data_file("taskset_rnn", "taskset_rnn.npz")) as table:
        index = list(table["tasks"]).index(f"FixedTextRNNClassification_{task}")
        knobs, losses = table["hp"][index].copy(), table["valid"][index]
    knobs[:, 1:3] = 1 - knobs[:, 1:3]
    return np.log(knobs), losses


def _rows(name: str, only: list[Any], columns: list[str]) -> list[dict[str, Any]]:
    file = data_file("algoperf_curves", name)
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Absent("the AlgoPerf curves need the package pyarrow") from error
    found: list[dict[str, Any]] = parquet.read_table(file, filters=only, columns=columns).to_pylist()
    return found
