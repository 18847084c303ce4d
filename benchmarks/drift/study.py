"""One study in a process of its own: python -m benchmarks.drift.study FILE. The budget counts from its start.

FILE holds the assignment as JSON and is replaced by the result. Must not know whether anything disturbs it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from autoaccel import api
from autoaccel.budget import Budget
from autoaccel.clock import process_start
from autoaccel.config import to_dict
from autoaccel.cost.drift import corrected
from autoaccel.trial import REFERENCE, TrialRecord


def study(told: dict[str, Any], began_s: float) -> dict[str, Any]:
    """A tuning as a user runs it, and what its records say of the machine."""
    with tempfile.TemporaryDirectory(prefix="autoaccel-") as folder:
        result = api.tune(
            told["task"],
            budget=Budget(seconds=float(told["budget_s"])),
            target=told["target"],
            run_dir=Path(folder) / "run",
            seed=told["seed"],
            use_library=False,
            progress=False,
            began_s=began_s,
        )
    kept = ("target_met", "attempts", "hits", "time_to_target_s", "n_slowed", "n_trials", "tuning_s", "drift")
    return {
        "answer": to_dict(result.config),
        **{key: result.summary[key] for key in kept},
        "uncorrected_s": uncorrected_s(result.trials, result.summary["hits"], to_dict(result.config)),
        "reference_s": sum(r.wall_s for r in result.trials if r.spec.purpose == REFERENCE),
        "references": references(result.trials),
        "trainings": trainings(result.trials),
    }


def uncorrected_s(records: Sequence[TrialRecord], hits: int, answer: dict[str, Any]) -> float | None:
    """The expected running time by the clock alone, from the attempts that the stated one is made of."""
    mine = [r for r in records if r.spec.purpose == "confirm" and r.is_attempt and r.spec.config is not None]
    times_s = [r.ended.elapsed_s for r in mine if {**to_dict(r.spec.config), "seed": answer["seed"]} == answer]
    return sum(times_s) / hits if hits else None


def references(records: Sequence[TrialRecord]) -> list[list[float | None]]:
    """Second of the budget, seconds and CPU seconds of a step, of all reference steps."""
    looks = [r for r in records if r.spec.purpose == REFERENCE and r.ended.outcome == "done"]
    facts = [(r.ended_at_s, r.ended.facts) for r in looks]
    return [[at_s, median(f["wall_s"]), median(f["cpu_s"]) if f["cpu_s"] else None] for at_s, f in facts]


def trainings(records: Sequence[TrialRecord]) -> list[list[float | None]]:
    """Second of the budget at the end, seconds, CPU seconds and slow-down, of all trainings."""
    pairs = [
        (raw, found) for raw, found in zip(records, corrected(records), strict=True) if raw.spec.config is not None
    ]
    return [[raw.ended_at_s, raw.ended.elapsed_s, raw.ended.cpu_s, found.slowdown] for raw, found in pairs]


def main() -> None:
    began_s = process_start()
    file = Path(sys.argv[1])
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, **study(told, began_s)}))


if __name__ == "__main__":
    main()
