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
        **_quantiles_of([error for task in tasks for error in task["repeated"]], "_repeated"),
        "median_abs_error_of_the_worst_task": max((_median_error(task) for task in tasks), default=None),
        "interval_coverage": float(np.mean(inside)) if rows else None,
        "regret_vs_sweep_median": float(np.median(regrets)) if regrets else None,
        "regret_vs_sweep_max": max(regrets, default=None),
        "probing_share": max((task["probing_share"] for task in tasks), default=None),
        "configs": len(rows),
        "combinations": sum(task["sweep"]["combinations"] for task in tasks),
    }


def _quantiles(rows: Sequence[dict[str, Any]], key: str, name: str) -> dict[str, float | None]:
    """Median and 90 % quantile of absolute errors of configs."""
    return _quantiles_of([row[key] for row in rows], name)


def _quantiles_of(errors: Sequence[float], name: str) -> dict[str, float | None]:
    sizes = np.abs(errors)
    return {
        f"median_abs_error{name}": float(np.median(sizes)) if len(sizes) else None,
        f"p90_abs_error{name}": float(np.quantile(sizes, 0.9)) if len(sizes) else None,
    }


def _median_error(task: dict[str, Any]) -> float:
    return float(np.median([abs(row["error"]) for row in task["configs"]]))


def table(tasks: Sequence[dict[str, Any]]) -> list[str]:
    """A line per task."""
    lines = [
        "| task | configs | error (90 %) | bias | of ratio | one thread | of itself | regret | over plain | probing |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in tasks:
        errors, sweep = np.array([row["error"] for row in task["configs"]]), task["sweep"]
        bias = math.expm1(float(np.mean(np.log1p(errors))))
        cells = [
            task["task"],
            str(len(errors)),
            _shown(_quantiles(task["configs"], "error", "")),
            f"{bias:+.1%}",
            _shown(_quantiles(task["configs"], "error_of_ratio", "")),
            _shown(_quantiles(task["configs"], "error_one_thread", "")),
            _shown(_quantiles_of(task["repeated"], "")),
            f"{sweep['regret']:.1%}",
            f"{sweep['gain_over_plain']:.2f}x",
            f"{task['probing_share']:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _shown(found: dict[str, float | None]) -> str:
    return f"{found['median_abs_error']:.1%} ({found['p90_abs_error']:.1%})"
