"""A search problem that is a formula: every kind of knob, one conditional, noise, a horizon; for the peer tests."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.problem import Description, Params, Point, Problem

FULL, EVALUATIONS = 640, 20


class Formula(Problem):
    """Accuracy saturates with samples; the ceiling depends on the learning rate, width on the price of a sample."""

    def __init__(self, target: float = 0.9, direction: str = "max") -> None:
        self.description = Description(
            name="formula",
            family="synthetic",
            space={
                "optimizer": CategoricalDistribution(["sgd", "adam"]),
                "lr": FloatDistribution(1e-4, 1.0, log=True),
                "momentum": FloatDistribution(0.0, 0.98),
                "batch": IntDistribution(8, 512, log=True),
                "layers": IntDistribution(1, 4),
            },
            conditions={"momentum": ("optimizer", "sgd")},
            horizon_low=20,
            horizon_high=2 * FULL,
            full_horizon=FULL,
            default={"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "batch": 32, "layers": 2},
            target=target if direction == "max" else 1 - target,
            direction=direction,
            full_s=FULL * 0.01 * 1.5 + EVALUATIONS * 0.02,
        )

    def seconds_per_sample(self, params: Params) -> float:
        return 0.01 * float((0.5 + 16 / params["batch"]) * (0.5 + params["layers"] / 4))

    def train(self, params: Params, horizon: int, seed: int) -> Iterator[Point]:
        rng = random.Random(f"{seed} {horizon} {sorted(params.items())}")
        best_lr = 0.1 * math.sqrt(params["batch"] / 32) if params["optimizer"] == "sgd" else 0.003
        loss = 0.05 * math.log10(params["lr"] / best_lr) ** 2 + 0.02 * abs(params["layers"] - 3)
        if params["optimizer"] == "sgd":
            loss += 0.05 * abs(params["momentum"] - 0.9)
        if params["optimizer"] == "adam" and params["lr"] > 0.3:
            yield Point(1, self.seconds_per_sample(params), math.nan)
            return
        rate = 40.0 * (params["batch"] / 32) ** 0.3
        for index in range(1, EVALUATIONS + 1):
            share = index / EVALUATIONS
            samples = horizon * share
            error = 0.04 + loss + 0.9 * math.exp(-samples / rate) + 0.05 * (1 - share) + rng.gauss(0, 0.004)
            error = min(1.0, max(0.0, error))
            value = 1 - error if self.description.direction == "max" else error
            yield Point(samples, samples * self.seconds_per_sample(params) + 0.02 * index, value)
