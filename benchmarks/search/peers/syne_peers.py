"""Peers built on Syne Tune: conformal quantile regression (CQR), alone, inside ASHA, and on capped time.

Flat spaces; schedulers driven one trial at a time on the bench's clock. Must not know other libraries' peers or any
problem.
"""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench
from benchmarks.search.peers.desk import Desk, Form, Peer, Stop, first_horizon, installed, play, snap
from benchmarks.search.problem import Description, Point

HORIZON = "horizon"
STEPS = 27
"""Resource levels of a full training."""
MAX_TRIALS = 100
"""A suggestion costs almost a second; the study ends there."""
NEVER = datetime.datetime.fromtimestamp(0, datetime.UTC)


def domain(knob: BaseDistribution) -> Any:
    """A knob as Syne Tune has it; choices by their number, as text."""
    library = importlib.import_module("syne_tune.config_space")
    if isinstance(knob, CategoricalDistribution):
        return library.choice([str(number) for number in range(len(knob.choices))])
    if isinstance(knob, IntDistribution):
        return (library.lograndint if knob.log else library.randint)(knob.low, knob.high)
    if isinstance(knob, FloatDistribution):
        return (library.loguniform if knob.log else library.uniform)(knob.low, knob.high)
    raise TypeError(f"{knob!r} has no counterpart in Syne Tune")


def decode(known: Description, config: dict[str, Any]) -> dict[str, Any]:
    """A suggestion in the bench's terms."""
    params = {}
    for name, knob in known.space.items():
        value = config[name]
        params[name] = knob.choices[int(value)] if isinstance(knob, CategoricalDistribution) else snap(knob, value)
    return params


def start(known: Description) -> dict[str, Any]:
    """The default recipe with its first horizon, in Syne Tune's terms."""
    values = {name: known.default[name] for name in known.space}
    for name, knob in known.space.items():
        if isinstance(knob, CategoricalDistribution):
            values[name] = str(knob.choices.index(values[name]))
    return {**values, HORIZON: first_horizon(known)}


def make_scheduler(desk: Desk, asha: bool) -> Any:
    """A scheduler with its defaults; the strongest form has the horizon in the space and starts at the default."""
    library = importlib.import_module("syne_tune.optimizer.baselines")
    known = desk.known
    space = {name: domain(knob) for name, knob in known.space.items()}
    points = None
    if desk.capped:
        space[HORIZON] = domain(IntDistribution(known.horizon_low, known.full_horizon, log=True))
        points = [start(known)]
    shared = {"metric": "gap", "do_minimize": True, "random_seed": desk.bench.seed, "points_to_evaluate": points}
    if asha:
        return library.ASHACQR(space, time_attr="step", max_t=STEPS, **shared)
    return library.CQR(space, **shared)


def search(desk: Desk, asha: bool) -> None:
    """Suggest, train, complete, for ever."""
    np.random.seed(desk.bench.seed % 2**32)  # the scheduler draws from the global generator
    scheduler = make_scheduler(desk, asha)
    make_trial = importlib.import_module("syne_tune.backend.trial_status").Trial
    while True:
        config = scheduler.suggest().config
        trial = make_trial(len(desk.bench.trials), config, NEVER)
        scheduler.on_trial_add(trial)
        horizon = int(config.get(HORIZON, desk.known.full_horizon))
        done = desk.train(decode(desk.known, config), horizon, watch(desk, scheduler, trial) if asha else None)
        if done.outcome != "stopped":
            gap = desk.penalised(done) if desk.capped else desk.last_gap(done)
            step = steps(desk, done.points[-1]) if done.points else 1
            scheduler.on_trial_complete(trial, {"gap": gap, "step": step})


def steps(desk: Desk, point: Point) -> int:
    """Progress in resource levels."""
    return min(STEPS, max(1, int(STEPS * point.samples / desk.known.full_horizon)))


def watch(desk: Desk, scheduler: Any, trial: Any) -> Stop:
    """Hand every new resource level to the scheduler; stop when it says so."""
    told = {0}

    def stop(points: list[Point]) -> bool:
        step = steps(desk, points[-1])
        if step in told or step == STEPS:
            return False
        told.add(step)
        answer = scheduler.on_trial_result(trial, {"gap": desk.gap(points[-1].value), "step": step})
        return bool(answer == "STOP")

    return stop


def runner(form: Form, asha: bool) -> Callable[[Bench], None]:
    """A peer's `run`; NumPy's global generator is left as it was found."""

    def run(bench: Bench) -> None:
        state = np.random.get_state()
        try:
            play(bench, form, lambda desk: search(desk, asha), MAX_TRIALS)
        finally:
            np.random.set_state(state)

    return run


def peer(name: str, form: Form, asha: bool, recipe: str) -> Peer:
    """A row of the table below."""
    needs = ("syne_tune", "statsmodels", "xgboost")
    return Peer(name, "syne-tune", form, runner(form, asha), True, installed("syne-tune"), recipe, needs)


SYNE_PEERS = (
    peer("syne-cqr", "documented", False, "CQR with its defaults on the final error, full length; most accurate wins"),
    peer(
        "syne-asha-cqr",
        "documented",
        True,
        "ASHA + CQR, its multi-fidelity recommendation, factor 3, 27 resource levels, one trial at a time; 100 "
        "trials at most; most accurate wins",
    ),
    peer(
        "syne-cqr-cap",
        "strongest",
        False,
        "CQR on penalised log time, horizon in the space, default first, capped; fastest hit wins",
    ),
)
