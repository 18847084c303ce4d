"""Figures and table rows from what was run. Pure; what was not measured is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.estimates import geometric_interval, geometric_mean

Row = dict[str, Any]


def figures(
    rows: Sequence[Row], executors: Sequence[str], faults: Mapping[str, Row], slots: Sequence[Row]
) -> dict[str, Any]:
    """All figures by name.

    Args:
        rows: studies: executor, seed, ert_s, overshoot_s.
        executors: the first is what the others are compared with.
        faults: by name, see `faults`.
        slots: see `slots`.
    """
    found: dict[str, Any] = {"quality_ratio": None, "quality_ratio_interval": None, "overshoot_s": None}
    for name in executors[1:]:
        word = f"quality_ratio_{name.replace('-', '_')}"
        value, interval = quality(rows, name, executors[0])
        found |= {word: value, f"{word}_interval": interval}
        if value is not None and value > (found["quality_ratio"] or 0.0):
            found |= {"quality_ratio": value, "quality_ratio_interval": interval}
    for name in executors:
        late = [row["overshoot_s"] for row in rows if row["executor"] == name]
        found[f"overshoot_s_{name.replace('-', '_')}"] = max(late) if late else None
    found["overshoot_s"] = max((row["overshoot_s"] for row in rows), default=None)
    found["n_seeds"] = len({row["seed"] for row in rows})
    return {**found, **of_faults(faults), **of_slots(slots)}


def quality(rows: Sequence[Row], name: str, local: str) -> tuple[float | None, list[float] | None]:
    """ERT of one executor's answers over that of another's for the same seeds, and its interval."""
    known = {(row["executor"], row["seed"]): row["ert_s"] for row in rows}
    seeds = [seed for executor, seed in known if executor == name and (local, seed) in known]
    logs = np.log([known[name, seed] / known[local, seed] for seed in seeds])
    return geometric_mean(logs), geometric_interval(logs)


def of_longer(rows: Sequence[Row], executors: Sequence[str]) -> dict[str, Any]:
    """The same of studies with a longer budget; the first of two executors is what the other is compared with."""
    value, interval = quality(rows, executors[1], executors[0])
    late = max((row["overshoot_s"] for row in rows), default=None)
    return {"quality_ratio_longer": value, "quality_ratio_longer_interval": interval, "overshoot_s_longer": late}


def of_faults(faults: Mapping[str, Row]) -> dict[str, Any]:
    """What became of trials and processes."""
    workers = [row for name, row in faults.items() if name.startswith("worker")]
    drivers = [row for name, row in faults.items() if name.startswith("driver")]
    node = faults.get("node-ray")
    return {
        "workers_killed": sum(row["n_killed"] for row in workers) if workers else None,
        "trials_run_again": sum(row["n_lost"] - row["lost_trials"] for row in workers) if workers else None,
        "lost_trials": sum(row["lost_trials"] for row in faults.values()) if faults else None,
        "repeated_trials": sum(row["repeated_trials"] for row in drivers) if drivers else None,
        "left_processes": sum(len(row["left_processes"]) for row in drivers) if drivers else None,
        "answers_in_spite_of_faults": f"{sum(row['answer'] is not None for row in faults.values())} of {len(faults)}"
        if faults
        else None,
        "two_nodes_one_lost_exit_code": node["exit_code"] if node else None,
    }


def of_slots(slots: Sequence[Row]) -> dict[str, Any]:
    """Throughput and memory by number of slots."""
    found: dict[str, Any] = {}
    for row in slots:
        found[f"suggestions_per_s_{row['slots']}"] = row["suggestions_per_s"]
        found[f"driver_mb_{row['slots']}"] = row["driver_mb"]
    return found
