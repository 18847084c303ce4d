"""Peers built on SMAC3: random-forest optimisation, its multi-fidelity form, and one on capped time; asked and told.

Must not know other libraries' peers or any problem.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench
from benchmarks.search.peers.desk import (
    MAX_SLOW_TRIALS,
    Desk,
    Form,
    Peer,
    complete,
    first_horizon,
    installed,
    play,
    snap,
)
from benchmarks.search.problem import Description

HORIZON = "horizon"
START = 10
"""Configurations before the model takes over, in the strongest form: as many as TPE's."""
Facade = Literal["HyperparameterOptimizationFacade", "MultiFidelityFacade"]


def hyperparameter(name: str, knob: BaseDistribution, default: Any) -> Any:
    """A knob as ConfigSpace has it; choices by their number, so that they may be of any type."""
    space = importlib.import_module("ConfigSpace")
    if isinstance(knob, CategoricalDistribution):
        numbers = list(range(len(knob.choices)))
        return space.CategoricalHyperparameter(name, numbers, default_value=knob.choices.index(default))
    bounds = (knob.low, knob.high)  # type: ignore[attr-defined]
    if isinstance(knob, IntDistribution):
        return space.UniformIntegerHyperparameter(name, *bounds, default_value=int(default), log=knob.log)
    if isinstance(knob, FloatDistribution):
        return space.UniformFloatHyperparameter(name, *bounds, default_value=float(default), log=knob.log)
    raise TypeError(f"knob {name}: {knob!r} has no counterpart in ConfigSpace")


def make_space(known: Description, free: bool, seed: int) -> Any:
    """The knobs with their conditions, and the horizon if it is free."""
    library = importlib.import_module("ConfigSpace")
    space = library.ConfigurationSpace(seed=seed)
    for name, knob in known.space.items():
        space.add(hyperparameter(name, knob, known.default[name]))
    for name, (parent, value) in known.conditions.items():
        knob = known.space[parent]
        value = knob.choices.index(value) if isinstance(knob, CategoricalDistribution) else value
        space.add(library.EqualsCondition(space[name], space[parent], value))
    if free:
        knob = IntDistribution(known.horizon_low, known.full_horizon, log=True)
        space.add(hyperparameter(HORIZON, knob, first_horizon(known)))
    return space


def to_params(known: Description, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration back in the bench's terms."""
    params: dict[str, Any] = {}
    for name in known.space:
        if name not in config:
            continue
        knob, value = known.space[name], config[name]
        if isinstance(knob, CategoricalDistribution):
            params[name] = knob.choices[int(value)]
        else:
            params[name] = snap(knob, value)
    return complete(known, params)


def never(config: Any, seed: int = 0) -> float:
    """SMAC wants a function to call; it is asked and told instead."""
    raise RuntimeError("SMAC called the target function")


def never_at(config: Any, seed: int = 0, budget: float = 0.0) -> float:
    """The same where it has budgets."""
    raise RuntimeError("SMAC called the target function")


def make_smac(desk: Desk, kind: Facade, folder: Path) -> Any:
    """A facade with its defaults; the number of trials it plans its first design for follows from the budget."""
    smac = importlib.import_module("smac")
    known, bench = desk.known, desk.bench
    free = desk.capped
    units = bench.budget_s / known.full_s
    scenario = smac.Scenario(
        make_space(known, free, bench.seed),
        output_directory=folder,
        deterministic=free or known.n_fresh == 1,
        n_trials=max(10, math.ceil(units * (10 if kind == "MultiFidelityFacade" or free else 2))),
        min_budget=max(known.horizon_low, known.full_horizon / 27) if kind == "MultiFidelityFacade" else None,
        max_budget=known.full_horizon if kind == "MultiFidelityFacade" else None,
        seed=bench.seed,
        use_default_config=free,
    )
    facade = getattr(smac, kind)
    design = facade.get_initial_design(scenario, n_configs=START) if free else None
    function = never_at if kind == "MultiFidelityFacade" else never
    return facade(scenario, function, initial_design=design, overwrite=True, logging_level=False)


def search(desk: Desk, kind: Facade) -> None:
    """Ask, train, tell, for ever."""
    values = importlib.import_module("smac.runhistory.dataclasses")
    known = desk.known
    with tempfile.TemporaryDirectory() as folder:
        smac = make_smac(desk, kind, Path(folder))
        while True:
            info = smac.ask()
            config = dict(info.config)
            horizon = config.pop(HORIZON, None) or info.budget or known.full_horizon
            done = desk.train(to_params(known, config), int(horizon))
            cost = math.exp(desk.penalised(done) if desk.capped else desk.last_gap(done))
            smac.tell(info, values.TrialValue(cost=cost, time=done.seconds), save=False)


def runner(form: Form, kind: Facade) -> Callable[[Bench], None]:
    """A peer's `run`."""

    def run(bench: Bench) -> None:
        play(bench, form, lambda desk: search(desk, kind), MAX_SLOW_TRIALS)

    return run


def peer(name: str, form: Form, kind: Facade, recipe: str) -> Peer:
    """A row of the table below."""
    return Peer(name, "smac", form, runner(form, kind), True, installed("smac"), recipe, ("smac", "ConfigSpace"))


SMAC_PEERS = (
    peer(
        "smac",
        "documented",
        "HyperparameterOptimizationFacade",
        "its facade for this kind of problem with its defaults, repeats on new seeds included where trainings are "
        "noisy; n_trials twice the budget in full trainings; full length, most accurate wins",
    ),
    peer(
        "smac-multifidelity",
        "documented",
        "MultiFidelityFacade",
        "Hyperband with a random forest, budget = length of the schedule from 1/27 to full, factor 3; most accurate "
        "at full length wins",
    ),
    peer(
        "smac-cap",
        "strongest",
        "HyperparameterOptimizationFacade",
        "horizon in the space, default and 10 Sobol points first, cost = penalised time, every training capped at the "
        "fastest hit (what its adaptive capping does on one instance); fastest hit wins",
    ),
)
