"""The book of attempts: every configuration with its hits and misses, ranked by posterior expected running time.

A lucky hit does not win: the model's probability counts as further attempts. Must not decide what comes next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoaccel.search.acquisition import hit_probability
from autoaccel.search.evidence import Curve
from autoaccel.search.setting import Params, Setting
from autoaccel.search.surrogate import Surrogate

_OTHERS = 50
"""Configurations without a hit that are looked at: the nearest to the target."""
_LEAST = 1e-3
"""The smallest probability of a hit that is told apart from none."""


@dataclass(frozen=True)
class Entry:
    """A configuration with its attempts and what the model says of it."""

    params: Params
    horizon: float
    attempts: int
    hits: int
    tries: int
    """Attempts and cut trainings."""
    ert_s: float
    """Posterior expected running time: its attempts, and pseudo-attempts that hit as the model says."""
    p_hit: float


def key(params: Params, horizon: float) -> tuple[Any, ...]:
    """What makes two trainings attempts of the same configuration."""
    return (*sorted(params.items()), round(horizon))


def book(setting: Setting, surrogate: Surrogate, curves: Sequence[Curve]) -> list[Entry]:
    """What was tried, best posterior ERT first: every configuration that hit, and of the others the nearest to it.

    Cut trainings are no attempts.
    """
    grouped: dict[tuple[Any, ...], list[Curve]] = {}
    for curve in curves:
        grouped.setdefault(key(curve.params, curve.horizon), []).append(curve)
    if not grouped:
        return []
    groups = [g for g in grouped.values() if any(c.hit for c in g)]
    others = [g for g in grouped.values() if not any(c.hit for c in g)]
    groups += sorted(others, key=lambda g: -max(max(c.margins, default=-math.inf) for c in g))[:_OTHERS]
    firsts = [group[0] for group in groups]
    mean, sd = surrogate.predict(surrogate.rows([c.params for c in firsts]), np.array([c.horizon for c in firsts]))
    p_model = np.clip(hit_probability(surrogate, mean, sd), _LEAST, 1.0)
    entries = [_entry(setting, group, float(p)) for group, p in zip(groups, p_model, strict=True)]
    return sorted(entries, key=lambda e: e.ert_s)


def incumbent(entries: Sequence[Entry]) -> Entry | None:
    """The best configuration that has hit; None before the first hit."""
    return next((e for e in entries if e.hits), None)


def deterministic(curves: Sequence[Curve]) -> bool:
    """Whether seeds change nothing here: a configuration was run twice and gave the very same margins."""
    seen: dict[tuple[Any, ...], Curve] = {}
    for curve in curves:
        first = seen.setdefault(key(curve.params, curve.horizon), curve)
        if first is not curve and len(set(curve.margins)) > 1:
            return first.margins == curve.margins
    return False


def _entry(setting: Setting, group: Sequence[Curve], p_model: float) -> Entry:
    first, attempts = group[0], [c for c in group if c.is_attempt]
    hit_times = [c.seconds for c in attempts if c.hit]
    planned_s = setting.seconds(first.params, first.horizon)
    if not setting.variant.book:  # ablation: the luckiest hit wins
        ert_s = min(hit_times, default=100.0 * planned_s)
        return Entry(
            first.params, first.horizon, len(attempts), len(hit_times), len(group), ert_s, float(bool(hit_times))
        )
    weight = setting.variant.trust
    hit_s = float(np.mean(hit_times)) if hit_times else planned_s
    spent_s = sum(c.seconds for c in attempts) + weight * (p_model * hit_s + (1 - p_model) * planned_s)
    p_hit = (len(hit_times) + weight * p_model) / (len(attempts) + weight)
    ert_s = spent_s / (len(attempts) + weight) / p_hit
    return Entry(first.params, first.horizon, len(attempts), len(hit_times), len(group), ert_s, p_hit)
