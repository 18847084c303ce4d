"""Seconds of a sample of a config, measured: steps spread over the horizon. Must not know predictions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from autoaccel.config import TrainerConfig
from autoaccel.trainer.allocator import keep_freed_memory
from autoaccel.trainer.build import build
from autoaccel.trainer.loop import follow_progress, optimizer_step
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.prepare import step_size
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.randomness import seeded
from autoaccel.trainer.timing import Stopwatch


class Running:
    """A training whose steps are run one by one."""

    def __init__(self, loaded: LoadedTask, parts: Parts) -> None:
        self._loaded, self._parts = loaded, parts
        self._n, self._position = 0, 0

    def sample_s(self, done: float) -> float:
        """Seconds of a sample in a step at this share of the horizon."""
        config = self._parts.config
        step = Step(self._n, self._position, done, step_size(self._loaded, config, done))
        with process_settings(config):
            watch = Stopwatch(self._loaded.device)
            follow_progress(self._parts, step)
            optimizer_step(self._loaded, self._parts, step)
            seconds = watch.elapsed_s()
        self._n, self._position = self._n + 1, self._position + step.size
        return seconds / step.size

    def averaged_s(self, points: int, enough_s: float, least: int) -> float:
        """Seconds of a sample over the whole horizon."""
        places = [(i + 0.5) / points for i in range(points)]
        rounds: list[list[float]] = []
        watch = Stopwatch(self._loaded.device)
        while len(rounds) < least or watch.elapsed_s() < enough_s:
            rounds.append([self.sample_s(done) for done in places])
        return statistics.fmean(statistics.median(times) for times in zip(*rounds, strict=True))


@contextmanager
def running(loaded: LoadedTask, config: TrainerConfig) -> Iterator[Running]:
    """A training of a config, ready to be stepped."""
    keep_freed_memory()
    with seeded(0), process_settings(config):
        parts = build(loaded, config)
        parts.model.train()
    try:
        yield Running(loaded, parts)
    finally:
        for close in parts.closing:
            close()


def first_extra_s(loaded: LoadedTask, config: TrainerConfig) -> float:
    """What the first step of a training takes beyond the second, where compiled code is kept from an earlier one."""
    extra = math.inf
    for _ in range(2):
        with running(loaded, config) as training:
            first = training.sample_s(0.0)
            extra = min(extra, (first - training.sample_s(0.0)) * config.batch.size)
    return max(0.0, extra)
