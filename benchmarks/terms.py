"""What a protocol says of studies of several tasks and of their judging, or its quick form; not who reads it."""

from __future__ import annotations

from typing import Any

from benchmarks.parts import Document


def study_terms(protocol: Document, quick: bool) -> dict[str, Any]:
    """Fields of a plan: budgets and targets by task, studies of each, seeds and penalty of judging."""
    small: Document = protocol["quick"] if quick else {}
    judging, tasks = protocol["judging"], protocol["tasks"]
    return {
        "budgets_s": small.get("budget_s") or {name: task["budget_s"] for name, task in tasks.items()},
        "targets": {name: task["target"] for name, task in tasks.items()},
        "studies": {**protocol, **small}["studies"],
        "judging_seeds": judging_seeds(judging, small),
        "full_trainings": small.get("full_trainings", judging["full_trainings"]),
        "penalty_trainings": judging["penalty_trainings"],
    }


def judging_seeds(judging: Document, small: Document) -> tuple[int, ...]:
    """Fresh seeds that answers are judged on.

    Args:
        judging: the protocol's rule.
        small: the quick form's changes, or none.
    """
    return tuple(judging["first_seed"] + k for k in range(small.get("judging_seeds", judging["seeds"])))
