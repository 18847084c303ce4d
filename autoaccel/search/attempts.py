"""The book of attempts: what is known of every configuration, ranked by pessimistic expected running time (ERT).

ERT = (time spent in attempts) / (hits); the rank adds one pseudo-miss, so that one lucky hit does not win. Pure folds
over trial records; must not decide anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from autoaccel.config import TrainerConfig
from autoaccel.trial import BOUNDED_METRICS, FAILURES, SEARCHING, Target, TrialRecord

FAR = 8.0
"""The largest shortfall: an error e^8 (3,000) times the target's, a failure, or no evaluation at all."""
_MISS_SLOPE = 0.5
"""Assumed slope of -log(error) against log(time): how much longer a training must be to close a gap."""


@dataclass(frozen=True)
class Standing:
    """Attempts at one configuration (seeds apart): how many, how many hit, and the training time they took."""

    config: TrainerConfig
    identity: str
    """Of the config; kept, for it is costly to compute."""
    attempts: int = 0
    hits: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    is_baseline: bool = False

    @property
    def mean_s(self) -> float:
        """Mean training time of an attempt."""
        return self.seconds / self.attempts if self.attempts else math.inf

    @property
    def ert_s(self) -> float:
        """Expected running time to the target; infinite without a hit."""
        return self.seconds / self.hits if self.hits else math.inf

    @property
    def rank_s(self) -> float:
        """ERT with one pseudo-miss added."""
        return (self.seconds + self.mean_s) / self.hits if self.hits else math.inf

    @property
    def misses(self) -> int:
        return self.attempts - self.hits


def standings(records: Iterable[TrialRecord], purposes: tuple[str, ...] = SEARCHING) -> list[Standing]:
    """What each configuration has to show in trials of these purposes, best rank first."""
    book: dict[str, Standing] = {}
    for record in records:
        config = record.spec.config
        if config is None or record.spec.purpose not in purposes or not record.is_attempt:
            continue
        known = book.get(config.identity) or Standing(replace(config, seed=0), config.identity)
        book[config.identity] = Standing(
            known.config,
            known.identity,
            known.attempts + 1,
            known.hits + record.hit,
            known.seconds + record.ended.elapsed_s,
            known.flops + record.ended.flops,
            known.is_baseline or record.spec.purpose in ("baseline", "confirm_baseline"),
        )
    return sorted(book.values(), key=lambda s: (s.rank_s, -s.attempts))


def shortfall(target: Target, value: float | None, floor: float) -> float:
    """How far a metric value is from the target, as log(error / target error) up to FAR; 0 or less is reached.

    Args:
        target: the target.
        value: a metric value; None or NaN counts as far away.
        floor: about half a validation example, keeps the logarithm finite.
    """
    if value is None or not math.isfinite(value):
        return FAR
    if target.metric in BOUNDED_METRICS:
        return min(FAR, math.log((max(0.0, 1 - value) + floor) / (1 - target.value + floor)))
    if target.direction == "min" and target.value > 0 and value > 0:
        return min(FAR, math.log(value / target.value))
    gap = target.value - value if target.direction == "max" else value - target.value
    return min(FAR, gap / max(abs(target.value), floor))


def log_time_to_target(record: TrialRecord, target: Target, floor: float) -> float:
    """Log seconds to the target (what Optuna's view minimises), by a power law where it was missed."""
    took_s = max(record.ended.elapsed_s, 1e-3)
    if record.hit:
        return math.log(took_s)
    gap = max(0.0, shortfall(target, record.ended.value, floor))
    if record.ended.outcome in FAILURES:  # the time says nothing: a crash at once must not look like a fast training
        took_s, gap = max(took_s, record.spec.cap_s or 0.0), FAR
    return math.log(took_s) + gap / _MISS_SLOPE + 0.5
