"""A search space as a value: its knobs, its rule-of-thumb recipes, and what was left out with the reason.

Points are flat dicts by dotted path (see `config.to_params`). Must not know samplers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoaccel.config import Params
from autoaccel.errors import UsageError, did_you_mean
from autoaccel.space.knobs import Knob


@dataclass(frozen=True)
class Recipe:
    """A starting point from a rule of thumb."""

    name: str
    source: str
    params: Params


@dataclass(frozen=True)
class Space:
    """Knobs, recipes, and what was decided without searching: `fixed` values with the `reasons`."""

    name: str
    knobs: tuple[Knob, ...]
    recipes: tuple[Recipe, ...] = ()
    fixed: Params = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths that are searched, each once, in order."""
        return tuple(dict.fromkeys(knob.path for knob in self.knobs))

    def choices(self, path: str) -> tuple[Any, ...]:
        """All values a setting can have, each once; none if it has a range or is not searched."""
        return tuple(dict.fromkeys(choice for knob in self.knobs if knob.path == path for choice in knob.choices))

    def active(self, params: Mapping[str, Any]) -> tuple[Knob, ...]:
        """Knobs whose conditions hold at a point."""
        everything = {**self.fixed, **params}
        return tuple(k for k in self.knobs if k.exists(everything))

    def project(self, params: Mapping[str, Any]) -> Params:
        """The point of this space nearest to `params`: clipped, foreign choices replaced, fixed values put in."""
        point: Params = {**params, **self.fixed}
        for knob in self.knobs:  # conditions refer to knobs before them
            if knob not in self.active(point):
                continue
            value = point.get(knob.path)
            if knob.is_numeric:
                point[knob.path] = knob.clip(knob.low if value is None else value)
            else:  # of the choice's own type: False equals 0
                point[knob.path] = knob.choices[knob.choices.index(value) if value in knob.choices else 0]
        return point

    def fix(self, values: Params, reason: str) -> Space:
        """The same space with some paths pinned; they are no longer searched. Knobs and recipes that need another value
        of a pinned condition go."""
        known = {*self.paths, *self.fixed}
        for path in values:
            if path not in known:
                raise UsageError(f"space {self.name!r} has no knob {path!r} to fix", did_you_mean(path, known))
        knobs = tuple(k for k in self.knobs if k.path not in values)
        reasons = {**self.reasons, **dict.fromkeys(values, reason)}
        fixed = {**self.fixed, **values}
        possible = tuple(k for k in knobs if all(fixed[p] in k.wanted(p) for p in k.when if p in fixed))
        conditions = {path for knob in self.knobs for path in knob.when} & values.keys()
        recipes = tuple(r for r in self.recipes if all(r.params.get(p, values[p]) == values[p] for p in conditions))
        return replace(self, knobs=possible, recipes=recipes, fixed=fixed, reasons=reasons)

    def without_choice(self, path: str, choice: Any, reason: str) -> Space:
        """The same space without one choice of a knob. One with a single choice left is fixed to it; the last choice
        stays. Reasons for leaving out several are all kept."""
        knobs = []
        for knob in self.knobs:
            if knob.path == path and choice in knob.choices and len(knob.choices) > 1:
                kept = [i for i, c in enumerate(knob.choices) if c != choice]
                prior = tuple(knob.prior[i] for i in kept) if knob.prior else ()
                knob = replace(knob, choices=tuple(knob.choices[i] for i in kept), prior=prior)
            knobs.append(knob)
        if tuple(knobs) == self.knobs:
            return self
        left = replace(self, knobs=tuple(knobs))
        reason = "; ".join(dict.fromkeys((*filter(None, [self.reasons.get(path)]), reason)))
        possible = {value for k in knobs if k.path == path for value in k.choices}
        if len(possible) == 1:
            return left.fix({path: possible.pop()}, reason)
        return replace(left, reasons={**self.reasons, path: reason})

    def narrow(self, path: str, low: float, high: float) -> Space:
        """The same space with a knob's range cut to low..high (it keeps at least one value)."""
        knobs = []
        for knob in self.knobs:
            if knob.path == path:
                new_low = min(max(knob.low, low), high)
                new_high = max(new_low, min(knob.high, high))
                prior = _apart(min(max(value, new_low), new_high) for value in knob.prior)
                knob = replace(knob, low=new_low, high=new_high, prior=prior)
            knobs.append(knob)
        return replace(self, knobs=tuple(knobs))

    def in_samples(self, n_train: int) -> Space:
        """Epoch ranges turned into samples."""
        knobs = tuple(
            replace(
                k,
                low=max(1, round(k.low * n_train)),
                high=round(k.high * n_train),
                unit="samples",
                prior=_apart(max(1, round(value * n_train)) for value in k.prior),
            )
            if k.unit == "epochs"
            else k
            for k in self.knobs
        )
        return replace(self, knobs=knobs)


def _apart(prior: Iterable[float]) -> tuple[float, ...]:
    """The likely part of a range, if something of it is left."""
    found = tuple(prior)
    return found if len(found) == 2 and found[0] < found[1] else ()
