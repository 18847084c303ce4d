"""A study's trials as the search sees them: curves, the space they came from, and what a trial costs.

Everything is derived from what the study's storage holds, so a resumed or shared study decides like an uninterrupted
one. Inside, a categorical value is its index. Must not know when it is asked or what is done with a decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from autoaccel.search import advice
from autoaccel.search.advice import Models, Proposal, Setting, Variant
from autoaccel.search.evidence import Curve, bent
from autoaccel.search.seconds import Run, Seconds
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space

Numeric = FloatDistribution | IntDistribution
HORIZON = " horizon"
"""Path of the horizon's knob; no parameter is called so."""
PROPOSAL = "time_to_target:proposal"
"""System attribute of a trial: what it was started for, as JSON."""
FIRST_SHARE = Variant.initial_share
"""Length of the first trainings, as a share of a full one."""
_FLOOR = 0.05
"""Errors are counted from a little above zero, so that the last of them do not stretch the scale without end."""


@dataclass(frozen=True)
class Goal:
    """What a training is for: the metric's value to reach, and what sets a training's length."""

    target: float
    metric: str
    """accuracy (0..1, higher is better) or loss (above 0, lower is better)."""
    horizon: str | int
    """Name of the parameter that sets a training's length, or the length of every training."""

    def __post_init__(self) -> None:
        if self.metric not in ("accuracy", "loss"):
            raise ValueError(f"metric is {self.metric!r}: 'accuracy' (0..1, higher is better) or 'loss' is expected")
        if not 0 < self.target < (1 if self.metric == "accuracy" else math.inf):
            allowed = "between 0 and 1" if self.metric == "accuracy" else "above 0"
            raise ValueError(f"target is {self.target!r}: {self.metric} targets lie {allowed}")
        if not isinstance(self.horizon, str) and not self.horizon > 0:
            raise ValueError(
                f"horizon is {self.horizon!r}: a parameter's name, or a number of steps above 0, is expected"
            )

    def hit(self, value: float) -> bool:
        return value >= self.target if self.metric == "accuracy" else value <= self.target

    def margin(self, value: float) -> float:
        """log(target's error / error): zero at the target, above it beyond."""
        if not math.isfinite(value):
            return -math.inf
        if self.metric == "loss":
            return -math.log(max(value, 1e-12) / self.target)
        floor = _FLOOR * (1 - self.target)
        return -math.log((max(0.0, 1 - value) + floor) / (1 - self.target + floor))

    def horizon_of(self, trial: FrozenTrial) -> float | None:
        """Length of a trial's training; None if the trial has no such parameter."""
        value = trial.params.get(self.horizon) if isinstance(self.horizon, str) else self.horizon
        return None if value is None else float(value)


# ----------------------------------------------------------------------------------------------------- what trials show


def reports(trial: FrozenTrial) -> list[tuple[int, float]]:
    """What a trial reported, in order of steps. One that starts at step 0 counts from there: its steps are moved on."""
    found = sorted(trial.intermediate_values.items())
    return [(step + 1, value) for step, value in found] if found and found[0][0] == 0 else found


def seconds_of(trial: FrozenTrial) -> float:
    """What an ended trial took: its attribute "seconds", else the value of a complete one, else by its dates."""
    value = trial.user_attrs.get("seconds")
    if value is None and trial.state is TrialState.COMPLETE:
        value = trial.values[0]
    if value is None or not 0 < value < math.inf:
        value = trial.duration.total_seconds() if trial.duration is not None else 0.0
    return max(float(value), 1e-6)


def curve_of(goal: Goal, trial: FrozenTrial, params: Mapping[str, Any], elapsed_s: float | None = None) -> Curve | None:
    """A trial as evidence, None if it has no horizon; `elapsed_s` is given for one that runs.

    A trial that failed before its first report counts as far from the target: it does not run, and neither may what is
    near to it. A complete trial without reports says nothing.
    """
    horizon = goal.horizon_of(trial)
    if horizon is None:
        return None
    seconds = seconds_of(trial) if elapsed_s is None else elapsed_s
    points = reports(trial)
    if not points:
        dead = trial.state is TrialState.FAIL
        far = (bent(-math.inf),) if dead else ()
        return Curve(params, horizon, (horizon,) * dead, far, seconds, "failed" if elapsed_s is None else "running")
    hit = next((i for i, (_, value) in enumerate(points) if goal.hit(value)), None)
    if hit is not None:
        seconds *= points[hit][0] / points[-1][0]  # trained on after the hit: that time is not the hit's
        points = points[: hit + 1]
    # A repeat that was cut counts as a miss: were it no attempt, the same configuration would be repeated for ever.
    cut = "missed" if '"purpose": "repeat"' in str(trial.system_attrs.get(PROPOSAL)) else "cut"
    ended = {TrialState.COMPLETE: "missed", TrialState.PRUNED: cut, TrialState.FAIL: "failed"}
    outcome = "hit" if hit is not None else "running" if elapsed_s is not None else ended[trial.state]
    margins = tuple(bent(goal.margin(value)) for _, value in points)
    return Curve(params, horizon, tuple(float(step) for step, _ in points), margins, seconds, outcome)


# ------------------------------------------------------------------------------------------------------------ the space


def internal(distribution: BaseDistribution, value: Any) -> Any:
    """A value as the search sees it."""
    return int(distribution.to_internal_repr(value)) if isinstance(distribution, CategoricalDistribution) else value


def external(distribution: BaseDistribution, value: Any) -> Any:
    """A value as Optuna sees it: a choice, or a number on the distribution's grid."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(value)]
    assert isinstance(distribution, Numeric)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None:
        value = low + math.floor((min(max(value, low), high) - low) / step + 0.5) * step
    value = min(max(value, low), high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def knob_of(path: str, distribution: BaseDistribution, when: Mapping[str, Any]) -> Knob:
    if isinstance(distribution, CategoricalDistribution):
        return Knob(path=path, choices=tuple(range(len(distribution.choices))), when=dict(when))
    assert isinstance(distribution, Numeric)
    integer = isinstance(distribution, IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    return Knob(path=path, low=low, high=high, log=distribution.log, integer=integer, when=dict(when))


Shape = tuple[frozenset[str], tuple[tuple[str, int], ...]]
"""Which parameters a trial had, and its categorical values."""


class Seen:
    """The union of what ended trials asked for: the newest distribution of each name, and when a name exists.

    A name whose kind, choices or scale changed is left to independent sampling.
    """

    def __init__(self) -> None:
        self.distributions: dict[str, BaseDistribution] = {}
        self._broken: set[str] = set()
        self._shapes: set[Shape] = set()

    def add(self, trial: FrozenTrial) -> bool:
        """Take in one trial; whether that changed anything."""
        before = (len(self._broken), len(self._shapes))
        changed = False
        for name, new in trial.distributions.items():
            old = self.distributions.get(name)
            if old is not None and not _alike(old, new):
                self._broken.add(name)
            if old != new:
                self.distributions[name] = new
                changed = True
        categorical = ((n, d) for n, d in trial.distributions.items() if isinstance(d, CategoricalDistribution))
        values = tuple(sorted((n, internal(d, trial.params[n])) for n, d in categorical))
        self._shapes.add((frozenset(trial.distributions), values))
        return changed or before != (len(self._broken), len(self._shapes))

    def searched(self) -> dict[str, BaseDistribution]:
        """What is searched, parents before what depends on them."""
        count = {name: sum(name in names for names, _ in self._shapes) for name in self.distributions}
        found = {n: d for n, d in self.distributions.items() if n not in self._broken and not d.single()}
        return dict(sorted(found.items(), key=lambda pair: (-count[pair[0]], pair[0])))

    def conditions(self, name: str) -> list[dict[str, int]]:
        """Values of one categorical parameter under which a name exists, as far as the trials tell; [{}] if always."""
        with_name = [dict(values) for names, values in self._shapes if name in names]
        without = [dict(values) for names, values in self._shapes if name not in names]
        for parent in self.searched() if without else ():
            on = {values.get(parent) for values in with_name}
            off = {values[parent] for values in without if parent in values}
            if None not in on and off and on.isdisjoint(off):
                return [{parent: value} for value in sorted(v for v in on if v is not None)]
        return [{}]


def _alike(a: BaseDistribution, b: BaseDistribution) -> bool:
    if isinstance(a, Numeric) and isinstance(b, Numeric):
        return type(a) is type(b) and a.log == b.log
    return a == b


# ------------------------------------------------------------------------------------------------------------ the study


class StudyView:
    """One study as the search sees it: a cache of what its trials say, grown as they end."""

    def __init__(self, goal: Goal, default: Mapping[str, Any], seed: int) -> None:
        self._goal, self._default, self._seed = goal, default, seed
        self._seen = Seen()
        self._ended: dict[int, FrozenTrial] = {}
        self.curves: list[Curve] = []
        self.setting: Setting | None = None
        self._numeric: dict[str, BaseDistribution] = {}

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Take in the trials that have ended since the last call, in the order in which they ended."""
        new = [t for t in trials if t.state.is_finished() and t.number not in self._ended]
        if not new:
            return
        new.sort(key=_ending)
        late = self._ended and _ending(new[0]) < _ending(next(reversed(self._ended.values())))
        changed = [self._seen.add(t) for t in new if t.state is not TrialState.FAIL]
        self._ended.update((t.number, t) for t in new)
        if late:
            self._ended = {t.number: t for t in sorted(self._ended.values(), key=_ending)}
        if any(changed) or late:
            self._numeric = self._seen.searched()
            self.curves = self._curves_of(self._ended.values())
            self._set_up()
        else:
            self.curves = [*self.curves, *self._curves_of(new)]
        if self.setting is not None:
            runs = [Run(c.params, c.samples[-1], c.seconds) for c in self.curves if c.samples and c.outcome != "failed"]
            self._seconds = Seconds(self._models.encoding, runs)

    def search_space(self) -> dict[str, BaseDistribution]:
        """What can be proposed jointly, the horizon included."""
        return self._numeric if self.setting is not None else {}

    def running(self, trials: Iterable[FrozenTrial], but: int) -> list[Curve]:
        """Trials that run, but for one; those that have not been given their horizon yet say nothing."""
        found = []
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.number != but:
                curve = self.running_curve(trial)
                found += [curve] if curve is not None else []
        return found

    def running_curve(self, trial: FrozenTrial, elapsed_s: float | None = None) -> Curve | None:
        """A trial that runs; without its seconds they are predicted."""
        params, points = self._params(trial), reports(trial)
        done = float(points[-1][0]) if points else 0.0
        return curve_of(self._goal, trial, params, self.predicted(params, done) if elapsed_s is None else elapsed_s)

    def predicted(self, params: Mapping[str, Any], steps: float) -> float:
        """Seconds that so many steps take."""
        return self._seconds(params, steps) if self.setting is not None else 0.0

    def propose(self, trials: Sequence[FrozenTrial], number: int) -> Proposal | None:
        """What the trial of this number should do; None while nothing is known."""
        if self.setting is None:
            return None
        setting = replace(self.setting, seed=(self._seed * 1_000_003 + number) % 2**63)
        return advice.propose(setting, self._models, self.curves, math.inf, self.running(trials, number))

    def should_stop(self, running: Curve, proposal: Proposal) -> bool:
        assert self.setting is not None
        return advice.should_stop(self.setting, self._models, self.curves, running, proposal)

    def cap_s(self) -> float:
        """Expected running time of the incumbent; infinite before the first hit."""
        assert self.setting is not None
        best = advice.incumbent(advice.book(self.setting, self._models.of(self.curves), self.curves))
        return math.inf if best is None else best.ert_s

    def answer(self) -> dict[str, Any]:
        """The parameters with the least expected running time to the target."""
        if self.setting is None:
            raise ValueError("no trial has ended yet, so there is nothing to answer")
        return self.point(*advice.answer(self.setting, self._models, self.curves))

    def point(self, params: Mapping[str, Any], horizon: float) -> dict[str, Any]:
        """A point of the search as Optuna's parameters."""
        values: dict[Any, Any] = {**params, self._goal.horizon: horizon}
        return {n: external(d, values[n]) for n, d in self._numeric.items() if values.get(n) is not None}

    def _params(self, trial: FrozenTrial) -> dict[str, Any]:
        searched = self._numeric.keys() & trial.params.keys() - {self._goal.horizon}
        return {n: internal(trial.distributions[n], trial.params[n]) for n in self._numeric if n in searched}

    def _curves_of(self, trials: Iterable[FrozenTrial]) -> list[Curve]:
        curves = (curve_of(self._goal, t, self._params(t)) for t in trials)
        return [c for c in curves if c is not None]

    def _set_up(self) -> None:
        horizon = self._horizon_knob()
        if horizon is None or not self.curves:
            return
        knobs = [
            knob_of(name, distribution, when)
            for name, distribution in self._numeric.items()
            if name != self._goal.horizon
            for when in self._seen.conditions(name)
        ]
        space = Space("study", tuple(knobs))
        unit = float(self._default.get(str(self._goal.horizon), horizon.high))
        fixed = not isinstance(self._goal.horizon, str)
        self.setting = Setting(
            space=space,
            horizon=horizon,
            unit=unit,
            default=self._default_point(space),
            recipes=(),
            seconds=lambda params, steps: self._seconds(params, steps),
            seed=self._seed,
            variant=Variant(horizon=False, initial_share=1.0) if fixed else Variant(),
        )
        self._models = Models(self.setting)
        self._seconds = Seconds(self._models.encoding, [])

    def _horizon_knob(self) -> Knob | None:
        name = self._goal.horizon
        if not isinstance(name, str):
            return Knob(path=HORIZON, low=float(name), high=float(name))
        distribution = self._seen.distributions.get(name)
        return None if distribution is None else replace(knob_of(HORIZON, distribution, {}), path=HORIZON)

    def _default_point(self, space: Space) -> dict[str, Any]:
        """The user's default, with the middle of each range where it says nothing."""
        point: dict[str, Any] = {}
        for knob in space.knobs:
            if knob not in space.active(point):
                continue
            if knob.path in self._default:
                point[knob.path] = internal(self._numeric[knob.path], self._default[knob.path])
            else:
                point[knob.path] = knob.from_unit(0.5) if knob.is_numeric else knob.choices[0]
        return point


def _ending(trial: FrozenTrial) -> tuple[float, int]:
    ended = trial.datetime_complete
    return (ended.timestamp() if ended is not None else 0.0, trial.number)
