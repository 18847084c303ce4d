"""Models: the surrogate of a growing list of curves, as a cache that is recomputed the same from the same curves.

Must not know decisions.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoaccel.search.encoding import Encoding
from autoaccel.search.evidence import BELIEF, Curve
from autoaccel.search.setting import Setting
from autoaccel.search.surrogate import Scales, Surrogate, fit_scales

_FIRST_FIT, _REFIT = 4, 1.25
"""Hyperparameters are fitted at so many curves, and again at every quarter more."""


class Models:
    """Fitted models of one study. Holds nothing that does not follow from the curves."""

    def __init__(self, setting: Setting, n_given: int = 0) -> None:
        """Args:
        setting: what is known beforehand.
        n_given: curves that are there from the beginning: nothing is fitted to fewer.
        """
        self.setting = setting
        self._first_fit = max(_FIRST_FIT, n_given)
        self.encoding = Encoding(setting.space, setting.horizon.path)
        self._belief = Curve(setting.default, setting.unit, (setting.unit,), (0.0,), 0.0, BELIEF)
        """Targets are commonly what the default recipe just reaches at its full length."""
        self._scales: dict[int, Scales] = {}
        self._last: tuple[tuple[Curve, ...], Surrogate] | None = None

    def of(self, curves: Sequence[Curve], running: Sequence[Curve] = ()) -> Surrogate:
        """The model conditioned on all curves, running ones as it expects them to end.

        Hyperparameters are those of the last refit point among the ended curves.
        """
        wanted = (*curves, *running)
        if (
            self._last is not None
            and len(self._last[0]) == len(wanted)
            and all(map(operator.is_, self._last[0], wanted))
        ):
            return self._last[1]
        believed = [self._belief, *curves]
        surrogate = Surrogate(self.encoding, self.setting.unit, believed, self._scales_at(curves))
        if running:
            expected = [_expected(surrogate, curve) for curve in running]
            surrogate = Surrogate(self.encoding, self.setting.unit, [*believed, *expected], surrogate.scales)
        self._last = (wanted, surrogate)
        return surrogate

    def _scales_at(self, curves: Sequence[Curve]) -> Scales | None:
        """Each fit starts from the one before, so all refit points up to the last are gone through once."""
        scales, n = None, self._first_fit
        while n <= len(curves):
            if n not in self._scales:
                self._scales[n] = fit_scales(self.encoding, self.setting.unit, curves[:n], scales)
            scales, n = self._scales[n], max(n + 2, int(n * _REFIT))
        return scales


def _expected(surrogate: Surrogate, curve: Curve) -> Curve:
    """A running training as the model expects it to end, short of the target."""
    mean, _ = surrogate.predict(surrogate.rows([curve.params]), np.array([curve.horizon]))
    samples, margins = (*curve.samples, curve.horizon), (*curve.margins, min(float(mean[0]), -1e-3))
    return replace(curve, samples=samples, margins=margins, outcome="cut")
