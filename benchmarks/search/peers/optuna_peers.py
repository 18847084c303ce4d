"""Peers built on Optuna: random search, TPE with pruners and caps, and the Gaussian-process sampler with a constraint.

One loop, asked and told by hand; what differs is a frozen Setup. Must not know other peers or any problem.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench, Trial
from benchmarks.search.peers.desk import (
    MAX_SLOW_TRIALS,
    MAX_TRIALS,
    Desk,
    Form,
    Peer,
    active,
    first_horizon,
    installed,
    only_active,
    parents_first,
    play,
    single_thread,
)
from benchmarks.search.problem import Description, Point

HORIZON = "horizon"
STEPS = 27
"""Progress reported to pruners, in parts of the horizon: rungs of factor 3 fall on 1, 3 and 9, the whole is 27."""
GP_TRIALS = 40
"""A suggestion then costs a second or two; TPE goes on from there, on the same trials."""


@dataclass(frozen=True)
class Setup:
    """How one peer uses Optuna."""

    form: Form
    sampler: Literal["random", "tpe", "gp"] = "tpe"
    pruner: Literal["none", "hyperband", "halving"] = "none"
    horizon: float | None = 1.0
    """Share of the full horizon; None: a knob of the search."""
    goal: Literal["accuracy", "time", "constraint"] = "accuracy"
    """accuracy: the final error. time: `Desk.penalised`. constraint: log time, the target as a constraint."""
    default_first: bool = False
    prune_after_hit: bool = True


def suggest(trial: optuna.Trial, name: str, knob: BaseDistribution) -> Any:
    """One knob by Optuna's define-by-run calls."""
    if isinstance(knob, CategoricalDistribution):
        return trial.suggest_categorical(name, knob.choices)
    if isinstance(knob, IntDistribution):
        return trial.suggest_int(name, knob.low, knob.high, step=knob.step, log=knob.log)
    if isinstance(knob, FloatDistribution):
        return trial.suggest_float(name, knob.low, knob.high, step=knob.step, log=knob.log)
    raise TypeError(f"knob {name}: {knob!r} is of no kind Optuna suggests")


def suggest_all(trial: optuna.Trial, known: Description) -> dict[str, Any]:
    """Every knob: those without effect keep the default's value and are not shown to the sampler."""
    params: dict[str, Any] = {}
    for name in parents_first(known):
        seen = active(known, params, name)
        params[name] = suggest(trial, name, known.space[name]) if seen else known.default[name]
    return params


def make_sampler(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler with its default settings."""
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if kind == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=10)
    return optuna.samplers.TPESampler(seed=seed)


def make_pruner(kind: str) -> optuna.pruners.BasePruner:
    """The pruner, its resource counted in STEPS."""
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=STEPS, reduction_factor=3)
    if kind == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=3)
    return optuna.pruners.NopPruner()


def watch(desk: Desk, trial: optuna.Trial, horizon: float, setup: Setup) -> Callable[[list[Point]], bool] | None:
    """Report every evaluation; stop when the pruner says so."""
    if setup.pruner == "none":
        return None
    told = {0}

    def stop(points: list[Point]) -> bool:
        step = min(STEPS, int(STEPS * points[-1].samples / horizon))
        if step in told:
            return False
        told.add(step)
        trial.report(desk.gap(points[-1].value), step)
        return (setup.prune_after_hit or desk.fastest() is None) and trial.should_prune()

    return stop


def tell(desk: Desk, study: optuna.Study, trial: optuna.Trial, done: Trial, goal: str) -> None:
    """Tell Optuna how a training went. Never FAIL: samplers learn nothing from that."""
    if done.outcome == "stopped":
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return
    if goal == "constraint":
        gap = desk.last_gap(done)
        trial.set_constraint("target", min(gap, -1e-6) if done.hit else max(gap, 1e-6))
    value = {"accuracy": desk.last_gap, "time": desk.penalised, "constraint": desk.log_time}[goal](done)
    study.tell(trial, value)


def search(desk: Desk, setup: Setup) -> None:
    """Ask, train, tell, for ever."""
    known, seed = desk.known, desk.bench.seed
    study = optuna.create_study(
        study_name=f"{known.name}-{seed}",  # Hyperband draws its brackets from the name
        sampler=make_sampler(setup.sampler, seed),
        pruner=make_pruner(setup.pruner),
    )
    if setup.default_first:
        first = only_active(known, known.default, known.space)
        study.enqueue_trial({**first, HORIZON: first_horizon(known)} if setup.horizon is None else first)
    while True:
        if setup.sampler == "gp" and len(desk.bench.trials) == GP_TRIALS:
            study.sampler = make_sampler("tpe", seed)
        trial = study.ask()
        params = suggest_all(trial, known)
        if setup.horizon is None:
            horizon = float(trial.suggest_int(HORIZON, known.horizon_low, known.full_horizon, log=True))
        else:
            horizon = max(1.0, setup.horizon * known.full_horizon)
        done = desk.train(params, horizon, watch(desk, trial, horizon, setup))
        tell(desk, study, trial, done, setup.goal)


def runner(setup: Setup) -> Callable[[Bench], None]:
    """A peer's `run`."""
    gp = setup.sampler == "gp"

    def run(bench: Bench) -> None:
        with single_thread() if gp else contextlib.nullcontext():
            play(
                bench,
                setup.form,
                lambda desk: search(desk, setup),
                max_trials=MAX_SLOW_TRIALS if gp else MAX_TRIALS,
                fastest_wins=setup.goal != "accuracy",
            )

    return run


def peer(name: str, recipe: str, setup: Setup) -> Peer:
    """A row of the table below."""
    family = "random" if setup.sampler == "random" else "optuna"
    needs = ("optuna", "torch") if setup.sampler == "gp" else ("optuna",)
    slow = setup.sampler == "gp"
    return Peer(name, family, setup.form, runner(setup), slow, installed("optuna"), recipe, needs)


OPTUNA_PEERS = (
    peer("random", "full-length trainings, the most accurate wins", Setup("documented", "random")),
    peer(
        "random-cap",
        "horizon in the space (log), the default recipe first, capped at the fastest hit, which wins",
        Setup("strongest", "random", horizon=None, goal="time", default_first=True),
    ),
    peer(
        "tpe",
        "TPESampler as it comes, full-length trainings, the final metric; most accurate wins",
        Setup("documented"),
    ),
    peer(
        "tpe-hyperband",
        "TPESampler + HyperbandPruner (factor 3, resource in 27ths of the horizon), the pairing its guide recommends; "
        "full-length trainings, the most accurate wins",
        Setup("documented", pruner="hyperband"),
    ),
    peer(
        "tpe-cap",
        "TPE on log time, misses penalised by twice a full training and their gap; horizon in the space, default "
        "first, capped, fastest hit wins",
        Setup("strongest", horizon=None, goal="time", default_first=True),
    ),
    peer(
        "tpe-cap-halving",
        "tpe-cap with SuccessiveHalvingPruner on the gap at equal shares of the horizon (rungs 1/9, 1/3)",
        Setup("strongest", pruner="halving", horizon=None, goal="time", default_first=True),
    ),
    peer(
        "tpe-hyperband-cap",
        "full horizon, default first: TPE + Hyperband on accuracy until the first hit, then TPE on capped time without "
        "pruning; fastest hit wins",
        Setup("strongest", pruner="hyperband", goal="time", default_first=True, prune_after_hit=False),
    ),
    peer(
        "tpe-quarter-cap",
        "TPE on penalised log time with every horizon a quarter of full length, default first, capped, fastest hit "
        "wins",
        Setup("strongest", horizon=0.25, goal="time", default_first=True),
    ),
    peer(
        "gp-constraint",
        "GPSampler on log time with the target as a constraint (set_constraint on every trial), horizon in the space; "
        "its best feasible trial wins; TPE after 40 trials, 150 at most, both for the time a suggestion takes",
        Setup("documented", "gp", horizon=None, goal="constraint"),
    ),
    peer(
        "gp-constraint-cap",
        "gp-constraint, default first, capped; a capped trial counts as its cap, infeasible",
        Setup("strongest", "gp", horizon=None, goal="constraint", default_first=True),
    ),
)
