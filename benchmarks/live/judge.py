"""Trains answers again on fresh seeds, those of a round in turns; and times the default recipe.

Runs the worker and trainer that a tuning uses. Must not know which method gave an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from autoaccel.config import TrainerConfig, from_dict
from autoaccel.execution.local import TaskSource
from autoaccel.inspection import scratch_driver
from autoaccel.search.probes import measure_hardware, run_preflight
from autoaccel.search.trials import Driver, run_trial
from autoaccel.trial import Ended, Target, TrialSpec


@dataclass(frozen=True)
class Judge:
    """A warm worker with a task; `facts` is what preflight said of it."""

    driver: Driver
    facts: dict[str, Any]

    @property
    def baseline(self) -> TrainerConfig:
        """The task's default recipe."""
        return from_dict(self.facts["baseline"])

    def train(self, config: TrainerConfig, seed: int, target: Target | None, cap_s: float | None = None) -> Ended:
        """One training to the target, the horizon or the cap."""
        number = 1 + max((r.spec.trial for r in self.driver.ledger.records), default=0)
        spec = TrialSpec(number, "benchmark", replace(config, seed=seed), target, cap_s)
        ended = run_trial(self.driver, spec).ended
        if ended.outcome == "crashed":
            raise RuntimeError(ended.message)
        return ended


@contextmanager
def judge(source: TaskSource) -> Iterator[Judge]:
    """A judge whose worker is closed at the end; this machine's profile is in the cache afterwards."""
    with scratch_driver(source) as driver:
        facts = run_preflight(driver)
        measure_hardware(driver)
        opened = Judge(driver, facts)
        epoch = replace(opened.baseline, horizon=replace(opened.baseline.horizon, samples=facts["n_train"]))
        opened.train(epoch, 0, None)  # nothing that counts is the first training of a process
        yield opened


def full_training_s(judging: Judge, n: int, first_seed: int) -> float:
    """Mean seconds of the default recipe to the end of its horizon."""
    ended = [judging.train(judging.baseline, first_seed - 1 - k, None) for k in range(n)]
    return sum(e.elapsed_s for e in ended) / n


def judge_round(
    judging: Judge, answers: dict[str, TrainerConfig | None], target: Target, seeds: list[int], cap_s: float
) -> dict[str, dict[str, list[Any]]]:
    """Seconds and hits of every answer on every seed, in turns; an answer that is None has no attempts."""
    found: dict[str, dict[str, list[Any]]] = {name: {"times_s": [], "hits": []} for name in answers}
    given = [(name, config) for name, config in answers.items() if config is not None]
    for index, seed in enumerate(seeds):
        shift = index % max(1, len(given))
        for name, config in given[shift:] + given[:shift]:
            ended = judging.train(config, seed, target, cap_s)
            found[name]["times_s"].append(ended.elapsed_s)
            found[name]["hits"].append(ended.outcome == "hit")
        print(f"  judged on seed {index + 1}/{len(seeds)}", file=sys.stderr)
    return found
