"""The order of what is measured, and what is there of it: every study is one file, done once.

A round is one seed of one task: the study before, the look at an unchanged machine, the study from scratch, the
re-tuning, and the judging of all three answers. Must not know how any of them works.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autoaccel.fingerprint import digest
from benchmarks.estimates import ert_s
from benchmarks.parts import Document, once
from benchmarks.terms import study_terms
from benchmarks.transfer.figures import ARMS

Work = Callable[[Document], Document]
"""An assignment to what came of it; see `study`."""


@dataclass(frozen=True)
class Plan:
    """What is run: the protocol, or its quick form."""

    budgets_s: dict[str, float]
    targets: dict[str, float]
    share: float
    machines: dict[str, Document]
    studies: int
    judging_seeds: tuple[int, ...]
    full_trainings: int
    penalty_trainings: float
    calls: int

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.budgets_s)

    @property
    def rounds(self) -> list[tuple[str, int]]:
        """Tasks in turns."""
        return [(task, seed) for seed in range(self.studies) for task in self.tasks]

    @property
    def minutes(self) -> float:
        """That the tunings of a whole measurement take; judging comes on top."""
        return sum(self.budgets_s[task] * (2 + self.share) for task, _ in self.rounds) / 60


def plan_of(protocol: Document, quick: bool) -> Plan:
    """The protocol as values."""
    small: Document = protocol["quick"] if quick else {}
    return Plan(
        **study_terms(protocol, quick),
        share={**protocol, **small}["share"],
        machines=protocol["machines"],
        calls=small.get("calls", protocol["unchanged"]["calls"]),
    )


def run_round(folder: Path, plan: Plan, task: str, seed: int, data: str | None, work: Work) -> None:
    """Measure what is missing of a round and keep it."""
    whole_s, run = plan.budgets_s[task], str((folder / f"{task}-{seed}-run").resolve())
    told = {"task": task, "target": plan.targets[task], "data": data}
    before, now = plan.machines["before"], plan.machines["now"]
    found: dict[str, Document] = {}
    for arm, machine, more in (
        ("before", before, {"budget_s": whole_s, "seed": seed, "run": run}),
        ("unchanged", before, {"run": run, "calls": plan.calls}),
        ("scratch", now, {"budget_s": whole_s, "seed": seed + 100, "run": f"{run}-scratch"}),
        ("again", now, {"budget_s": plan.share * whole_s, "seed": seed, "run": run}),
    ):
        key = {**told, **more, "arm": arm, "machine": machine, "after": found.get("before", {}).get("answer")}
        found[arm] = _done(folder / f"{task}-{seed}-{arm}.json", key, work)
    judged = {
        "answers": {arm: found[arm]["answer"] for arm in ARMS},
        "seeds": list(plan.judging_seeds),
        "full_trainings": plan.full_trainings,
        "penalty_trainings": plan.penalty_trainings,
    }
    _done(folder / f"{task}-{seed}-judge.json", {**told, **judged, "arm": "judge", "machine": now}, work)


def rows_of(folder: Path, plan: Plan) -> list[Document]:
    """A row per judged round."""
    rows = []
    for task, seed in plan.rounds:
        if (folder / f"{task}-{seed}-judge.json").exists():
            found = {
                arm: json.loads((folder / f"{task}-{seed}-{arm}.json").read_text())
                for arm in (*ARMS, "unchanged", "judge")
            }
            rows.append(_row(plan, task, seed, found))
    return rows


def _row(plan: Plan, task: str, seed: int, found: dict[str, Document]) -> Document:
    judged, full_s = found["judge"]["judged"], found["judge"]["full_s"]
    penalty_s = plan.penalty_trainings * full_s
    kept = ("target_met", "n_trials", "tuning_s", "search_ended")
    return {
        "task": task,
        "seed": seed,
        "full_s": full_s,
        "budget_share": found["again"]["tuning_s"] / plan.budgets_s[task],
        "spent_share": found["again"]["tuning_s"] / found["scratch"]["tuning_s"],
        "ert_s": {arm: ert_s(judged[arm]["times_s"], judged[arm]["hits"], penalty_s) for arm in ARMS},
        "hits": {arm: sum(judged[arm]["hits"]) for arm in ARMS},
        "attempts": len(plan.judging_seeds),
        "studies": {arm: {key: found[arm][key] for key in kept} for arm in ARMS},
        "same_answer": found["again"]["answer"] == found["before"]["answer"],
        "unchanged_codes": found["unchanged"]["codes"],
        "unchanged_s": found["unchanged"]["seconds"],
    }


def _done(file: Path, told: Document, work: Work) -> Document:
    """Where data and runs lie makes no other conditions, and is not kept."""
    key = digest({name: value for name, value in told.items() if name not in ("data", "run")})
    return once(file, key, lambda: {**work(told), "data": None, "run": None})
