"""One simulated study: the product's search and confirmation on a made-up task, what it states, and what is true.

What is stated is what result.json would say. Must not know how studies are summed up.
"""

from __future__ import annotations

import math
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoaccel.budget import Budget
from autoaccel.clock import ManualClock
from autoaccel.config import TrainerConfig
from autoaccel.execution.simulated import SimulatedExecutor
from autoaccel.report.summary import result_document
from autoaccel.search.confirm import answer, baseline_evidence
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.loop import run_study
from autoaccel.search.question import Question
from autoaccel.search.trials import Driver
from autoaccel.store.ledger import Ledger
from autoaccel.trial import TrialRecord
from benchmarks.calibration.problem import BASELINE, N_VALIDATION, Problem, draw, space
from benchmarks.measure import FRESH_SEEDS


@dataclass(frozen=True)
class Rules:
    """What the protocol says of a study and its judging."""

    budget_low: float
    """In full default trainings."""
    budget_high: float
    fresh_seeds: int
    """Trainings of the answer of which the true hit rate is made."""
    ert_seeds: int
    """The same for the true ERT: more, so that the truth's own scatter does not hide what the interval misses."""


def question(problem: Problem, rules: Rules) -> Question:
    """What the study of a task is asked."""
    rng = random.Random(f"budget {problem.seed}")
    trainings = math.exp(rng.uniform(math.log(rules.budget_low), math.log(rules.budget_high)))
    seconds = trainings * problem.cost.predict(BASELINE).seconds
    return Question(
        target=problem.target,
        budget=Budget(seconds=seconds),
        space=space(),
        baseline=BASELINE,
        cost=problem.cost,
        floor=0.5 / N_VALIDATION,
        seed=problem.seed % 1000,
        finish_s=0.01 * seconds,
    )


def run(problem: Problem, asked: Question, knowledge: Knowledge) -> tuple[TrialRecord, ...]:
    """The whole study in simulated time."""
    with tempfile.TemporaryDirectory() as folder:
        clock, ledger = ManualClock(), Ledger(Path(folder) / "ledger.jsonl")
        try:
            return run_study(Driver(SimulatedExecutor(clock, problem.course), ledger, clock, 0.0), asked, knowledge)
        finally:
            ledger.close()


def study(seed: int, rules: Rules) -> dict[str, Any]:
    """A row: what was stated and what is true of the answer."""
    problem = draw(seed)
    asked = question(problem, rules)
    knowledge = Knowledge(asked)
    done = run(problem, asked, knowledge)
    row: dict[str, Any] = {
        "seed": seed,
        "target": problem.target.value,
        "budget_trainings": (asked.budget.seconds or 0.0) / problem.cost.predict(BASELINE).seconds,
        "n_trials": len(done),
    }
    tuned = answer(asked, done, knowledge.ranked(done))
    if tuned is None:
        return {**row, "claim": False}
    document = result_document(asked, done, baseline_evidence(asked, done), tuned, {})
    kept = {"times_s": list(tuned.times_s), "hit_times_s": list(tuned.hit_times_s)}
    return {**row, **stated(document), **kept, **truth(problem, tuned.config, rules)}


def stated(document: dict[str, Any]) -> dict[str, Any]:
    """What result.json says of the answer."""
    return {
        "claim": document["target_met"],
        "answer_is_baseline": document["answer_is_baseline"],
        "attempts": document["attempts"],
        "hits": document["hits"],
        "stated_hit_rate": document["expected_hit_rate"],
        "stated_hit_rate_interval": document["hit_rate_interval"],
        "stated_ert_s": document["time_to_target_s"],
        "stated_ert_interval_s": document["time_to_target_interval_s"],
    }


def truth(problem: Problem, config: TrainerConfig, rules: Rules) -> dict[str, Any]:
    """Hit rate and ERT on seeds that no study uses."""
    n = max(rules.fresh_seeds, rules.ert_seeds)
    tries = [problem.attempt(config, FRESH_SEEDS + k) for k in range(n)]
    return {
        "true_hit_rate": sum(hit for _, hit in tries[: rules.fresh_seeds]) / rules.fresh_seeds,
        "exact_hit_rate": sum(hit for _, hit in tries) / n,
        "true_ert_s": ert(tries[: rules.ert_seeds]),
    }


def ert(tries: list[tuple[float, bool]]) -> float | None:
    """Expected running time to the target; None without a hit."""
    hits = sum(hit for _, hit in tries)
    return sum(seconds for seconds, _ in tries) / hits if hits else None
