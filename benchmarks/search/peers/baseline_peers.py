"""Peers without a library: a tuned learning rate on the default recipe, and short runs of many with the best in full.

What people do by hand. Must not know any library or problem.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.search.bench import Bench, Trial
from benchmarks.search.peers.desk import Desk, Form, Loop, Peer, active, play
from benchmarks.search.problem import Description, Params, Point

LEARNING_RATES = ("lr", "learning_rate")
GRIDS = ((0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, -2.0), (0.25, -0.25), (0.125, -0.125), (0.0625, -0.0625))
"""Powers of ten: the first around the default, each finer one around the best so far."""

SHARES = (0.8, 0.9, 0.95)
"""Of the fastest hit's length: of one pass over the grid after another."""

SHORT = 1 / 16
"""Of full length: a look at a configuration."""
LOOKING = 0.4
"""Share of what is left of the budget that is spent on looks."""
MAX_LOOKS = 200


# ------------------------------------------------------------------------------------------------ a tuned learning rate


def learning_rate(known: Description) -> str | None:
    """The learning rate's name: `lr` or `learning_rate`, after a dot or a group's name too; one in use by default."""
    for name in known.space:
        last = name.lower().replace("/", ".").split(".")[-1]
        if active(known, known.default, name) and (last in LEARNING_RATES or last.endswith(("_lr", "_learning_rate"))):
            return name
    return None


def exponents(best: Callable[[], float]) -> Iterator[float]:
    """Powers of ten to try, relative to the default."""
    yield from GRIDS[0]
    for grid in GRIDS[1:]:
        centre = best()
        yield from (centre + step for step in grid)


def tune_learning_rate(desk: Desk) -> None:
    """The grid, then, in the strongest form, the grid again with a schedule shorter than the fastest hit."""
    known = desk.known
    name = learning_rate(known)
    if name is None:
        desk.train(known.default, known.full_horizon)
        return
    knob = known.space[name]
    if not isinstance(knob, FloatDistribution):
        raise TypeError(f"learning rate {name} is no float: {knob!r}")
    default = known.default[name]

    def best() -> float:
        trial = (desk.fastest() if desk.fastest_wins else None) or desk.most_accurate()
        return math.log10(trial.params[name] / default) if trial is not None else 0.0

    for share in itertools.cycle(SHARES):
        tried: set[tuple[float, int]] = set()
        for exponent in exponents(best):
            value = min(knob.high, max(knob.low, default * 10**exponent))
            horizon = shorter(desk, share)
            if (value, horizon) not in tried:
                tried.add((value, horizon))
                desk.train({**known.default, name: value}, horizon)
        if not desk.capped:
            return


def shorter(desk: Desk, share: float) -> int:
    """Full length; in the strongest form a share of the fastest hit's samples, once there is one."""
    fastest = desk.fastest() if desk.capped else None
    if fastest is None:
        return desk.known.full_horizon
    return max(desk.known.horizon_low, round(share * fastest.points[-1].samples))


# -------------------------------------------------------------------------------------------- short runs, then the best


def draw(rng: random.Random, knob: BaseDistribution) -> Any:
    """A value of a knob, uniform on its scale."""
    if isinstance(knob, CategoricalDistribution):
        return rng.choice(knob.choices)
    if isinstance(knob, IntDistribution):
        if knob.log:
            return min(knob.high, max(knob.low, round(math.exp(rng.uniform(math.log(knob.low), math.log(knob.high))))))
        return knob.low + knob.step * rng.randint(0, (knob.high - knob.low) // knob.step)
    if isinstance(knob, FloatDistribution):
        if knob.log:
            return math.exp(rng.uniform(math.log(knob.low), math.log(knob.high)))
        if knob.step:
            return knob.low + knob.step * rng.randint(0, round((knob.high - knob.low) / knob.step))
        return rng.uniform(knob.low, knob.high)
    raise TypeError(f"cannot draw from {knob!r}")


def screen(desk: Desk) -> None:
    """Looks at random configurations for a share of what is left, then the best third of them at full length; again."""
    known, bench = desk.known, desk.bench
    rng = random.Random(bench.seed)
    horizon = max(known.horizon_low, round(SHORT * known.full_horizon))
    while True:
        looks: list[Trial] = []
        until_s = bench.now_s + LOOKING * bench.left_s
        while not looks or (bench.now_s < until_s and len(looks) < MAX_LOOKS):
            params = {name: draw(rng, knob) for name, knob in known.space.items()}
            params = dict(known.default) if desk.capped and not bench.trials else params
            looks.append(look(desk, params, horizon))
        for seen in sorted(looks, key=desk.last_gap)[: math.ceil(len(looks) / 3)]:
            desk.train(seen.params, known.full_horizon)


def look(desk: Desk, params: Params, horizon: int) -> Trial:
    """Documented: a full schedule cut early. Strongest: a schedule of that length."""
    if desk.capped:
        return desk.train(params, horizon)

    def stop(points: list[Point]) -> bool:
        return points[-1].samples >= horizon

    return desk.train(params, desk.known.full_horizon, stop)


def runner(form: Form, loop: Loop) -> Callable[[Bench], None]:
    """A peer's `run`."""

    def run(bench: Bench) -> None:
        play(bench, form, loop)

    return run


def peer(name: str, form: Form, loop: Loop, recipe: str) -> Peer:
    """A row of the table below."""
    return Peer(name, name.removesuffix("-cap"), form, runner(form, loop), False, "", recipe)


BASELINE_PEERS = (
    peer(
        "default-lr",
        "documented",
        tune_learning_rate,
        "the default recipe at full length over a log grid of learning rates, finer around the best, 15 trainings at "
        "most; most accurate wins",
    ),
    peer(
        "default-lr-cap",
        "strongest",
        tune_learning_rate,
        "the same grid, capped, schedules of 0.8, 0.9 and 0.95 of the fastest hit once there is one, repeated while "
        "budget is left; fastest hit wins",
    ),
    peer(
        "screen-top",
        "documented",
        screen,
        "0.4 of the budget on random configurations cut at 1/16 of full length, then the best third of them in full, "
        "in rounds; most accurate wins",
    ),
    peer(
        "screen-top-cap",
        "strongest",
        screen,
        "the same with schedules annealed to 1/16, the default first, capped; fastest hit wins",
    ),
)
