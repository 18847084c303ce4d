"""How well a step predicts itself: the same steps of one process again and again, half a minute and more apart.

What is found is the least error that anything measured beforehand can have on this machine. Must not know predictions.
"""

from __future__ import annotations

from typing import Any

from autoaccel.config import TrainerConfig
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.timing import Stopwatch
from benchmarks.step_cost.steps import running

Window = tuple[float, float]
"""Seconds since the first window began, and seconds of a sample in this one."""


def windows(loaded: LoadedTask, config: TrainerConfig, rule: dict[str, Any]) -> list[Window]:
    """Seconds of a sample, window after window, nothing between them."""
    found: list[Window] = []
    with running(loaded, config) as training:
        training.sample_s(0.0)
        watch = Stopwatch(loaded.device)
        while (at_s := watch.elapsed_s()) < rule["seconds"]:
            found.append((at_s, training.averaged_s(1, rule["window_s"], least=2)))
    return found


def errors(found: list[Window], apart_s: float) -> list[float]:
    """Of each window as the prediction of every one that begins at least so much later."""
    return [a / b - 1 for n, (begin_s, a) in enumerate(found) for at_s, b in found[n:] if at_s - begin_s >= apart_s]
