"""Trials whose worker was lost through no fault of their own: each is run once more, and what is lost again has failed.

Folds over the records, so that a new driver does what the dead one would have done. Must not run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoaccel.search.question import Left
from autoaccel.trial import CONFIRMING, LOST, SEARCHING, Ended, TrialRecord, TrialSpec


def once_more(done: Sequence[TrialRecord], running: Iterable[TrialSpec], left: Left) -> TrialSpec | None:
    """The oldest lost training that was not run again, with a number of its own; None if there is none, or no time."""
    known = [*(r.spec for r in done), *running]
    number = 1 + max((spec.trial for spec in known), default=0)
    for record in done:
        spec = record.spec
        if record.ended.outcome != LOST or spec.purpose not in (*SEARCHING, *CONFIRMING):
            continue
        if any(other.trial > spec.trial and _same(spec, other) for other in known):
            continue
        if min(left.seconds, left.flops, left.share) > 0:
            return replace(
                spec,
                trial=number,
                cap_s=None if spec.cap_s is None else min(spec.cap_s, left.seconds),
                cap_flops=None if spec.cap_flops is None else min(spec.cap_flops, left.flops),
                note=f"{spec.note} (again: the worker of trial {spec.trial} was lost)",
            )
    return None


def judged(done: Iterable[TrialRecord], spec: TrialSpec, ended: Ended) -> Ended:
    """The end of a trial; one that is lost for the second time probably ends what it runs on."""
    again = any(r.ended.outcome == LOST and _same(r.spec, spec) for r in done)
    if ended.outcome != LOST or not again:
        return ended
    return replace(ended, outcome="crashed", message=f"for the second time, {ended.message}")


def _same(a: TrialSpec, b: TrialSpec) -> bool:
    """Whether it is the same training, seed included, or the same probe."""
    return (a.purpose, a.config, a.probe) == (b.purpose, b.config, b.probe)
