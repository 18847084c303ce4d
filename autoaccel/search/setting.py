"""What the search knows before the first training, and what it says: Setting in, Proposal out. Values only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """Parts of the method, and its few numbers.

    The product uses the defaults; the benchmark's ablation switches the parts off one by one (benchmarks/search), which
    is the only reason for the switches.
    """

    cap: bool = False
    """Every race is cut at the incumbent's ERT. Off: it is planned to be shorter, what takes a little longer than
    predicted is worth finishing, and what is hopeless is stopped anyway (figures in benchmarks/search)."""
    horizon: bool = True
    """The horizon is chosen; else every training is as long as it may be."""
    censored: bool = True
    """Trainings are stopped when the rest is worth less than another one, and what they showed is used."""
    cost: bool = False
    """Gain is divided by cost (by its root while nothing hits). Off: ERT counts already what a training takes, and
    answers are worse with it (figures in benchmarks/search)."""
    book: bool = True
    """Attempts are kept and ranked pessimistically, hits repeated; else the luckiest hit is the incumbent."""
    recipes: bool = True
    """The rules of thumb and the default recipe come first; else random points."""
    n_initial: int = 5
    """Trainings before the model decides, if none hits and there are not more rules of thumb."""
    initial_share: float = 0.1
    """Their horizon, in default trainings."""
    escalation: float = 1.6
    """While nothing hits, each further training may be this much longer."""
    step: float = 0.2
    """While nothing hits, the margin to gain over the best one seen."""
    never: float = 10.0
    """ERT, in default trainings, that never hitting counts as."""
    first_stop: float = 0.1
    """An initial training is stopped when it equals the best margin seen with less than this probability."""
    cost_floor: float = 0.2
    """Every race costs at least this share of the incumbent's ERT, so that many very short ones are not free."""
    stop_ratio: float = 0.5
    """A training is stopped when finishing it gains, per cost, less than this share of what starting it promised."""
    trust: float = 5.0
    """The model's probability of a hit counts as so many attempts: a hit has raised it already."""
    most_repeats: int = 4
    repeat_share: float = 0.1
    """The incumbent is repeated while that costs less than this share of everything spent so far."""

    def floor_s(self, reference_s: float) -> float:
        """What a race costs beside its own time."""
        return self.cost_floor * reference_s


@dataclass(frozen=True)
class Setting:
    """What the search knows before the first training; constant while it runs."""

    space: Space
    """Knobs; the horizon may be among them and is left out."""
    horizon: Knob
    unit: float
    """Horizon of one full default training."""
    default: Params
    recipes: tuple[Params, ...]
    """Rule-of-thumb points, tried in this order."""
    seconds: Callable[[Params, float], float]
    """Predicted duration of a training of these knobs to this horizon (step cost); linear in the horizon."""
    seed: int = 0
    variant: Variant = field(default_factory=Variant)
    possible: Callable[[Params], bool] = lambda _: True
    """Whether a training can have these knobs: a space knows of its own conditions, not of what is pinned beside it."""
    pinned: bool = False
    """Every training has the same horizon: what is chosen is the time by which it should have hit, and a race is cut at
    the incumbent's ERT whatever the variant."""

    @property
    def full_s(self) -> float:
        """Predicted seconds of one full default training."""
        return self.seconds(self.default, self.unit)

    @property
    def never_s(self) -> float:
        """Seconds that a search which never hits counts as."""
        return self.variant.never * self.full_s

    @cached_property
    def known(self) -> tuple[Params, ...]:
        """Points that are looked at first: a rule of thumb, the default, the other rules."""
        if not self.variant.recipes:
            return ()
        return distinct((*self.recipes[:1], self.default, *self.recipes[1:]))

    @property
    def n_looks(self) -> int:
        """First looks, if none hits: at everything that is known, and around the default if that is little."""
        return max(self.variant.n_initial, len(self.known))

    def line(self, params: Params) -> tuple[float, float]:
        """Seconds of a training of these knobs: its fixed part, and for each unit of the horizon."""
        fixed_s = self.seconds(params, 0.0)
        return fixed_s, (self.seconds(params, self.unit) - fixed_s) / self.unit

    def horizon_for(self, params: Params, seconds: float) -> float:
        """The horizon that takes this long, inside the knob's range."""
        fixed_s, slope_s = self.line(params)
        return self.horizon.clip((seconds - fixed_s) / slope_s)


def distinct(points: Sequence[Params]) -> tuple[Params, ...]:
    """Points without their repetitions: recipes that differ in nothing that is searched are one."""
    return tuple(p for i, p in enumerate(points) if p not in points[:i])


@dataclass(frozen=True)
class Proposal:
    """The next training."""

    params: Params
    horizon: float
    cap_s: float
    rate: float
    """Expected gain per second when it was chosen: what finishing it is measured against, second for second."""
    purpose: str
    """first, reach, race or repeat."""
    why: str
    goal: float = 0.0
    """Margin to reach: 0 is the target, below it a step on the way."""
    reference_s: float = math.inf
    """The ERT to beat."""
    gain: float = 0.0
    """Expected improvement of log ERT by this training; while nothing hits, of a hit at `goal` over never hitting."""
