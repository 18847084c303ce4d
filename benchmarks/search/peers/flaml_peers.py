"""Peers built on FLAML: BlendSearch on the final error, and CFO with lexicographic objectives, target first, then time.

Flat spaces; searchers asked and told on the bench's clock. Must not know other libraries' peers or any problem.
"""

from __future__ import annotations

import importlib
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench, BudgetSpent, Trial
from benchmarks.search.peers.desk import Desk, Form, Peer, first_horizon, installed, play, snap
from benchmarks.search.problem import Description

HORIZON = "horizon"
REFUSALS = 200
"""In a row: a searcher that has nothing new to suggest is done."""


@dataclass(frozen=True)
class Setup:
    """How one peer uses FLAML."""

    form: Form
    lexico: bool


def as_is(knob: CategoricalDistribution) -> bool:
    """Numbers FLAML may take for ordered; anything else goes by number, as text, unordered."""
    return all(isinstance(choice, numbers.Number) for choice in knob.choices)


def domain(knob: BaseDistribution) -> Any:
    """A knob as FLAML has it; upper bounds of integers are outside."""
    tune = importlib.import_module("flaml.tune")
    if isinstance(knob, CategoricalDistribution):
        return tune.choice(list(knob.choices) if as_is(knob) else [str(number) for number in range(len(knob.choices))])
    if isinstance(knob, IntDistribution):
        return (tune.lograndint if knob.log else tune.randint)(knob.low, knob.high + 1)
    if isinstance(knob, FloatDistribution):
        return (tune.loguniform if knob.log else tune.uniform)(knob.low, knob.high)
    raise TypeError(f"{knob!r} has no counterpart in FLAML")


def encode(known: Description) -> dict[str, Any]:
    """The default recipe in FLAML's terms."""
    values = dict(known.default)
    for name, knob in known.space.items():
        if isinstance(knob, CategoricalDistribution) and not as_is(knob):
            values[name] = str(knob.choices.index(values[name]))
    return {name: values[name] for name in known.space}


def decode(known: Description, config: dict[str, Any]) -> dict[str, Any]:
    """A suggestion in the bench's terms."""
    params = {}
    for name, knob in known.space.items():
        value = config[name]
        if isinstance(knob, CategoricalDistribution):
            params[name] = value if as_is(knob) else knob.choices[int(value)]
        else:
            params[name] = snap(knob, value)
    return params


def make_searcher(desk: Desk, setup: Setup) -> Any:
    """BlendSearch, or CFO with the two objectives; both start at the default recipe, their low-cost point."""
    library = importlib.import_module("flaml.tune.searcher.blendsearch")
    known = desk.known
    space = {name: domain(knob) for name, knob in known.space.items()}
    start = encode(known)
    shared = {"metric": "gap", "mode": "min", "space": space, "seed": desk.bench.seed, "cost_attr": "seconds"}
    if not setup.lexico:
        return library.BlendSearch(low_cost_partial_config=start, **shared)
    space[HORIZON] = domain(IntDistribution(known.horizon_low, known.full_horizon, log=True))
    start[HORIZON] = first_horizon(known) if desk.capped else known.horizon_low
    objectives = {
        "metrics": ["gap", "log_time"],
        "modes": ["min", "min"],
        "targets": {"gap": 1e-9, "log_time": float("-inf")},
        "tolerances": {"gap": 0.0, "log_time": 0.0},
    }
    return library.CFO(low_cost_partial_config=start, lexico_objectives=objectives, **shared)


def search(desk: Desk, setup: Setup) -> None:
    """Suggest, train, complete, until the searcher has nothing new."""
    searcher = make_searcher(desk, setup)
    asked = refused = 0
    while refused < REFUSALS:
        asked += 1
        trial_id = f"trial_{asked:06d}"
        config = searcher.suggest(trial_id)
        if config is None:
            refused += 1
            continue
        refused = 0
        done = desk.train(decode(desk.known, config), int(config.get(HORIZON, desk.known.full_horizon)))
        searcher.on_trial_complete(trial_id, {"config": dict(config), **result(desk, done)})
    raise BudgetSpent


def result(desk: Desk, done: Trial) -> dict[str, float]:
    """What FLAML is told. A hit never misses the first objective's target."""
    gap = desk.last_gap(done)
    return {"gap": min(gap, 0.0) if done.hit else gap, "log_time": desk.log_time(done), "seconds": done.seconds}


def runner(setup: Setup) -> Callable[[Bench], None]:
    """A peer's `run`."""

    def run(bench: Bench) -> None:
        play(bench, setup.form, lambda desk: search(desk, setup), fastest_wins=setup.lexico)

    return run


def peer(name: str, setup: Setup, recipe: str) -> Peer:
    """A row of the table below."""
    return Peer(name, "flaml", setup.form, runner(setup), False, installed("flaml"), recipe, ("flaml",))


FLAML_PEERS = (
    peer(
        "flaml-blendsearch",
        Setup("documented", False),
        "BlendSearch (CFO + Optuna) on the final error from the default recipe as low-cost point, cost = simulated "
        "seconds, full length; most accurate wins",
    ),
    peer(
        "flaml-lexico",
        Setup("documented", True),
        "CFO with lexico_objectives: error down to the target, then log time; horizon in the space, from the default "
        "recipe at the shortest horizon, its low-cost point; fastest hit wins",
    ),
    peer(
        "flaml-lexico-cap",
        Setup("strongest", True),
        "flaml-lexico from a quarter of full length, capped at the fastest hit",
    ),
)
