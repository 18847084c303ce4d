"""ERT of re-tuned answers over those from scratch with bootstrap intervals, and the other figures of the document.

Pure; what was not measured is None. Must not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.estimates import drawn_means, geometric_mean, interval

ARMS = ("before", "scratch", "again")
Row = Mapping[str, Any]
Array = NDArray[np.float64]


def figures(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, Any]:
    """All figures by name; those of an unfinished measurement are None."""
    logs = {task: _logs(rows, task, "again") for task in tasks}
    found: dict[str, Any] = {"ert_ratio": None, "ert_ratio_interval": None, "budget_share": None}
    shares = [np.mean([r["budget_share"] for r in rows if r["task"] == task]) for task in tasks if len(logs[task])]
    if all(len(values) for values in logs.values()):
        found["ert_ratio"] = max(float(np.exp(values.mean())) for values in logs.values())
        found["ert_ratio_interval"] = interval(np.max([_drawn(v, k) for k, v in enumerate(logs.values())], axis=0))
        found["budget_share"] = float(max(shares))
    seconds = [s for row in rows for s in row["unchanged_s"]]
    codes = [code for row in rows for code in row["unchanged_codes"]]
    found["unchanged_s_max"] = max(seconds, default=None)
    found["unchanged_exits_10"] = sum(code == 10 for code in codes) / len(codes) if codes else None
    for number, task in enumerate(tasks):
        found |= _of_task([r for r in rows if r["task"] == task], task, logs[task], number)
        found[f"ert_ratio_{task}_of_old_answer"] = geometric_mean(_logs(rows, task, "before"))
    return found


def _of_task(rows: Sequence[Row], task: str, logs: Array, number: int) -> dict[str, Any]:
    attempts = sum(row["attempts"] for row in rows)
    found: dict[str, Any] = {
        f"studies_{task}": len(rows),
        f"ert_ratio_{task}": geometric_mean(logs),
        f"ert_ratio_{task}_interval": interval(_drawn(logs, number)) if len(logs) else None,
        f"budget_share_{task}": float(np.mean([r["budget_share"] for r in rows])) if rows else None,
        f"spent_share_{task}": float(np.mean([r["spent_share"] for r in rows])) if rows else None,
        f"old_answers_kept_{task}": sum(r["same_answer"] for r in rows) / len(rows) if rows else None,
    }
    for arm in ARMS:
        found[f"ert_s_{task}_{arm}"] = geometric_mean([np.log(r["ert_s"][arm]) for r in rows])
        found[f"hit_rate_{task}_{arm}"] = sum(r["hits"][arm] for r in rows) / attempts if rows else None
    return found


def _logs(rows: Sequence[Row], task: str, arm: str) -> Array:
    """Log ERT of an arm's answers over those from scratch, a number per study."""
    pairs = [(r["ert_s"][arm], r["ert_s"]["scratch"]) for r in rows if r["task"] == task]
    return np.log(np.array([a / b for a, b in pairs], dtype=np.float64))


def _drawn(logs: Array, seed: int) -> Array:
    """Bootstrap geometric means."""
    return np.asarray(np.exp(drawn_means(logs, seed)))
