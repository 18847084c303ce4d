"""An answer where nothing has hit: the configuration and the horizon at which the model expects the target.

For targets that need longer trainings than the budget pays. Says how sure it is; must not be shown as confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from autoaccel.config import TrainerConfig
from autoaccel.search.knowledge import Knowledge
from autoaccel.search.question import with_horizon
from autoaccel.search.setting import Setting
from autoaccel.search.surrogate import Surrogate
from autoaccel.trial import SEARCHING, TrialRecord

FURTHEST = 32.0
"""The model is not asked about trainings longer than this many times the longest that was run."""
_SIGMAS = 1.645
"""Half width of the interval in standard deviations of what the model does not know: 90 %."""


@dataclass(frozen=True)
class Extrapolation:
    """A configuration that no trial confirms, and the time at which it should reach the target."""

    config: TrainerConfig
    seconds: float
    low_s: float
    high_s: float | None
    """None: on the pessimistic side the target is not reached within `FURTHEST`."""


def extrapolated(knowledge: Knowledge, records: Sequence[TrialRecord]) -> Extrapolation | None:
    """The answer without a hit; None where there was one, or where the model expects none however long."""
    question = knowledge.question
    if any(r.hit for r in records) or not any(r.reports for r in records if r.spec.purpose in SEARCHING):
        return None
    setting, surrogate, curves = knowledge.model(records)
    params, _ = knowledge.best_guess(records)
    longest = max(c.samples[-1] for c in curves if c.samples)
    horizons = _reaching(setting, surrogate, params, longest * FURTHEST, question.hit_probability)
    low, middle, high = horizons
    if low is None or middle is None:
        return None
    return Extrapolation(
        config=with_horizon(knowledge.config(records, params, middle), middle),
        seconds=setting.seconds(params, middle),
        low_s=setting.seconds(params, low),
        high_s=None if high is None else setting.seconds(params, high),
    )


def _reaching(
    setting: Setting, surrogate: Surrogate, params: Mapping[str, Any], longest: float, wanted: float
) -> list[float | None]:
    """The shortest horizons that hit often enough: if the mean is as high as it may be, as expected, and as low."""
    horizons = np.geomspace(max(1.0, setting.unit / 256), max(longest, setting.unit / 128), 300)
    rows = np.repeat(surrogate.rows([params]), len(horizons), axis=0)
    mean, sd = surrogate.predict(rows, horizons)
    enough = float(ndtri(wanted)) * surrogate.scales.aleatoric_sd
    found: list[float | None] = []
    for sigmas in (_SIGMAS, 0.0, -_SIGMAS):
        good = np.flatnonzero(mean + sigmas * sd >= enough)
        found.append(float(horizons[good[0]]) if len(good) else None)
    return found
