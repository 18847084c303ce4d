"""Curves: what every training has shown, in the units the search thinks in.

The margin of an evaluation is log(target error / error): 0 is the target, above is a hit, and power laws become lines
in log samples. Pure values; must not know records, budgets or models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BELIEF = "belief"
"""Outcome of a curve that nobody trained: what is believed beforehand, to be doubted."""
_BEND = 1.0
"""Margins below minus this are compressed: how bad the hopeless are matters little, and must not bend the model."""


@dataclass(frozen=True)
class Curve:
    """One training as the search sees it."""

    params: Mapping[str, Any]
    """Every knob but the horizon."""
    horizon: float
    """Samples its schedule was annealed to."""
    samples: tuple[float, ...]
    """At each evaluation."""
    margins: tuple[float, ...]
    """At each evaluation; see `bent`."""
    seconds: float
    """Training time it took, evaluations included."""
    outcome: str
    """hit, missed (ran its course), cut (capped or stopped), failed (diverged, out of memory, crashed), running."""

    @property
    def hit(self) -> bool:
        return self.outcome == "hit"

    @property
    def is_attempt(self) -> bool:
        """A complete try at the target; a cut training is none."""
        return self.outcome in ("hit", "missed", "failed")


def bent(margin: float) -> float:
    """A margin with its far negative part compressed logarithmically; NaN counts as far away."""
    if not math.isfinite(margin):
        margin = -8.0
    return margin if margin > -_BEND else -_BEND - math.log1p(-margin - _BEND)
