"""Ratios of judged answers to the best peer with bootstrap intervals, and the figures of the document.

Pure; what was not measured is None. Must not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.estimates import geometric_mean, interval, selections

OURS = "ours"

Row = Mapping[str, Any]
Table = dict[str, NDArray[np.float64]]
"""Log ERT by method, a number per study; the studies of an index belong together."""


def log_erts(rows: Sequence[Row], task: str, methods: Sequence[str]) -> Table | None:
    """The judged studies of a task that every method has; None without any."""
    found = {(row["method"], row["seed"]): row["ert_s"] for row in rows if row["task"] == task}
    seeds = [s for s in sorted({seed for _, seed in found}) if all((m, s) in found for m in methods)]
    if not seeds:
        return None
    return {m: np.log(np.array([found[m, s] for s in seeds], dtype=np.float64)) for m in methods}


def best_ratio(table: Table, index: Any) -> NDArray[np.float64]:
    """Geometric mean ERT of ours over that of the best peer, for one or many selections of studies."""
    means = {method: values[index].mean(axis=-1) for method, values in table.items()}
    best = np.min(np.stack([mean for method, mean in means.items() if method != OURS]), axis=0)
    return np.asarray(np.exp(means[OURS] - best))


def figures(
    rows: Sequence[Row], tasks: Sequence[str], methods: Sequence[str], share: Row | None = None
) -> dict[str, Any]:
    """All figures by name; those of an unfinished measurement are None.

    Args:
        rows: judged studies: task, method, seed, ert_s, hits, attempts, n_trials.
        tasks, methods: of the protocol.
        share: the study of `--share`, if it was run.
    """
    tables = {task: log_erts(rows, task, methods) for task in tasks}
    present = {task: table for task, table in tables.items() if table is not None}
    draws = {task: selections(len(table[OURS]), k) for k, (task, table) in enumerate(present.items())}
    found: dict[str, Any] = {"ratio_max": None, "ratio_max_interval": None}
    if len(present) == len(tasks):
        found["ratio_max"] = max(float(best_ratio(t, _whole(t))) for t in present.values())
        drawn = [best_ratio(table, draws[task]) for task, table in present.items()]
        found["ratio_max_interval"] = interval(np.max(np.stack(drawn), axis=0))
    for task, table in tables.items():
        found |= _of_task(task, table, methods, draws.get(task))
    for task in tasks:
        for method in methods:
            found |= _of_method(rows, task, method)
    found["training_share"] = share["training_share"] if share else None
    found["training_share_budget_s"] = share["budget_s"] if share else None
    return found


def _of_task(task: str, table: Table | None, methods: Sequence[str], draws: Any) -> dict[str, Any]:
    found: dict[str, Any] = {f"studies_{task}": 0, f"ratio_{task}": None, f"ratio_{task}_interval": None}
    found |= {f"ratio_{task}_to_{_name(m)}": None for m in methods if m != OURS}
    if table is None:
        return found
    found[f"studies_{task}"] = len(table[OURS])
    found[f"ratio_{task}"] = float(best_ratio(table, _whole(table)))
    found[f"ratio_{task}_interval"] = interval(best_ratio(table, draws))
    for method in methods:
        if method != OURS:
            pair = {OURS: table[OURS], method: table[method]}
            found[f"ratio_{task}_to_{_name(method)}"] = float(best_ratio(pair, _whole(pair)))
    return found


def _of_method(rows: Sequence[Row], task: str, method: str) -> dict[str, Any]:
    mine = [row for row in rows if row["task"] == task and row["method"] == method]
    attempts = sum(row["attempts"] for row in mine)
    name = f"{task}_{_name(method)}"
    return {
        f"ert_s_{name}": geometric_mean(np.log([row["ert_s"] for row in mine])),
        f"hit_rate_{name}": sum(row["hits"] for row in mine) / attempts if attempts else None,
        f"trials_{name}": float(np.mean([row["n_trials"] for row in mine])) if mine else None,
    }


def _whole(table: Table) -> NDArray[np.int64]:
    return np.arange(len(table[OURS]))


def _name(method: str) -> str:
    return method.replace("-", "_")
