"""ERT ratios of pairs, errors of what was stated, and how often a disturbance was named. Pure; None: not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.estimates import geometric_interval, geometric_mean

QUIET, DISTURBED, SWAMPED = "quiet", "disturbed", "swamped"
"""Nothing beside the study; one hog; a hog per core."""

Row = dict[str, Any]


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures by name.

    Args:
        rows: of a judged pair each: for 'quiet', 'disturbed' and perhaps 'swamped' the study (`time_to_target_s`,
            `uncorrected_s`, `drift`, `reference_s`, `tuning_s`, `budget_s`) with its judged `ert_s` in CPU seconds and
            `ert_wall_s`.
    """
    quiet, disturbed = [row[QUIET] for row in rows], [row[DISTURBED] for row in rows]
    swamped = [row[SWAMPED] for row in rows if SWAMPED in row]
    everything = [*quiet, *disturbed, *swamped]
    ratios = _ratios(rows, DISTURBED)
    return {
        "pairs": len(rows),
        "ert_ratio": geometric_mean(ratios),
        "ert_ratio_interval": _interval(ratios),
        "stated_error": geometric_mean(_errors(disturbed, "time_to_target_s")),
        "stated_error_interval": _interval(_errors(disturbed, "time_to_target_s")),
        "stated_error_uncorrected": geometric_mean(_errors(disturbed, "uncorrected_s")),
        "stated_error_quiet": geometric_mean(_errors(quiet, "time_to_target_s")),
        "named_share": _share(disturbed),
        "false_alarms": _share(quiet),
        "swamped_pairs": len(swamped),
        "swamped_ert_ratio": geometric_mean(_ratios(rows, SWAMPED)),
        "swamped_stated_error": geometric_mean(_errors(swamped, "time_to_target_s")),
        "swamped_named_share": _share(swamped),
        "most_slowed": max((s["drift"]["most"] for s in (*disturbed, *swamped) if s["drift"]), default=None),
        "reference_share": sum(s["reference_s"] / s["budget_s"] for s in everything) / len(everything)
        if rows
        else None,
        "overshoot_s_max": max((max(0.0, s["tuning_s"] - s["budget_s"]) for s in everything), default=None),
    }


def _ratios(rows: Sequence[Row], arm: str) -> list[float]:
    """Logs of the judged time of an arm's answer over that of the quiet one."""
    return [math.log(row[arm]["ert_s"] / row[QUIET]["ert_s"]) for row in rows if arm in row]


def _errors(studies: Sequence[Row], stated: str) -> list[float]:
    """Logs of stated over judged, both by the clock; a study that states nothing is left out."""
    return [math.log(s[stated] / s["ert_wall_s"]) for s in studies if s[stated]]


def _share(studies: Sequence[Row]) -> float | None:
    return sum(s["drift"] is not None for s in studies) / len(studies) if studies else None


def _interval(logs: Sequence[float]) -> list[float] | None:
    """Of the geometric mean; None below three."""
    return geometric_interval(logs) if len(logs) >= 3 else None
