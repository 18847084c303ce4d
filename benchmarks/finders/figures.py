"""Rows and figures from choices and pairs. Pure; what was not measured is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.estimates import median_interval
from benchmarks.finders.rounds import OURS

Document = dict[str, Any]


def rows_of(
    found: Mapping[str, Mapping[str, Document]], checked: Mapping[str, Document], pairs: Sequence[Document]
) -> list[Document]:
    """A row for every workload and chooser.

    Args:
        found: what each chooser answered, by workload and chooser: `choice` and `seconds`, or `error`.
        checked: how our choice trained to its end, by workload.
        pairs: see `rounds.run_round`.
    """
    rows = []
    for workload, answers in found.items():
        ours = answers[OURS].get("choice")
        for chooser, answer in answers.items():
            row = {"workload": workload, "chooser": chooser, **_told(answer)}
            if chooser == OURS:
                row |= {"check": checked[workload]["outcome"]} if workload in checked else {}
            elif row["choice"] is not None and ours is not None:
                mine = [p for p in pairs if (p["workload"], p["batch"]) == (workload, row["choice"])]
                row |= _ratio(mine, same=row["choice"] == ours)
            rows.append(row)
    return rows


def _told(answer: Document) -> Document:
    return {name: answer.get(name) for name in ("choice", "seconds", "error")}


def _ratio(pairs: Sequence[Document], *, same: bool) -> Document:
    """Our samples per second over theirs: the median of the pairs, with a 95 % bootstrap interval of it."""
    if same:
        return {"ratio": 1.0, "low": 1.0, "high": 1.0, "pairs": 0}
    nothing = {"ratio": None, "low": None, "high": None, "pairs": 0}
    ended = next((pair for pair in pairs if "how" in pair), None)
    if ended is not None:
        return {**nothing, "ended": ended["ended"], "how": ended["how"]}
    if not pairs:
        return nothing
    ratios = [pair["ours_samples_per_s"] / pair["samples_per_s"] for pair in pairs]
    low, high = median_interval(ratios)
    rates = {name: median(pair[name] for pair in pairs) for name in ("ours_samples_per_s", "samples_per_s")}
    cpu_ratio = median(pair["cpu_ratio"] for pair in pairs)
    found = {"ratio": median(ratios), "low": low, "high": high, "pairs": len(pairs)}
    return {**found, **rates, "cpu_ratio": cpu_ratio}


def figures(rows: Sequence[Document], choosers: Sequence[str]) -> Document:
    """All figures by name; None where something they need is missing."""
    ours = [row for row in rows if row["chooser"] == OURS]
    others = [row for row in rows if row["chooser"] != OURS]
    lows = [row["low"] for row in others if row.get("low") is not None]
    waiting = [r for r in others if r["choice"] is not None and r.get("ratio") is None and r.get("ended") != "other"]
    checks = [row.get("check") for row in ours]
    later = sum(check != "finished" for check in checks) + sum(row.get("ended") == "ours" for row in others)
    found: Document = {
        "vs_finder_min": min(lows) if lows and not waiting else None,
        "oom_later": later if checks and None not in checks else None,
        "finder_choices_that_failed": sum(row.get("ended") == "other" for row in others),
        "finders_without_a_choice": sum(row["error"] is not None for row in others),
    }
    for chooser in choosers:
        took = [row["seconds"] for row in rows if row["chooser"] == chooser]
        found[f"search_s_{chooser}"] = sum(took) if took and None not in took else None
    return found
