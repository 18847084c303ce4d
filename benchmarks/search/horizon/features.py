"""What a surrogate sees of a training, and the scale on which it predicts its metric.

Knobs without effect (momentum of AdamW) leave no trace. Must not know any surrogate, file or problem's name.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.horizon.setups import EVALUATIONS, Setup
from benchmarks.search.problem import Params

Array = NDArray[Any]
FRACTIONS: Final = np.arange(1, EVALUATIONS + 1) / EVALUATIONS
"""Of the horizon: where a surrogate gives the metric."""


def encode(params: Params, horizon: int) -> Array:
    """One training as numbers, none of them scaled yet."""
    sgd = params["optimizer"] == "sgd"
    slowness = -math.log10(1 - float(params["momentum"])) if sgd else 0.0
    rate = math.log10(float(params["lr"])) + slowness
    decay, steps = math.log10(float(params["weight_decay"])), math.log10(step_count(params, horizon))
    schedule = params["schedule"]
    numbers = [
        float(sgd),
        rate,
        rate * sgd,
        slowness,
        decay,
        decay * sgd,
        math.log10(float(params["batch"])),
        float(params["warmup"]),
        float(schedule == "linear"),
        float(schedule == "cosine"),
        float(schedule == "constant") * rate,
        math.log10(horizon),
        steps,
        rate + steps,
        math.log10(float(params["width"])),
    ]
    if "smoothing" in params:
        numbers.append(float(params["smoothing"]))
    if "context" in params:
        numbers.append(math.log10(float(params["context"])))
    return np.array(numbers)


def step_count(params: Params, horizon: int) -> int:
    """Optimizer steps up to the horizon."""
    return max(1, -(-int(horizon) // int(params["batch"])))


def scaled(setup: Setup, values: Array) -> Array:
    """Metric values on the surrogate's scale, where larger is better: minus log of error or of loss."""
    if setup.direction == "max":
        return -np.log(1 - values + 2 / setup.n_val)
    return -np.log(values)


def unscaled(setup: Setup, scale: Array) -> Array:
    """Back to the metric; an accuracy is a whole number of validation examples."""
    if setup.direction == "max":
        right = np.round((1 + 2 / setup.n_val - np.exp(-scale)) * setup.n_val)
        return np.clip(right, 0, setup.n_val) / setup.n_val
    return np.exp(-scale)


def chance(setup: Setup) -> float:
    """A final metric no better than this, on the scale, is of a network that has learned next to nothing."""
    limit = 0.15 if setup.direction == "max" else 3.25
    return float(scaled(setup, np.array([limit]))[0])


def work(params: Params) -> Array:
    """Terms of a step's time: per step, then per sample of its batch."""
    width, adamw = float(params["width"]), float(params["optimizer"] == "adamw")
    batch, context = float(params["batch"]), float(params.get("context", 0.0))
    return np.array(
        [1.0, adamw, width, adamw * width, context * width, batch * 1.0, batch * width, batch * context * width]
    )


def look_work(params: Params) -> Array:
    """Terms of one evaluation's time."""
    width, context = float(params["width"]), float(params.get("context", 0.0))
    return np.array([1.0, width, context, context * width])
