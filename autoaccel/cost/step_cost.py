"""StepCost: seconds and FLOPs of a whole training, predicted from measured pieces of a step.

    step = accumulation x (forward and backward of a micro-batch) + optimizer;  training = steps + evaluations

First version: interpolates between the measured micro-batch sizes. Must not run anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from autoaccel.config import TrainerConfig

READS = ("batch.size", "batch.accumulation", "precision.dtype", "optim.name")
"""Paths of a config that its predicted cost depends on, besides the horizon and the cadence of evaluations."""


@dataclass(frozen=True)
class Prediction:
    """What a training to the end of its horizon costs."""

    seconds: float
    flops: float
    step_s: float


@dataclass(frozen=True)
class StepCost:
    """Measured seconds of the pieces of a step.

    `micro`: per precision, (samples, seconds) pairs in ascending order; `optimizer`: seconds of one update by name;
    `evaluation`: seconds of one pass over the validation set by precision.
    """

    micro: dict[str, tuple[tuple[int, float], ...]]
    optimizer: dict[str, float]
    evaluation: dict[str, float]
    flops_per_sample: float
    evaluation_flops: float

    @classmethod
    def from_probe(cls, measured: dict[str, Any], flops_per_sample: float, evaluation_flops: float) -> StepCost:
        """From the rows of `trainer.measure.measure_steps`; sizes that ran out of memory are left out."""
        micro: dict[str, list[tuple[int, float]]] = {}
        for row in measured["micro"]:
            if "seconds" in row:
                micro.setdefault(row["dtype"], []).append((row["micro"], row["seconds"]))
        pairs = {dtype: tuple(sorted(rows)) for dtype, rows in micro.items()}
        return cls(pairs, measured["optimizer"], measured["evaluation"], flops_per_sample, evaluation_flops)

    def micro_seconds(self, dtype: str, samples: int) -> float:
        """Forward and backward of one micro-batch, in seconds; an unmeasured precision is taken as fp32."""
        pairs = self.micro.get(dtype) or self.micro["fp32"]
        if samples >= pairs[-1][0]:
            return pairs[-1][1] * samples / pairs[-1][0]
        if samples <= pairs[0][0]:
            return pairs[0][1]
        above = next(i for i, (size, _) in enumerate(pairs) if size >= samples)
        (x0, y0), (x1, y1) = pairs[above - 1], pairs[above]
        return y0 + (y1 - y0) * (samples - x0) / (x1 - x0)

    def predict(self, config: TrainerConfig) -> Prediction:
        """Seconds and FLOPs of training to the end of the horizon, evaluations included."""
        batch, dtype = config.batch, config.precision.dtype
        small, n_large = divmod(batch.size, batch.accumulation)  # micro-batches differ by at most one sample
        step_s = (batch.accumulation - n_large) * self.micro_seconds(dtype, small)
        step_s += n_large * self.micro_seconds(dtype, small + 1) if n_large else 0.0
        step_s += self.optimizer.get(config.optim.name, 0.0)
        n_steps = self._n_steps(config, step_s)
        samples = n_steps * batch.size
        n_evaluations = min(n_steps, math.ceil(samples / config.evaluate.every_samples))
        evaluation_s = self.evaluation.get(dtype) or self.evaluation.get("fp32", 0.0)
        flops = samples * self.flops_per_sample + n_evaluations * self.evaluation_flops
        return Prediction(n_steps * step_s + n_evaluations * evaluation_s, flops, step_s)

    def _n_steps(self, config: TrainerConfig, step_s: float) -> int:
        """Steps to the end of the horizon; evaluations count as nothing where it is in seconds or FLOPs."""
        step_flops = self.flops_per_sample * config.batch.size
        if config.horizon.unit == "seconds":
            return max(1, round(config.horizon.seconds / step_s))
        if config.horizon.unit == "flops" and step_flops:
            return max(1, round(config.horizon.flops / step_flops))
        return config.n_steps

    def slower_precisions(self) -> dict[str, float]:
        """Precisions slower than fp32 at every size measured for both, with the smallest slow-down seen."""
        reference = dict(self.micro.get("fp32", ()))
        slower = {}
        for dtype, pairs in self.micro.items():
            ratios = [seconds / reference[size] for size, seconds in pairs if size in reference]
            if dtype != "fp32" and ratios and min(ratios) > 1.0:
                slower[dtype] = min(ratios)
        return slower
