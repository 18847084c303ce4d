"""Peers built on Ray Tune: ASHA and OptunaSearch, their own objects driven one trial at a time on the bench's clock.

No cluster is started: the scheduler only ever looks at a trial's id. Must not know other libraries'
peers or any problem.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchmarks.search.bench import Bench, Trial
from benchmarks.search.peers.desk import Desk, Form, Peer, Stop, first_horizon, installed, only_active, play
from benchmarks.search.peers.optuna_peers import HORIZON, STEPS, suggest_all
from benchmarks.search.problem import Point


def make_scheduler(desk: Desk, form: Form) -> Any:
    """ASHA. Documented: rungs in training iterations. Strongest: rungs in seconds."""
    asha = importlib.import_module("ray.tune.schedulers").AsyncHyperBandScheduler
    if form == "documented":
        return asha(
            time_attr="training_iteration", metric="gap", mode="min", max_t=STEPS, grace_period=1, reduction_factor=3
        )
    full_s = desk.known.full_s
    return asha(
        time_attr="time_total_s",
        metric="gap",
        mode="min",
        max_t=9 * full_s,
        grace_period=full_s / 27,
        reduction_factor=3,
    )


def make_searcher(desk: Desk, form: Form) -> Any:
    """OptunaSearch over a define-by-run space; the strongest form has the horizon in it and starts at the default."""
    known = desk.known
    free = form == "strongest"

    def space(trial: Any) -> dict[str, Any]:
        params = suggest_all(trial, known)
        if free:
            params[HORIZON] = trial.suggest_int(HORIZON, known.horizon_low, known.full_horizon, log=True)
        return params

    first = {**only_active(known, known.default, known.space), HORIZON: first_horizon(known)}
    return importlib.import_module("ray.tune.search.optuna").OptunaSearch(
        space=space,
        metric="gap",
        mode="min",
        seed=desk.bench.seed,
        study_name=f"{known.name}-{desk.bench.seed}",
        points_to_evaluate=[first] if free else None,
    )


def watch(desk: Desk, scheduler: Any, searcher: Any, trial: Any, horizon: int) -> Stop:
    """Hand every evaluation to both; stop when the scheduler says so."""

    def stop(points: list[Point]) -> bool:
        result = report(desk, points[-1], horizon)
        searcher.on_trial_result(trial.trial_id, result)
        return bool(scheduler.on_trial_result(None, trial, result) == "STOP")

    return stop


def report(desk: Desk, point: Point, horizon: int) -> dict[str, Any]:
    """An evaluation as Ray's results look."""
    progress = max(1, int(STEPS * point.samples / horizon))
    return {"training_iteration": progress, "time_total_s": point.seconds, "gap": desk.gap(point.value)}


def search(desk: Desk, form: Form) -> None:
    """Suggest, train, complete, for ever."""
    scheduler, searcher = make_scheduler(desk, form), make_searcher(desk, form)
    while True:
        trial = SimpleNamespace(trial_id=f"trial_{len(desk.bench.trials):05d}")
        params = searcher.suggest(trial.trial_id)
        horizon = int(params.pop(HORIZON, desk.known.full_horizon))
        scheduler.on_trial_add(None, trial)
        done = desk.train(params, horizon, watch(desk, scheduler, searcher, trial, horizon))
        if done.outcome == "stopped":
            scheduler.on_trial_remove(None, trial)
        elif done.points:
            scheduler.on_trial_complete(None, trial, report(desk, done.points[-1], horizon))
        searcher.on_trial_complete(trial.trial_id, final(desk, done, form))


def final(desk: Desk, done: Trial, form: Form) -> dict[str, Any] | None:
    """What the searcher is told. Ray tells a stopped trial as complete; the strongest form as pruned (no result)."""
    if form == "documented":
        return {"gap": desk.last_gap(done)}
    return None if done.outcome == "stopped" else {"gap": desk.penalised(done)}


def runner(form: Form) -> Callable[[Bench], None]:
    """A peer's `run`."""

    def run(bench: Bench) -> None:
        play(bench, form, lambda desk: search(desk, form))

    return run


RAY_PEERS = (
    Peer(
        "ray-asha",
        "ray",
        "documented",
        runner("documented"),
        False,
        installed("ray"),
        "ASHA + OptunaSearch (define-by-run), factor 3, grace 1/27 of full length, one trial at a time; stopped "
        "trials are told as complete, as Ray does; the most accurate at full length wins",
        ("ray", "optuna"),
    ),
    Peer(
        "ray-asha-cap",
        "ray",
        "strongest",
        runner("strongest"),
        False,
        installed("ray"),
        "ASHA with rungs in seconds, OptunaSearch on penalised log time, horizon in the space, default first, capped, "
        "stopped trials told as pruned; fastest hit wins",
        ("ray", "optuna"),
    ),
)
