"""What is said of a machine that was slower for a while: which trainings, how much, when. Numbers and one sentence.

Pure. Must not know how slow-downs are found (see `cost.drift`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoaccel.cost.drift import WAITING, Drift
from autoaccel.report.progress import seconds
from autoaccel.trial import TrialRecord


def drift_document(done: Sequence[TrialRecord], drift: Drift) -> dict[str, Any] | None:
    """The entry of result.json; None where no training was slower than the machine allows.

    Args:
        done: corrected records.
        drift: what they were corrected by.
    """
    trained = [r for r in done if r.spec.config is not None]
    slowed = [r for r in trained if r.slowdown > 1]
    if not slowed:
        return None
    n, most = f"{len(slowed)} of {len(trained)} trainings", max(r.slowdown for r in slowed)
    from_s = min(r.ended_at_s - r.slowdown * r.wall_s for r in slowed)
    to_s = max(r.ended_at_s for r in slowed)
    when = f"{seconds(from_s)} and {seconds(to_s)}"
    single = sum(r.spec.threads > 0 for r in slowed)
    meanwhile = f", {single} of them run with one thread meanwhile," if single else ""
    cause = "other load" if max(drift.waiting) > WAITING else "other load or a lower clock"
    return {
        "n_slowed": len(slowed),
        "n_trainings": len(trained),
        "most": most,
        "lost_s": sum((r.slowdown - 1) * r.ended.elapsed_s for r in slowed),
        "from_s": from_s,
        "to_s": to_s,
        "text": f"{cause} slowed {n}{meanwhile} by up to {most:.1f}x, between {when} of the budget; their times are "
        "corrected by it, to those of the machine at its best",
    }
