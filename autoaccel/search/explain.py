"""What each knob bought: the answer against itself with one knob put back, by the model of the study.

The effect on ERT is a distribution, for the model knows how little it knows: a knob whose interval holds 1 is said to
have bought nothing that was seen. Must not know records or how results are shown.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from autoaccel.search.encoding import Array
from autoaccel.search.evidence import Curve
from autoaccel.search.models import Models
from autoaccel.search.setting import Setting
from autoaccel.search.surrogate import Surrogate, on_one_thread

_LADDER = np.geomspace(0.35, 8.0, 34)
"""Horizons of either side, as multiples of the answer's: each knob is judged at its own best one. In steps of a tenth:
with steps of four tenths a knob that needed a little more was said to need as much as that."""
_DRAWS = 400
MOST = 50.0
"""Effects beyond this factor (or below its inverse) are not told apart: the model is extrapolating."""

LEAST = 1.1
"""Effects below this factor are not claimed. On 23 simulated studies (2026-11-21) 2 of 45 claims beyond it were of
knobs worth less than 5 %, of those beyond 1 7 of 66: the model does not doubt its own length scales, and 85 % of
its intervals held the truth."""


@dataclass(frozen=True)
class KnobEffect:
    """ERT with one knob back at the baseline's value, as a multiple of the answer's ERT."""

    path: str
    tuned: Any
    baseline: Any
    ratio: float
    """Median: above 1 the knob made training faster."""
    low: float
    high: float
    """95 % interval by the model."""

    @property
    def is_known(self) -> bool:
        """Whether the interval excludes no effect, by a margin."""
        return self.low > LEAST or self.high < 1 / LEAST


def knob_effects(
    setting: Setting, models: Models, curves: Sequence[Curve], *, tuned: Mapping[str, Any], horizon: float
) -> list[KnobEffect]:
    """The effect of every knob in which the answer differs from the default recipe, largest first.

    A knob that depends on another one which differs too (the learning rate of another optimizer) is part of that one's
    effect and has none of its own: the default's value was never meant for it.

    Args:
        setting: of the study.
        models: of the study.
        curves: everything that was trained.
        tuned: the answer, without its horizon.
        horizon: of the answer.
    """
    effects: list[KnobEffect] = []
    surrogate = models.of(curves)
    for path in dict.fromkeys(knob.path for knob in models.encoding.knobs):
        if path not in tuned or _is_joint(models, path, tuned, setting.default):
            continue
        before = setting.default.get(path)
        if before is None or before == tuned[path]:
            continue
        back = _put_back(models, tuned, path, setting.default)
        low, middle, high = _ratio(setting, surrogate, (tuned, back), horizon, path)
        effects.append(KnobEffect(path, tuned[path], before, middle, low, high))
    return sorted(effects, key=lambda e: -abs(np.log(e.ratio)))


def _is_joint(models: Models, path: str, tuned: Mapping[str, Any], default: Mapping[str, Any]) -> bool:
    """Whether a knob depends on one in which the two points differ."""
    names = {name for knob in models.encoding.knobs if knob.path == path for name in knob.when}
    return any(name in tuned and name in default and tuned[name] != default[name] for name in names)


def _put_back(models: Models, tuned: Mapping[str, Any], path: str, default: Mapping[str, Any]) -> dict[str, Any]:
    """The answer with one knob as in the default recipe, and with it the knobs that exist only there (the learning rate
    of another optimizer)."""
    point = {**tuned, path: default[path]}
    for knob in models.encoding.knobs:
        if path in knob.when and knob.path in default:
            point[knob.path] = default[knob.path]
    return models.encoding.params(models.encoding.places([point]))[0]


@on_one_thread
def _ratio(
    setting: Setting, surrogate: Surrogate, pair: tuple[Mapping[str, Any], Mapping[str, Any]], horizon: float, path: str
) -> tuple[float, float, float]:
    """2.5, 50 and 97.5 % quantiles of ERT(second) / ERT(first), each at its best horizon, over draws of the model."""
    horizons = np.clip(horizon * _LADDER, setting.horizon.low, setting.horizon.high)
    n = len(horizons)
    rows = np.repeat(np.array([surrogate.encoding.row(p) for p in pair]), n, axis=0)
    mean, covariance = surrogate.joint(rows, np.tile(horizons, 2))
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(2 * n))
    margins: Array = mean + rng.normal(size=(_DRAWS, 2 * n)) @ root.T
    log_seconds = np.log([setting.seconds(p, float(h)) for p in pair for h in horizons])
    log_ert = log_seconds - log_ndtr(margins / surrogate.scales.aleatoric_sd)
    ratio = log_ert[:, n:].min(axis=1) - log_ert[:, :n].min(axis=1)
    low, middle, high = np.exp(np.clip(np.quantile(ratio, [0.025, 0.5, 0.975]), -np.log(MOST), np.log(MOST)))
    return float(low), float(middle), float(high)
