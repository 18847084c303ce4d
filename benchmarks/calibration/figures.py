"""What was stated against what is true, over the studies that claim to have met their target.

Pure; a figure without studies is None. Must not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.document import shown
from benchmarks.estimates import drawn_means, interval

Row = Mapping[str, Any]
BINS = ((5, 9), (10, 14), (15, 20))
"""Attempts of which stated rates are made."""


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures by name."""
    claims = [row for row in rows if row["claim"]]
    stated, true = _mean(claims, "stated_hit_rate"), _mean(claims, "true_hit_rate")
    return {
        "n_studies": len(rows),
        "n_claims": len(claims),
        "claim_share": len(claims) / len(rows) if rows else None,
        "stated_hit_rate": stated,
        "true_hit_rate": true,
        "gap": None if stated is None or true is None else stated - true,
        "gap_interval": gap_interval(claims),
        "ert_coverage": _share([covers(row["stated_ert_interval_s"], row["true_ert_s"]) for row in claims]),
        "ert_true_above": _share([_is_above(row["stated_ert_interval_s"], row["true_ert_s"]) for row in claims]),
        "ert_interval_width": width(claims),
        "hit_rate_coverage": _share([covers(row["stated_hit_rate_interval"], row["exact_hit_rate"]) for row in claims]),
        "claims_below_wanted_rate": _share([row["exact_hit_rate"] < 0.9 for row in claims]),
    }


def covers(interval: Sequence[float] | None, value: float | None) -> bool:
    """Whether an interval holds the truth; one that is missing does not."""
    # A hit rate of 1 is covered by an upper end that rounding put a little below it.
    return interval is not None and value is not None and interval[0] - 1e-9 <= value <= interval[1] + 1e-9


def gap_interval(claims: Sequence[Row]) -> list[float] | None:
    """95 % bootstrap interval over studies of the mean stated rate less the mean true one."""
    if not claims:
        return None
    return interval(drawn_means([row["stated_hit_rate"] - row["true_hit_rate"] for row in claims]))


def width(claims: Sequence[Row]) -> float | None:
    """Median over studies of the upper end of the ERT interval over its lower end."""
    intervals = [row["stated_ert_interval_s"] for row in claims if row["stated_ert_interval_s"]]
    return float(np.median([high / low for low, high in intervals])) if intervals else None


def reliability(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Stated and true rates of claims, by attempts and misses."""
    found = []
    for low, high in BINS:
        for misses, text in ((False, "none"), (True, "some")):
            mine = [
                row
                for row in rows
                if row["claim"] and low <= row["attempts"] <= high and (row["hits"] < row["attempts"]) == misses
            ]
            if mine:
                found.append(
                    {
                        "attempts": f"{low} to {high}",
                        "misses": text,
                        "claims": len(mine),
                        "stated": _mean(mine, "stated_hit_rate"),
                        "true": _mean(mine, "exact_hit_rate"),
                    }
                )
    return found


def reliability_table(entries: Sequence[Row]) -> list[str]:
    """The same for the README."""
    if not entries:
        return ["not measured"]
    names = list(entries[0])
    lines = ["| " + " | ".join(shown(entry[name]) for name in names) + " |" for entry in entries]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *lines]


def _is_above(interval: Sequence[float] | None, value: float | None) -> bool:
    return value is None or (interval is not None and value > interval[1])


def _mean(rows: Sequence[Row], name: str) -> float | None:
    return float(np.mean([row[name] for row in rows])) if rows else None


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None
