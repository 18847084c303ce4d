"""The order of studies, and what is there of them: every study and every judged round is one file, done once.

A round is one seed of one task: a study of each method, then the judging of their answers side by side. Must not know
how studies and judging work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoaccel.config import TrainerConfig, from_dict
from autoaccel.fingerprint import digest
from benchmarks.estimates import ert_s
from benchmarks.parts import Document, once, run_module
from benchmarks.terms import study_terms

GRACE_S = 120.0
"""A study that is not over this long after its budget hangs."""

RunStudy = Callable[[Document], Document]
JudgeRound = Callable[[str, dict[str, TrainerConfig | None]], Document]
"""A task and its answers to `{"full_s": ..., "judged": {method: {"times_s": ..., "hits": ...}}}`."""


@dataclass(frozen=True)
class Plan:
    """What is run: the protocol, or its quick form."""

    budgets_s: dict[str, float]
    targets: dict[str, float]
    methods: tuple[str, ...]
    studies: int
    judging_seeds: tuple[int, ...]
    full_trainings: int
    penalty_trainings: float

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.budgets_s)


@dataclass(frozen=True)
class Round:
    """One seed of one task; its methods in the order in which they are run."""

    task: str
    seed: int
    methods: tuple[str, ...]


def plan_of(protocol: Document, quick: bool) -> Plan:
    """The protocol as values."""
    return Plan(**study_terms(protocol, quick), methods=tuple(protocol["methods"]))


def rounds(plan: Plan) -> list[Round]:
    """Tasks in turns; another method is first in every round."""
    found = []
    for seed in range(plan.studies):
        for index, task in enumerate(plan.tasks):
            shift = (seed + index) % len(plan.methods)
            found.append(Round(task, seed, plan.methods[shift:] + plan.methods[:shift]))
    return found


def assignment(plan: Plan, task: str, method: str, seed: int, data: str | None) -> Document:
    """What a study is told."""
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "budget_s": plan.budgets_s[task],
        "target": plan.targets[task],
        "data": data,
    }


def run_round(folder: Path, plan: Plan, todo: Round, data: str | None, work: tuple[RunStudy, JudgeRound]) -> None:
    """Run what is missing of a round and keep it."""
    run_study, judge_answers = work
    studies = {}
    for method in todo.methods:
        told = assignment(plan, todo.task, method, todo.seed, data)
        file = folder / f"{todo.task}-{todo.seed}-{method}.json"
        studies[method] = once(file, _key(told), lambda told=told: {**run_study(told), "data": None})
    key = digest({"answers": {m: s["answer"] for m, s in studies.items()}, "seeds": list(plan.judging_seeds)})

    def judged() -> Document:
        answers = {m: from_dict(s["answer"]) if s["answer"] else None for m, s in studies.items()}
        return judge_answers(todo.task, answers)

    once(folder / f"{todo.task}-{todo.seed}.judged.json", key, judged)


def rows_of(folder: Path, plan: Plan) -> list[Document]:
    """A row per judged study."""
    rows = []
    for done in rounds(plan):
        file = folder / f"{done.task}-{done.seed}.judged.json"
        if file.exists():
            judged = json.loads(file.read_text())
            for method in plan.methods:
                study = json.loads((folder / f"{done.task}-{done.seed}-{method}.json").read_text())
                rows.append(_row(plan, study, judged["judged"][method], judged["full_s"]))
    return rows


def _row(plan: Plan, study: Document, tried: Document, full_s: float) -> Document:
    kept = {key: value for key, value in study.items() if key not in ("data", "key")}
    return {
        **kept,
        "stated": {key: kept.pop(key) for key in ("hits", "attempts", "time_to_target_s") if key in kept},
        "hits": sum(tried["hits"]),
        "attempts": len(plan.judging_seeds),
        "times_s": tried["times_s"],
        "full_s": full_s,
        "ert_s": ert_s(tried["times_s"], tried["hits"], plan.penalty_trainings * full_s),
    }


def in_a_process(told: Document) -> Document:
    """A study in a process of its own; see `benchmarks.live.study`."""
    return run_module("benchmarks.live.study", told, told["budget_s"] + GRACE_S)


def _key(told: Document) -> str:
    return digest({name: value for name, value in told.items() if name != "data"})


def left_s(plan: Plan, todo: Sequence[Round]) -> float:
    """Seconds that the studies of these rounds take; judging comes on top."""
    return sum(plan.budgets_s[r.task] * len(r.methods) for r in todo)
