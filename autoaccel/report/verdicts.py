"""One verdict per knob: what putting it back to the baseline's value would cost, or why nothing is said of it.

Pure; the effects come from the search's model. Must not know records, or how verdicts are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoaccel.config import Params, TrainerConfig, to_params
from autoaccel.search.explain import LEAST, MOST, KnobEffect
from autoaccel.search.question import HORIZON, Question
from autoaccel.space.space import Space

_WIDE = 2.0
"""An interval that may hold 1 and reaches beyond this factor on either side says nothing."""


@dataclass(frozen=True)
class Verdict:
    """What one knob bought: the values, and the expected time to the target with the baseline's over the answer's."""

    path: str
    baseline: Any
    tuned: Any
    ratio: float | None
    """None if it was not judged."""
    low: float | None
    high: float | None
    text: str


def verdicts(question: Question, tuned: TrainerConfig, effects: Sequence[KnobEffect]) -> list[Verdict]:
    """One verdict per knob of the space that exists in the answer, searched or decided without searching."""
    space, chosen, before = question.space, to_params(tuned), to_params(question.baseline)
    known = {effect.path: effect for effect in effects}
    exists = {knob.path for knob in space.active(chosen)}
    found = []
    for path in space.paths:
        if path not in exists:
            continue
        effect = known.get(path) if before[path] != chosen[path] else None
        if effect is None:
            text = _unjudged(space, path, before, chosen)
            found.append(Verdict(path, before[path], chosen[path], None, None, None, text))
        else:
            numbers = (effect.ratio, effect.low, effect.high)
            text = effect_text(*numbers) + _where(effect, before[path])
            found.append(Verdict(path, before[path], chosen[path], *numbers, text))
    for path, value in space.fixed.items():
        reason = space.reasons.get(path, "fixed")
        reason += "" if chosen[path] == value else f" (searched with {value}; the answer is the baseline)"
        found.append(Verdict(path, before[path], chosen[path], None, None, None, reason))
    return found


def effect_text(ratio: float, low: float, high: float) -> str:
    """The effect in words."""
    interval = f"[{_times(low)}, {_times(high)}]"
    if low > LEAST:
        return f"training would take {_times(ratio)}x {interval} longer with the baseline's"
    if high < 1 / LEAST:
        return f"kept, although training would take {_times(ratio)}x {interval} with the baseline's"
    if low < 1 / _WIDE or high > _WIDE:
        return f"the trials do not tell ({_times(low)}x to {_times(high)}x)"
    return f"bought nothing that was seen ({_times(low)}x to {_times(high)}x)"


def _where(effect: KnobEffect, before: Any) -> str:
    """The baseline's value may lie outside the range (no weight decay at all on a log scale)."""
    return "" if effect.baseline == before else f"; as at {effect.baseline:.3g}, the nearest that is searched"


def _unjudged(space: Space, path: str, before: Params, chosen: Params) -> str:
    """Why a searched knob has no effect of its own."""
    if before[path] == chosen[path]:
        return "unchanged"
    if path == HORIZON:
        return "not judged alone: each setting is judged at the length that suits it"
    joint = _conditions_changed(space, path, before, chosen)
    return f"judged with {', '.join(joint)}" if joint else "as near to the baseline's as is searched"


def _conditions_changed(space: Space, path: str, before: Params, chosen: Params) -> list[str]:
    """Knobs on which this one depends and which changed with it: the learning rate of another optimizer."""
    whens = {name for knob in space.knobs if knob.path == path for name in knob.when}
    return sorted(name for name in whens if before[name] != chosen[name])


def _times(factor: float) -> str:
    """A factor with two digits; at the limit of what the model tells apart, so marked."""
    if factor >= MOST:
        return f"over {MOST:g}"
    if factor <= 1 / MOST:
        return f"under {1 / MOST:g}"
    return f"{factor:.1f}" if 1.0 <= factor < 10.0 else f"{factor:.2g}"
