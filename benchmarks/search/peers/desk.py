"""What all peers share: one study's book-keeping, the answer of each form, and how a training becomes a number.

Documented form: trainings of full length, answer the most accurate. Strongest form: every training is cut at the time
of the fastest hit so far (before any, at PATIENCE), answer that hit. Until a training has ended, either answers the
default recipe. Must not know any library, nor any problem beyond its description.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench, BudgetSpent, Trial
from benchmarks.search.problem import Description, Params, Point

Form = Literal["documented", "strongest"]
Stop = Callable[[list[Point]], bool]

MAX_TRIALS, MAX_SLOW_TRIALS = 400, 150
"""A study ends here even with budget left: hundreds of capped trainings in it, nothing is moving any more."""

PATIENCE = 2.0
"""Full default trainings after which the strongest forms cut a training before the first hit: some configurations would
take the whole budget. Also what a miss counts as."""

WORST_GAP = 5.0
"""Of a training that diverged or never was evaluated; e^5 times the error allowed."""

Loop = Callable[["Desk"], None]


@dataclass(frozen=True)
class Peer:
    """One way of using one library."""

    name: str
    family: str
    """The library."""
    form: Form
    run: Callable[[Bench], None]
    slow: bool
    """More than about 0.1 s of its own computing per trial."""
    version: str
    """Of the library here; empty when it is not installed."""
    recipe: str
    """What its documentation recommends, and where we deviate."""
    needs: tuple[str, ...] = ()
    """Importable names without which it cannot run."""


@dataclass
class Desk:
    """One study of one peer."""

    bench: Bench
    capped: bool
    """Trainings are cut at the time of the fastest hit."""
    fastest_wins: bool
    """The answer is the fastest hit, else the most accurate; not: always the most accurate, at full length."""
    max_trials: int = MAX_TRIALS

    @property
    def known(self) -> Description:
        return self.bench.problem.description

    def train(self, params: Params, horizon: float, stop: Stop | None = None) -> Trial:
        """One training: capped in the strongest form, then the answer brought up to date."""
        if len(self.bench.trials) >= self.max_trials:
            raise BudgetSpent
        trial = self.bench.run(params, round(horizon), cap_s=self.cap_s(), stop=stop)
        self.answer()
        return trial

    def fastest(self) -> Trial | None:
        """The hit of least training time."""
        return min((trial for trial in self.bench.trials if trial.hit), key=lambda trial: trial.seconds, default=None)

    def cap_s(self) -> float:
        """Seconds after which a training can no longer be the answer; before the first hit, patience with it ends."""
        if not self.capped:
            return math.inf
        fastest = self.fastest()
        return fastest.seconds if fastest is not None else PATIENCE * self.known.full_s

    def most_accurate(self) -> Trial | None:
        """The training of least final error, the first of equals; one that ran its full course before any other."""
        trials = [trial for trial in self.bench.trials if trial.points and trial.outcome != "diverged"]
        ended = [trial for trial in trials if trial.outcome in ("hit", "missed")]
        if not self.fastest_wins:
            ended = [trial for trial in ended if trial.horizon >= self.known.full_horizon] or ended
        sign = 1.0 if self.known.direction == "max" else -1.0
        return max(ended or trials, key=lambda trial: sign * trial.points[-1].value, default=None)

    def answer(self) -> None:
        """Hand in what this form would return now; the default recipe while nothing has been seen."""
        trial = (self.fastest() if self.fastest_wins else None) or self.most_accurate()
        if trial is None:
            self.bench.answer(self.known.default, self.known.full_horizon)
        else:
            self.bench.answer(trial.params, trial.horizon if self.fastest_wins else self.known.full_horizon)

    def gap(self, value: float) -> float:
        """Log ratio of an error to the error allowed: 0 at the target, negative beyond."""
        if not math.isfinite(value):
            return WORST_GAP
        top = 1.0 if self.known.direction == "max" else 0.0
        error, allowed = abs(top - value), abs(top - self.known.target)
        floor = self.known.floor
        return max(-WORST_GAP, min(WORST_GAP, math.log((error + floor) / (allowed + floor))))

    def last_gap(self, trial: Trial) -> float:
        """Gap at the end of a training."""
        return self.gap(trial.points[-1].value) if trial.points else WORST_GAP

    def log_time(self, trial: Trial) -> float:
        """Log training time in full default trainings."""
        return math.log(max(trial.seconds, 1e-9) / self.known.full_s)

    def penalised(self, trial: Trial) -> float:
        """To minimise: log time of a hit; a miss counts as two full trainings (a PAR2 score) and is ordered by its gap.

        Before the first hit this ranks by accuracy, after it by time: the two phases in one objective.
        """
        if trial.hit:
            return self.log_time(trial)
        return max(math.log(PATIENCE), self.log_time(trial)) + max(0.0, self.last_gap(trial))


def play(bench: Bench, form: Form, loop: Loop, max_trials: int = MAX_TRIALS, fastest_wins: bool = False) -> None:
    """Run a peer's loop until the budget or its number of trials is spent, its library silenced."""
    desk = Desk(bench, form == "strongest", fastest_wins or form == "strongest", max_trials)
    desk.answer()
    with silence(), contextlib.suppress(BudgetSpent):
        loop(desk)
    desk.answer()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings and no log lines below an error, as long as it lasts."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def parents_first(known: Description) -> list[str]:
    """Knobs in an order in which every knob follows the one it depends on."""
    order: list[str] = []
    waiting = list(known.space)
    while waiting:
        ready = [knob for knob in waiting if knob not in known.conditions or known.conditions[knob][0] in order]
        if not ready:
            raise ValueError(f"conditions of {known.name} form a circle: {waiting}")
        order += ready
        waiting = [knob for knob in waiting if knob not in ready]
    return order


def active(known: Description, params: Mapping[str, Any], knob: str) -> bool:
    """Whether a knob has an effect, its parents being set in `params`."""
    while knob in known.conditions:
        knob, value = known.conditions[knob]
        if params.get(knob) != value:
            return False
    return True


def only_active(known: Description, params: Mapping[str, Any], knobs: Iterable[str]) -> dict[str, Any]:
    """Those of `knobs` that have an effect."""
    return {knob: params[knob] for knob in knobs if active(known, params, knob)}


def complete(known: Description, params: Mapping[str, Any]) -> dict[str, Any]:
    """A value for every knob: the default's where none was chosen, Python numbers, the horizon left out."""
    return {knob: params.get(knob, known.default[knob]) for knob in known.space}


def snap(knob: BaseDistribution, value: Any) -> Any:
    """The nearest value of a numeric knob, steps and bounds kept; for libraries that know no steps."""
    if isinstance(knob, IntDistribution):
        return min(knob.high, max(knob.low, knob.low + knob.step * round((float(value) - knob.low) / knob.step)))
    if isinstance(knob, FloatDistribution):
        value = knob.low + knob.step * round((float(value) - knob.low) / knob.step) if knob.step else float(value)
        return min(knob.high, max(knob.low, value))
    return value


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """One thread for torch, as long as it lasts: studies run side by side."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def installed(distribution: str) -> str:
    """Its version, empty when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def first_horizon(known: Description) -> int:
    """Of the default recipe where it starts a search with the horizon in the space: a quarter of full length."""
    return min(known.full_horizon, max(known.horizon_low, known.full_horizon // 4))
