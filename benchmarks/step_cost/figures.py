"""Figures and table of the document. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z = 1.645


def figures(tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the document; None where nothing was measured."""
    rows = [row for task in tasks for row in task["configs"]]
    errors = np.array([abs(row["error"]) for row in rows])
    regrets = [task["sweep"]["regret"] for task in tasks]
    inside = [abs(math.log1p(row["error"])) <= Z * row["stated_error"] for row in rows]
    return {
        "median_abs_error": float(np.median(errors)) if rows else None,
        "p90_abs_error": float(np.quantile(errors, 0.9)) if rows else None,
        "median_abs_error_of_the_worst_task": max((_median_error(task) for task in tasks), default=None),
        "interval_coverage": float(np.mean(inside)) if rows else None,
        "regret_vs_sweep_median": float(np.median(regrets)) if regrets else None,
        "regret_vs_sweep_max": max(regrets, default=None),
        "probing_share": max((task["probing_share"] for task in tasks), default=None),
        "configs": len(rows),
        "combinations": sum(task["sweep"]["combinations"] for task in tasks),
    }


def _median_error(task: dict[str, Any]) -> float:
    return float(np.median([abs(row["error"]) for row in task["configs"]]))


def table(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """A line per task."""
    lines = [
        "| task | configs | median absolute error | 90 % quantile | bias | regret | chosen over plain | probing |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        errors, sweep = np.array([row["error"] for row in task["configs"]]), task["sweep"]
        bias = math.expm1(float(np.mean(np.log1p(errors))))
        cells = [
            task["task"],
            str(len(errors)),
            f"{np.median(abs(errors)):.1%}",
            f"{np.quantile(abs(errors), 0.9):.1%}",
            f"{bias:+.1%}",
            f"{sweep['regret']:.1%}",
            f"{sweep['gain_over_plain']:.2f}x",
            f"{task['probing_share']:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
