"""Trains answers on fresh seeds without waiting, and says what the waiting would have cost.

Must not know which executor gave an answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from autoaccel.config import TrainerConfig, from_dict
from autoaccel.execution.local import TaskSource
from autoaccel.trial import Ended, Target
from benchmarks.measure import Trainings, trainings
from benchmarks.ray.study import TASK, Document
from benchmarks.ray.task import FIXED_S, JUDGING, PER_SAMPLE_S


@dataclass(frozen=True)
class Judge:
    """A worker that does not wait."""

    run: Trainings

    @property
    def target(self) -> Target:
        return Target(self.run.facts["target"], self.run.facts["direction"], self.run.facts["metric"])

    def full_s(self) -> float:
        """Cost of a full default training."""
        baseline = from_dict(self.run.facts["baseline"])
        return waited_s(baseline, self.run.train(baseline, 0, None))

    def judge(self, config: TrainerConfig, seeds: list[int]) -> Document:
        """Cost and hit of a training on each seed."""
        tried = [self.run.train(config, seed, self.target) for seed in seeds]
        return {"times_s": [waited_s(config, e) for e in tried], "hits": [e.outcome == "hit" for e in tried]}


@contextmanager
def judging() -> Iterator[Judge]:
    """A judge whose worker is closed at the end."""
    before = os.environ.get(JUDGING)
    os.environ[JUDGING] = "1"
    try:
        with trainings(TaskSource(TASK)) as run:
            yield Judge(run)
    finally:
        if before is None:
            del os.environ[JUDGING]


def waited_s(config: TrainerConfig, ended: Ended) -> float:
    """Seconds that the forward passes of a training wait."""
    return ended.steps * config.batch.accumulation * FIXED_S + ended.samples * PER_SAMPLE_S
