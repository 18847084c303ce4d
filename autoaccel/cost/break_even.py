"""From how many steps on compiling pays for itself. Must not run or compile anything."""

from __future__ import annotations

import math


def break_even_steps(eager_s: float, compiled_s: float, warmup_s: float, margin: float = 1.5) -> float:
    """The smallest number of steps with which a compiled training is expected to be over sooner.

    Compiling has to win its warm-up back `margin` times: the bare rule (margin 1) chose wrongly on one of the three
    public runs that state all terms (physical-ai-studio#477), for evaluations recompile too.

    Args:
        eager_s: seconds of one step, not compiled.
        compiled_s: seconds of one step, compiled and warm.
        warmup_s: seconds that compiling takes, all its variants together.
        margin: how many times the gain has to cover the warm-up.

    Returns:
        A whole number of steps >= 0; infinity if a compiled step is no faster.
    """
    gain_s = eager_s - compiled_s
    if gain_s <= 0:
        return math.inf
    return math.floor(margin * warmup_s / gain_s) + 1 if warmup_s > 0 else 0
