"""LCBench problems: a public surrogate of 52-epoch trainings, replayed; deterministic, so one fresh seed is enough.

The horizon is in epochs and only cuts the curve (nothing is annealed). The surrogate and the configuration space come
from YAHPO Gym (Apache-2.0); only the development tasks of the protocol may be opened. Must not know any method.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, final

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from benchmarks.search.problem import Description, Params, Point, Problem
from benchmarks.search.problems.data import Absent, data_file, protocol

FOLDER: Final = "yahpo_lcbench"
EPOCHS: Final = 52
KNOBS: Final = (
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
"""In the order in which the surrogate wants them."""


@final
class LcBench(Problem):
    """One task of the surrogate."""

    def __init__(self, task: str, target: float) -> None:
        self._code = task_code(task)
        self._curves: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = {}
        default = protocol()["families"]["lcbench"]["default"]
        self.description = Description(
            name=f"lcbench-{task}",
            family="lcbench",
            space=space(),
            conditions={},
            horizon_low=1,
            horizon_high=EPOCHS,
            full_horizon=EPOCHS,
            default=default,
            target=target,
            n_fresh=1,
            full_s=float(self.curve(default)[0][-1]),
        )

    def curve(self, params: Params) -> tuple[np.ndarray, np.ndarray]:
        """Seconds and validation accuracy after each epoch; time never runs backwards."""
        key = tuple(float(params[knob]) for knob in KNOBS)
        if key not in self._curves:
            inputs = np.empty((EPOCHS, 1 + len(KNOBS)), np.float32)
            inputs[:, 0] = np.arange(1, EPOCHS + 1)
            inputs[:, 1:] = key
            codes = np.full((EPOCHS, 1), self._code, np.int32)
            output = np.asarray(session().run(None, {"x_cat": codes, "x_cont": inputs})[0], np.float64)
            self._curves[key] = np.maximum.accumulate(np.maximum(output[:, 0], 1e-6)), output[:, 1] / 100
        return self._curves[key]

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        seconds, values = self.curve(params)
        for epoch in range(1, min(horizon, EPOCHS) + 1):
            yield Point(float(epoch), float(seconds[epoch - 1]), float(values[epoch - 1]))

    def seconds_per_sample(self, params: Params) -> float:
        """Of the epochs after the first: that one contains what a training starts with."""
        seconds = self.curve(params)[0]
        return max(float(seconds[-1] - seconds[0]) / (EPOCHS - 1), 1e-6)


def space() -> dict[str, BaseDistribution]:
    """The seven knobs as the surrogate's own file has them."""
    content = json.loads(data_file(FOLDER, "config_space.json").read_text(encoding="utf-8"))
    found = {entry["name"]: entry for entry in content["hyperparameters"]}
    return {knob: _distribution(found[knob]) for knob in KNOBS}


@cache
def session() -> Any:
    """The surrogate on one thread.

    Raises:
        Absent: onnxruntime or the surrogate is not there.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise Absent("the LCBench problems need the package onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(data_file(FOLDER, "model.onnx")), options, providers=["CPUExecutionProvider"]
    )


def task_code(task: str) -> int:
    """The surrogate's number of a development task; a held-out task is refused."""
    if task not in protocol()["families"]["lcbench"]["development_tasks"]:
        raise ValueError(f"task {task} is held out")
    content = json.loads(data_file(FOLDER, "encoding.json").read_text(encoding="utf-8"))
    return int(content["OpenML_task_id"][task])


def _distribution(entry: dict[str, Any]) -> BaseDistribution:
    if entry["type"] == "uniform_int":
        return IntDistribution(int(entry["lower"]), int(entry["upper"]), log=bool(entry["log"]))
    return FloatDistribution(float(entry["lower"]), float(entry["upper"]), log=bool(entry["log"]))
