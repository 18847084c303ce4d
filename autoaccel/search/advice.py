"""The decisions of the search from what was seen: what to train next, when to stop a training, what to answer.

Pure functions of curves. Reach (nothing hits yet) and race (beat the incumbent) are one rule, the most expected
improvement of log ERT (see `acquisition`); in reach it counts as often as it hits, against never hitting. Must not know
records, executors or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from scipy.special import ndtr

from autoaccel.search.acquisition import hit_probability, log_ert_gain
from autoaccel.search.book import Entry, book, deterministic, incumbent, key
from autoaccel.search.encoding import Array
from autoaccel.search.evidence import Curve
from autoaccel.search.models import Models
from autoaccel.search.setting import Params, Proposal, Setting, Variant
from autoaccel.search.surrogate import Surrogate

__all__ = [
    "Entry",
    "Models",
    "Proposal",
    "Setting",
    "Variant",
    "answer",
    "book",
    "incumbent",
    "key",
    "propose",
    "should_stop",
]

_LADDER = np.array([0.93, 0.82, 0.7, 0.55, 0.4, 0.25, 0.125])
"""Durations a candidate is looked at with, as shares of the longest allowed: a race is planned to be shorter than what
it is to beat."""
_N_RANDOM, _N_NEAR, _N_DEFAULT = 150, 6, 30
"""Candidates: anywhere, near each good point at each width, near the default recipe."""
_N_TRIES = 20
"""Draws among which one is looked for that is a config."""
_WIDTHS = (0.05, 0.1, 0.2, 0.3)
_LOOK_WIDTH = 0.5
"""How far first looks are from the default, as a share of each knob's scale: where it fails, hardly anything within a
quarter hits either."""
_ROOM = 2.0
"""While nothing hits, a training may at least be so many times as long as the shortest one that there is."""
_FEW = 40
"""The best candidates among which one is looked for that was not trained yet."""
_SURE = 1.3
"""Standard normal quantile of nine hits in ten."""


def propose(
    setting: Setting, models: Models, curves: Sequence[Curve], left_s: float, running: Sequence[Curve] = ()
) -> Proposal | None:
    """The next training, or None when nothing fits into what is left.

    Args:
        setting: what is known beforehand.
        models: cache of fitted models of this study.
        curves: all trainings that have ended, in order.
        left_s: seconds that may still be spent on searching.
        running: trainings on other devices; they count as if they ended as the model expects.
    """
    if left_s <= 0:
        return None
    first = _first(setting, models, [*curves, *running], left_s)
    if first is not None:
        return first
    surrogate = models.of(curves, running)
    entries = book(setting, surrogate, curves)
    best = incumbent(entries)
    again = _repeat(setting, surrogate, curves, best, left_s) if best is not None else None
    if again is not None:
        return again
    rng = np.random.default_rng([setting.seed, len(curves) + len(running)])
    places = _candidates(models, curves, entries, rng)
    return _best_bet(setting, models, surrogate, places, _Stakes.of(setting, curves, best, left_s))


def should_stop(setting: Setting, models: Models, curves: Sequence[Curve], running: Curve, proposal: Proposal) -> bool:
    """Whether finishing a training is worth less than starting something else.

    Args:
        setting, models, curves: as in `propose`; the running training is not among the curves.
        running: its curve so far.
        proposal: what it was started for.
    """
    variant = setting.variant
    if not variant.censored or not curves or not running.samples or proposal.purpose == "repeat":
        return False
    surrogate = models.of(curves)
    mean, sd = surrogate.continued(running)
    if proposal.purpose == "first":
        return bool(ndtr((mean - _best_margin(curves)) / sd) < variant.first_stop)
    total_s = max(setting.seconds(running.params, running.horizon), running.seconds)
    remaining_s = max(total_s - running.seconds, 0.02 * total_s)
    off, log_s = np.array([mean - proposal.goal]), np.array([math.log(total_s)])
    log_reference, reach = math.log(proposal.reference_s), proposal.purpose == "reach"
    gain = log_ert_gain(surrogate, off, np.array([sd]), log_s, log_reference, if_hit=reach)[0]
    floor_s = variant.floor_s(proposal.reference_s) if proposal.purpose == "race" else 0.0
    return bool(gain / (remaining_s + floor_s) < variant.stop_ratio * proposal.rate)


def answer(setting: Setting, models: Models, curves: Sequence[Curve]) -> tuple[Params, float]:
    """Knobs and horizon that would be returned now: the incumbent, or before any hit what came nearest the target."""
    best = incumbent(book(setting, models.of(curves), curves))
    if best is not None:
        return best.params, best.horizon
    seen = [c for c in curves if c.samples]
    ended = [c for c in seen if c.outcome == "missed"] or seen  # the end of a schedule decides
    if not ended:
        return setting.default, setting.horizon.clip(setting.unit)
    nearest = max(ended, key=lambda c: c.margins[-1])
    return nearest.params, setting.horizon.clip(max(nearest.horizon, setting.unit))


@dataclass(frozen=True)
class _Stakes:
    """What a training is to beat, how long it may be, and the margin it should reach."""

    reference_s: float
    longest_s: float
    most_s: float
    """How long it may be where hardly anything fits into that."""
    goal: float
    race: bool
    tried: frozenset[tuple[Any, ...]]
    """Configurations that were trained; a repeat of one is another decision."""

    @classmethod
    def of(cls, setting: Setting, curves: Sequence[Curve], best: Entry | None, left_s: float) -> _Stakes:
        tried = frozenset(key(c.params, c.horizon) for c in curves)
        if best is not None:
            longest_s = min(best.ert_s, left_s)
            return cls(best.ert_s, longest_s, longest_s, 0.0, True, tried)
        # Nothing hits yet: a step beyond the best margin seen is the goal, so that there is something to climb, and the
        # longest training grows with what was tried in vain.
        n_more = max(0, len(curves) - setting.n_looks)
        grown = setting.variant.initial_share * setting.variant.escalation ** min(n_more, 50)
        longest_s = min(left_s, setting.full_s * min(grown, setting.horizon.high / setting.unit))
        goal = min(0.0, _best_margin(curves) + setting.variant.step)
        return cls(setting.never_s, longest_s, left_s, goal, False, tried)


def _best_margin(curves: Sequence[Curve]) -> float:
    return max((max(c.margins) for c in curves if c.margins), default=-3.0)


def _best_bet(
    setting: Setting, models: Models, surrogate: Surrogate, places: Array, stakes: _Stakes
) -> Proposal | None:
    """The candidate and horizon of most expected gain."""
    variant, points = setting.variant, models.encoding.params(places)
    ladder = _LADDER if variant.horizon else _LADDER[:1]
    lines = np.array([setting.line(p) for p in points])
    possible = np.isfinite(lines).all(axis=1)
    if not possible.all():
        places, points, lines = places[possible], [points[i] for i in np.flatnonzero(possible)], lines[possible]
    if not points:
        return None
    fixed_s, slope_s = lines.T[:, :, None]
    low, high = setting.horizon.low, setting.horizon.high
    shortest_s = float((fixed_s + low * slope_s).min())
    longest_s = max(stakes.longest_s, min(_ROOM * shortest_s, stakes.most_s))
    horizons = np.clip((longest_s * ladder[None, :] - fixed_s) / slope_s, low, high)
    if setting.horizon.integer:
        horizons = np.floor(horizons)
    seconds, horizons = (fixed_s + horizons * slope_s).ravel(), horizons.ravel()
    rows = np.repeat(models.encoding.rows(places), len(ladder), axis=0)
    mean, sd = surrogate.predict(rows, horizons)
    log_reference = math.log(stakes.reference_s)
    gain = log_ert_gain(surrogate, mean - stakes.goal, sd, np.log(seconds), log_reference, if_hit=not stakes.race)
    cost = seconds + (variant.floor_s(stakes.reference_s) if stakes.race else 0.0)
    # Ablation only. By its root while nothing hits: per cost, short trainings that hit one time in thirty would look
    # better than the long one that hits.
    score = gain / cost ** (1.0 if stakes.race else 0.5) if variant.cost else gain
    fits = seconds <= longest_s * 1.001
    if not fits.any():
        return None
    if not (gain[fits] > 1e-12).any():  # hopeless everywhere: the least hopeless
        score = hit_probability(surrogate, mean, sd)
    candidates = [(p, float(h)) for p, h in zip((p for p in points for _ in ladder), horizons, strict=True)]
    top = _first_new(setting, np.where(fits, score, -np.inf), candidates, stakes.tried)
    if top is None:
        return None
    params, horizon = candidates[top]
    return Proposal(
        params=params,
        horizon=horizon,
        cap_s=stakes.reference_s if stakes.race and (setting.pinned or variant.cap) else math.inf,
        rate=float(gain[top] / cost[top]),
        purpose="race" if stakes.race else "reach",
        why="expected gain",
        goal=stakes.goal,
        reference_s=stakes.reference_s,
        gain=float(gain[top]),
    )


def _first_new(
    setting: Setting, score: Array, candidates: Sequence[tuple[Params, float]], tried: frozenset[tuple[Any, ...]]
) -> int | None:
    """The best score that is no configuration which was trained already, among the best few; else the best."""
    order = (int(i) for i in np.argsort(-score, kind="stable") if np.isfinite(score[i]))
    best = None
    for i in islice((i for i in order if setting.possible(candidates[i][0])), _FEW):
        if key(*candidates[i]) not in tried:
            return i
        best = i if best is None else best
    return best


def _first(setting: Setting, models: Models, curves: Sequence[Curve], left_s: float) -> Proposal | None:
    """The first few trainings, all short: a rule of thumb, the default, other rules, then points around the default."""
    n = len(curves)
    if n >= setting.n_looks or any(c.hit for c in curves):
        return None
    if n < len(setting.known):
        params = setting.known[n]
        why = "rule of thumb" if params in setting.recipes else "default recipe, annealed early"
    else:
        params, why = _drawn(setting, models, n), "first look"
    # What a training starts with is paid in any case, so it comes on top of the look itself.
    fixed_s, _ = setting.line(params)
    horizon = setting.horizon_for(params, min(fixed_s + setting.variant.initial_share * setting.full_s, left_s))
    return Proposal(params, horizon, math.inf, 0.0, "first", why)


def _drawn(setting: Setting, models: Models, n: int) -> Params:
    """A point for a first look: around the default, or anywhere where nothing is to be known beforehand."""
    rng, encoding = np.random.default_rng([setting.seed, n, 1]), models.encoding
    for _ in range(_N_TRIES):
        if setting.variant.recipes:
            place = encoding.near(encoding.places([setting.default]), rng, np.array([_LOOK_WIDTH]), 1.0)
        else:
            place = encoding.anywhere(rng, 1)
        drawn = encoding.params(place)[0]
        if setting.possible(drawn):
            return drawn
    return setting.default


def _repeat(
    setting: Setting, surrogate: Surrogate, curves: Sequence[Curve], best: Entry, left_s: float
) -> Proposal | None:
    """The incumbent on another seed while luck may have made it, if that is cheap beside what was spent."""
    variant = setting.variant
    if not variant.book or best.tries >= variant.most_repeats or deterministic(curves):
        return None
    planned_s = setting.seconds(best.params, best.horizon)
    if planned_s > min(left_s, variant.repeat_share * sum(c.seconds for c in curves)):
        return None
    mean, sd = surrogate.predict(surrogate.rows([best.params]), np.array([best.horizon]))
    if (mean[0] - sd[0]) / surrogate.scales.aleatoric_sd > _SURE:
        return None
    return Proposal(best.params, best.horizon, 3 * planned_s, 0.0, "repeat", "is the incumbent luck?")


def _candidates(models: Models, curves: Sequence[Curve], entries: Sequence[Entry], rng: np.random.Generator) -> Array:
    """Random places, places near the best points, and the best points themselves."""
    encoding = models.encoding
    ranked = sorted(curves, key=lambda c: -max(c.margins, default=-9.0))
    centers = encoding.places([e.params for e in entries[:4]] + [c.params for c in ranked[:4]])
    n_each = _N_NEAR * len(_WIDTHS)
    widths = np.tile(np.repeat(_WIDTHS, _N_NEAR), len(centers))
    found = [encoding.anywhere(rng, _N_RANDOM), centers]
    found.append(encoding.near(np.repeat(centers, n_each, axis=0), rng, widths, 0.35))
    if models.setting.variant.recipes:
        default = np.repeat(encoding.places([models.setting.default]), _N_DEFAULT, axis=0)
        found += [encoding.places(models.setting.known), encoding.near(default, rng, np.full(_N_DEFAULT, 0.2), 0.7)]
    return np.concatenate(found)
