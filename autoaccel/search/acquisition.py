"""What to train next: the most expected improvement of log ERT, over knobs and horizon.

ERT = time of an attempt / P(hit). The time is known before a trial (step cost); only the outcome is modelled. The
expectation is over what is not known of the mean; the luck of a seed enters through ERT, and once more while nothing
hits (`if_hit`), so that a lottery ticket gains little (SEARCH.md section 3). Must not know records, executors or
budgets other than the seconds left.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtr

from autoaccel.search.encoding import Array
from autoaccel.search.surrogate import Surrogate

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def log_ert_gain(
    surrogate: Surrogate, mean: Array, sd: Array, log_seconds: Array, log_reference: float, *, if_hit: bool = False
) -> Array:
    """E[max(0, log reference - log ERT)] over what is not known of the mean, by 7-node Gauss-Hermite quadrature.

    Args:
        surrogate: for the luck of a seed.
        mean, sd: of the expected margin at the end, shape (n,).
        log_seconds: of the whole training, shape (n,).
        log_reference: the ERT to beat.
        if_hit: gained by a hit alone: while there is nothing to answer with, a configuration that is good but missed
            is not yet worth anything.
    """
    f = (mean[:, None] + sd[:, None] * _NODES[None, :]) / surrogate.scales.aleatoric_sd
    beaten = np.maximum(0.0, log_reference - log_seconds[:, None] + log_ndtr(f))
    gain: Array = (beaten * ndtr(f) if if_hit else beaten) @ _WEIGHTS
    return gain


def hit_probability(surrogate: Surrogate, mean: Array, sd: Array) -> Array:
    """P(hit) of one attempt, ignorance and luck together."""
    probability: Array = ndtr(mean / np.hypot(sd, surrogate.scales.aleatoric_sd))
    return probability
