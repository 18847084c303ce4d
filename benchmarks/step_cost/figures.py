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
    regrets = [task["sweep"]["regret"] for task in tasks]
    inside = [abs(math.log1p(row["error"])) <= Z * row["stated_error"] for row in rows]
    return {
        **_quantiles(rows, "error", ""),
        **_quantiles(rows, "error_of_ratio", "_of_ratio"),
        **_quantiles(rows, "error_one_thread", "_one_thread"),
        "median_abs_error_of_the_worst_task": max((_median_error(task) for task in tasks), default=None),
        "interval_coverage": float(np.mean(inside)) if rows else None,
        "regret_vs_sweep_median": float(np.median(regrets)) if regrets else None,
        "regret_vs_sweep_max": max(regrets, default=None),
        "probing_share": max((task["probing_share"] for task in tasks), default=None),
        "configs": len(rows),
        "combinations": sum(task["sweep"]["combinations"] for task in tasks),
    }


def _quantiles(rows: Sequence[dict[str, Any]], key: str, name: str) -> dict[str, float | None]:
    """Median and 90 % quantile of absolute errors."""
    errors = np.array([abs(row[key]) for row in rows])
    return {
        f"median_abs_error{name}": float(np.median(errors)) if rows else None,
        f"p90_abs_error{name}": float(np.quantile(errors, 0.9)) if rows else None,
    }


def _median_error(task: dict[str, Any]) -> float:
    return float(np.median([abs(row["error"]) for row in task["configs"]]))


def table(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """A line per task."""
    lines = [
        "| task | configs | error: median (90 %) | bias | of ratio | one thread | regret | gain over plain | probing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        errors, sweep = np.array([row["error"] for row in task["configs"]]), task["sweep"]
        bias = math.expm1(float(np.mean(np.log1p(errors))))
        cells = [
            task["task"],
            str(len(errors)),
            _shown(task, "error"),
            f"{bias:+.1%}",
            _shown(task, "error_of_ratio"),
            _shown(task, "error_one_thread"),
            f"{sweep['regret']:.1%}",
            f"{sweep['gain_over_plain']:.2f}x",
            f"{task['probing_share']:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _shown(task: dict[str, Any], key: str) -> str:
    found = _quantiles(task["configs"], key, "")
    return f"{found['median_abs_error']:.1%} ({found['p90_abs_error']:.1%})"
