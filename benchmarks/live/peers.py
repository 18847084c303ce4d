"""Peers built on Optuna that drive this project's worker and trainer: TPE + Hyperband, its strongest form, random.

The documented form trains at full length for accuracy; the others search the horizon too and cut every training at the
time of the fastest hit. Must not know how answers are judged.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import optuna

from autoaccel.config import Params, TrainerConfig, to_params, with_params
from autoaccel.search.question import HORIZON, Question
from autoaccel.search.trials import Driver, Running, ShouldStop, advance, begin
from autoaccel.space.knobs import Knob
from autoaccel.space.space import Space
from autoaccel.trial import TrialRecord, TrialSpec

PATIENCE = 2.0
"""Full default trainings after which a training is cut before the first hit; also what a miss counts as."""
WORST_GAP = 5.0
"""Of a training without an evaluation, in log error over the target's."""
SHORTEST_S = 0.05
"""No training is begun with less than this left."""


@dataclass(frozen=True)
class Form:
    """How Optuna is used."""

    sampler: str
    hyperband: bool
    capped: bool
    """Horizon in the space, stopped at the target, cut at the fastest hit, which is the answer."""


FORMS = {
    "tpe-hyperband": Form("tpe", hyperband=True, capped=False),
    "tpe-hyperband-cap": Form("tpe", hyperband=True, capped=True),
    "random-cap": Form("random", hyperband=False, capped=True),
}


@dataclass(frozen=True)
class Found:
    """The answer of a study and what it ran."""

    answer: TrainerConfig
    trials: tuple[TrialRecord, ...]


@dataclass
class Pruning:
    """Passes the evaluations of one training to Optuna's pruner."""

    trial: optuna.Trial
    question: Question
    form: Form
    told: int = 0

    def __call__(self, spec: TrialSpec, running: Running) -> bool:
        """Whether the training should stop, asked after every evaluation."""
        assert spec.config is not None
        report, steps = running.reports[-1], resource(self.question)
        step = int(steps * report.samples / spec.config.horizon.samples)
        if step <= self.told or step >= steps:  # at the end there is nothing left to prune
            return False
        self.told = step
        self.trial.report(gap(self.question, report.value) if self.form.capped else report.value, step)
        return self.trial.should_prune()


def resource(question: Question) -> int:
    """Evaluations of the default recipe: what Hyperband counts in."""
    return math.ceil(question.baseline.horizon.samples / question.baseline.evaluate.every_samples)


def search(driver: Driver, question: Question, form: Form, budget_s: float) -> Found:
    """Ask, train, tell until the budget is over."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = make_study(question, form)
    space = question.space.narrow(HORIZON, 1, question.baseline.horizon.samples)
    if form.capped:
        study.enqueue_trial(known_values(space, to_params(question.baseline)), skip_if_exists=False)
    trials: list[TrialRecord] = []
    while budget_s - driver.at_s() > SHORTEST_S:
        trial = study.ask()
        config = point(question, suggest(trial, space, form.capped), len(trials))
        prunes = form.hyperband and not (form.capped and fastest(trials))
        should_stop = Pruning(trial, question, form) if prunes else never
        number = 1 + max((r.spec.trial for r in driver.ledger.records), default=0)
        spec = TrialSpec(number, "benchmark", config)
        if form.capped:
            spec = replace(spec, target=question.target, cap_s=cap_s(question, trials))
        done = run(driver, spec, budget_s - driver.at_s(), should_stop)
        trials.append(done)
        tell(study, trial, question, done, form)
    return Found(answer(question, trials, form), tuple(trials))


def run(driver: Driver, spec: TrialSpec, seconds_left: float, should_stop: ShouldStop) -> TrialRecord:
    """One training; it is stopped when the pruner says so, and when the budget is over."""
    running: dict[int, Running] = {}
    begin(driver, running, spec, seconds_left)
    while running:
        advance(driver, running, should_stop)
    return driver.ledger.records[-1]


def never(spec: TrialSpec, running: Running) -> bool:
    """No pruning."""
    return False


def make_study(question: Question, form: Form) -> optuna.Study:
    """A study with Optuna's defaults."""
    seed = question.seed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        random, tpe = optuna.samplers.RandomSampler, optuna.samplers.TPESampler
        sampler = random(seed=seed) if form.sampler == "random" else tpe(seed=seed)
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if form.hyperband:
            pruner = optuna.pruners.HyperbandPruner(1, resource(question), 3)
    falls = form.capped or question.target.direction == "min"
    direction = optuna.study.StudyDirection.MINIMIZE if falls else optuna.study.StudyDirection.MAXIMIZE
    # Hyperband draws the brackets from the name.
    return optuna.create_study(study_name=f"live-{seed}", direction=direction, sampler=sampler, pruner=pruner)


def suggest(trial: optuna.Trial, space: Space, horizon: bool) -> Params:
    """Every active knob by Optuna's own calls; the horizon only where it is searched."""
    found: Params = dict(space.fixed)
    for knob in space.knobs:
        if knob in space.active(found) and (horizon or knob.path != HORIZON):
            found[knob.path] = _value(trial, knob)
    return found


def _value(trial: optuna.Trial, knob: Knob) -> Any:
    if knob.choices:
        return trial.suggest_categorical(knob.name, knob.choices)
    if knob.integer:
        return trial.suggest_int(knob.name, int(knob.low), int(knob.high), log=knob.log)
    return trial.suggest_float(knob.name, knob.low, knob.high, log=knob.log)


def known_values(space: Space, params: Params) -> Params:
    """A point by the names of knobs, moved into the space where it lies outside."""
    inside = space.project(params)
    return {knob.name: inside[knob.path] for knob in space.active(inside)}


def point(question: Question, params: Params, index: int) -> TrainerConfig:
    """The configuration of a suggestion, on a seed of its own."""
    size = params.get("batch.size", question.baseline.batch.size)
    accumulation = params.get("batch.accumulation", question.baseline.batch.accumulation)
    config = with_params(question.baseline, {**params, "batch.accumulation": min(accumulation, size)})
    return replace(config, seed=question.seed * 1_000_003 + index + 1)


def cap_s(question: Question, trials: list[TrialRecord]) -> float:
    """Seconds after which a training can no longer be the answer."""
    hit = fastest(trials)
    return hit.ended.elapsed_s if hit else PATIENCE * question.cost.predict(question.baseline).seconds


def fastest(trials: list[TrialRecord]) -> TrialRecord | None:
    """The hit of least training time."""
    return min((t for t in trials if t.hit), key=lambda t: t.ended.elapsed_s, default=None)


def gap(question: Question, value: float | None) -> float:
    """Log of an error over the target's: 0 at the target, negative beyond."""
    if value is None or not math.isfinite(value):
        return WORST_GAP
    top = 1.0 if question.target.direction == "max" else 0.0
    error, allowed = abs(top - value) + question.floor, abs(top - question.target.value) + question.floor
    return max(-WORST_GAP, min(WORST_GAP, math.log(error / allowed)))


def tell(study: optuna.Study, trial: optuna.Trial, question: Question, done: TrialRecord, form: Form) -> None:
    """Tell Optuna how a training went. Never FAIL: samplers learn nothing from that."""
    if done.ended.outcome == "stopped":
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    elif form.capped:
        study.tell(trial, penalised(question, done))
    else:
        worst = 0.0 if question.target.direction == "max" else 1e9
        study.tell(trial, worst if done.ended.value is None else done.ended.value)


def penalised(question: Question, done: TrialRecord) -> float:
    """To minimise: log time of a hit in full trainings; a miss counts as two of them and is ordered by its gap."""
    took = math.log(max(done.ended.elapsed_s, 1e-6) / question.cost.predict(question.baseline).seconds)
    if done.hit:
        return took
    return max(math.log(PATIENCE), took) + max(0.0, gap(question, done.ended.value))


def answer(question: Question, trials: list[TrialRecord], form: Form) -> TrainerConfig:
    """The fastest hit or, documented, the most accurate; the default recipe while nothing has been seen."""
    hit = fastest(trials) if form.capped else None
    if hit is not None and hit.spec.config is not None:
        return replace(hit.spec.config, seed=0)
    seen = [t for t in trials if t.ended.value is not None and t.ended.outcome != "diverged"]
    whole = [t for t in seen if t.ended.outcome in ("hit", "missed", "finished")]
    best = min(whole or seen, key=lambda t: gap(question, t.ended.value), default=None)
    if best is None or best.spec.config is None:
        return replace(question.baseline, seed=0)
    return replace(best.spec.config, seed=0)
