"""Made-up trainings: a course for every spec, as a function of samples, learning rate, batch and seed.

Seconds come from a step cost made by hand, so that predictions are right up to the noise of a seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoaccel.budget import Budget
from autoaccel.clock import ManualClock
from autoaccel.config import TrainerConfig, keras_recipe
from autoaccel.cost.step_cost import StepCost
from autoaccel.execution.base import Executor
from autoaccel.execution.simulated import Course, Point, SimulatedExecutor
from autoaccel.search.loop import run_study
from autoaccel.search.question import Question
from autoaccel.search.system import decided
from autoaccel.search.trials import Driver
from autoaccel.space.files import load_space
from autoaccel.store.ledger import Ledger, last_second
from autoaccel.store.session import close_interrupted
from autoaccel.trial import Target, TrialRecord, TrialSpec

N_TRAIN = 1000
COST = StepCost(
    micro={"fp32": ((16, 0.002), (64, 0.004), (256, 0.010), (1024, 0.036))},
    optimizer={"sgd": 0.0002, "adamw": 0.0004},
    evaluation={"fp32": 0.02},
    flops_per_sample=1e6,
    evaluation_flops=2e8,
)
BASELINE = keras_recipe(N_TRAIN)
"""118 steps of 128 and 15 evaluations: 1.2 s, 18 GFLOP."""


@dataclass(frozen=True)
class Problem:
    """How accuracy grows; the defaults let the baseline hit 0.86 after about ten epochs."""

    ceiling: float = 0.97
    noise: float = 0.006
    jitter: float = 0.05
    setup_s: float = 0.05

    def __call__(self, spec: TrialSpec) -> Course:
        assert spec.config is not None
        config, rng = spec.config, random.Random(spec.config.seed)
        predicted = COST.predict(config)
        slow = 1 + self.jitter * rng.uniform(-1, 1)
        luck = rng.gauss(0, self.noise)
        step, samples, points = 0, 0, []
        while step < config.n_steps:
            step = min(config.n_steps, step + math.ceil(config.evaluate.every_samples / config.batch.size))
            samples = step * config.batch.size
            share = step / config.n_steps
            flops = samples * COST.flops_per_sample + (len(points) + 1) * COST.evaluation_flops
            value = _accuracy(config, samples, share, self.ceiling) + luck + rng.gauss(0, self.noise / 3)
            points.append(Point(slow * share * predicted.seconds, min(1.0, value), samples, flops))
        return Course(tuple(points), setup_s=self.setup_s)


def _accuracy(config: TrainerConfig, samples: int, share: float, ceiling: float) -> float:
    """A power law in steps, a bowl in log learning rate whose bottom moves with the batch, and a gain of annealing."""
    best = (0.003 if config.optim.name == "adamw" else 0.1) * math.sqrt(config.batch.size / 64)
    off = math.log(config.optim.lr / best)
    annealed = 0.02 * share**2 if config.schedule.name != "constant" else 0.0
    return ceiling - 0.02 + annealed - 0.02 * off**2 - 0.3 * (samples / config.batch.size / 8) ** -0.8


def question(budget: Budget, target: float = 0.86, seed: int = 0, baseline: TrainerConfig = BASELINE) -> Question:
    """What a study of these problems is asked."""
    space = load_space("minimal").in_samples(N_TRAIN).narrow("batch.size", 1, N_TRAIN)
    space = space.narrow("horizon.samples", 1, 4 * baseline.horizon.samples).fix({"precision.dtype": "fp32"}, "by hand")
    space = decided(space, COST, baseline)
    return Question(
        target=Target(target),
        budget=budget,
        space=space,
        baseline=baseline,
        cost=COST,
        floor=0.5 / 400,
        seed=seed,
        finish_s=1.0,
    )


@contextmanager
def driver(
    folder: Path,
    course: Callable[[TrialSpec], Course],
    *,
    began_at_s: float = 0.0,
    stop_after: float = math.inf,
    executor: Callable[[ManualClock], Executor] | None = None,
    n_slots: int = 1,
) -> Iterator[Driver]:
    """A driver on simulated time and the ledger in a folder; what a dead driver left open there is closed and charged.

    Args:
        folder: where the ledger is.
        course: what trials do.
        began_at_s: what the clock says at first.
        stop_after: ended trials after which it counts as interrupted.
        executor: another one than the simulated one for `course`.
        n_slots: trials at once.
    """
    clock = ManualClock(began_at_s)
    ledger = Ledger(folder / "ledger.jsonl")
    close_interrupted(ledger)
    try:
        yield Driver(
            executor=executor(clock) if executor else SimulatedExecutor(clock, course, n_slots),
            ledger=ledger,
            clock=clock,
            began_s=began_at_s,
            carried_s=last_second(ledger.entries),
            interrupted=lambda: len(ledger.records) >= stop_after,
        )
    finally:
        ledger.close()


def study(folder: Path, course: Callable[[TrialSpec], Course], asked: Question) -> tuple[TrialRecord, ...]:
    """A whole study; its ledger stays in the folder."""
    with driver(folder, course) as running:
        return run_study(running, asked)
