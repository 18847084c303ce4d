"""Searcher, scheduler and stopper as Ray Tune calls them, without a cluster; whole experiments are in test_ray_tune."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.tune", reason="needs ray[tune]")

from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.utils import flatten_dict

from autoaccel.clock import ManualClock
from autoaccel.integrations import ray as ours
from autoaccel.integrations.ray import TimeToTargetScheduler, TimeToTargetSearch, TimeToTargetStopper

TARGET = 0.9
SPACE = {
    "optim": {"lr": tune.loguniform(1e-4, 1.0), "name": tune.choice(["sgd", "adam"])},
    "epochs": tune.lograndint(1, 101),
    "data": "digits",
}


def search(**settings: Any) -> TimeToTargetSearch:
    found = TimeToTargetSearch(TARGET, "epochs", **{"seed": 0, **settings})
    assert found.set_search_properties("accuracy", "max", dict(SPACE))
    return found


def result(epoch: int, accuracy: float, seconds: float | None = None, **more: Any) -> dict[str, Any]:
    """What Tune reports after an epoch."""
    took = 2.0 * epoch if seconds is None else seconds
    return {"accuracy": accuracy, "training_iteration": epoch, "time_total_s": took, **more}


def accuracy(config: dict[str, Any], epoch: int) -> float:
    """A training made of a formula: best at a rate of 0.05."""
    off = abs(float(config["optim"]["lr"]) / 0.05 - 1)
    return 1 - 0.5 / (1 + epoch) ** 0.6 - 0.02 * min(off, 10)


def play(searcher: TimeToTargetSearch, n: int, first: int = 0) -> list[dict[str, Any]]:
    """So many whole trials, one after another, as Tune's loop would; the configs."""
    configs = []
    for number in range(first, first + n):
        trial_id = f"t{number}"
        config = searcher.suggest(trial_id)
        configs.append(config)
        for epoch in range(1, config["epochs"] + 1):
            last = result(epoch, accuracy(config, epoch))
            if searcher.should_stop(trial_id, last):
                break
            searcher.on_trial_result(trial_id, last)
        searcher.on_trial_complete(trial_id, last)
    return configs


def trial_of(searcher: TimeToTargetSearch, trial_id: str) -> Any:
    return searcher._frozen(searcher._trials[trial_id])


# ------------------------------------------------------------------------------------------------- what it is told


def test_a_suggestion_has_the_shape_of_the_users_space() -> None:
    config = search().suggest("a")
    assert set(config) == {"optim", "epochs"} and set(config["optim"]) == {"lr", "name"}
    assert config["optim"]["name"] in ("sgd", "adam") and 1 <= config["epochs"] <= 100


def test_a_stopped_trial_is_told_as_stopped_where_rays_own_bridge_tells_a_wrong_value() -> None:
    bridge, mine = OptunaSearch(seed=0), search()
    bridge.set_search_properties("accuracy", "max", dict(SPACE))
    bridge.suggest("a")
    epochs = mine.suggest("a")["epochs"]
    assert epochs > 1
    for searcher in (bridge, mine):  # a scheduler stops it after its first epoch
        searcher.on_trial_complete("a", result(1, 0.067))
    (theirs,) = bridge._ot_study.trials
    assert (theirs.state, theirs.value) == (TrialState.COMPLETE, 0.067), "fixed in Ray: leave out what works around it"
    trial = trial_of(mine, "a")
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {1: 0.067})


def test_a_hit_is_complete_with_its_seconds_and_a_miss_is_infeasible() -> None:
    mine = search()
    mine.suggest("hit")
    mine.on_trial_complete("hit", result(1, 0.93))
    hit = trial_of(mine, "hit")
    assert (hit.state, hit.value) == (TrialState.COMPLETE, 2.0) and hit.constraints["target"] <= 0
    epochs = mine.suggest("miss")["epochs"]
    mine.on_trial_result("miss", result(max(1, epochs - 1), 0.5))
    mine.on_trial_complete("miss", result(epochs, 0.6))
    miss = trial_of(mine, "miss")
    assert (miss.state, miss.value) == (TrialState.COMPLETE, 2.0 * epochs) and miss.constraints["target"] > 0
    assert mine._asked_study().best_trial.number == hit.number


def test_an_error_is_a_failure_and_what_never_ran_says_nothing() -> None:
    mine = search()
    for trial_id in ("error", "removed"):
        mine.suggest(trial_id)
    mine.on_trial_complete("error", error=True)
    mine.on_trial_complete("removed")
    assert trial_of(mine, "error").state is TrialState.FAIL
    assert trial_of(mine, "removed").state is TrialState.PRUNED
    assert [c.margins for c in mine._asked_study().sampler._view(mine._asked_study()).curves if not c.samples] == [()]


def test_what_comes_after_the_end_changes_nothing() -> None:
    mine = search()
    mine.suggest("a")
    mine.on_trial_complete("a", result(1, 0.95))
    mine.on_trial_result("a", result(2, 0.1))
    mine.on_trial_complete("a", result(2, 0.1))
    assert not mine.should_stop("a", result(3, 0.1))
    assert trial_of(mine, "a").intermediate_values == {1: 0.95}
    mine.on_trial_result("of another experiment", result(1, 0.5))


def test_it_finds_what_is_fast() -> None:
    mine = search()
    play(mine, 30)
    answer = mine.answer()
    assert accuracy(answer, answer["epochs"]) >= TARGET - 0.02
    assert 0.02 < answer["optim"]["lr"] < 0.2
    assert answer["epochs"] < 60


# --------------------------------------------------------------------------------------------------- saved and restored


def test_a_restored_search_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = search()
    expected = play(whole, 14)
    first = search()
    assert play(first, 7) == expected[:7]
    first.save_to_dir(str(tmp_path), "s")
    second = TimeToTargetSearch(TARGET, "epochs", seed=0)
    second.restore_from_dir(str(tmp_path))
    assert play(second, 7, first=7) == expected[7:]
    assert second.answer() == whole.answer()


def test_a_trial_that_the_searcher_was_saved_before_is_taken_up() -> None:
    mine = search()
    config = {"optim": {"lr": 0.03, "name": "adam"}, "epochs": 40, "data": "digits"}
    flat = flatten_dict({"config": config})
    mine.on_trial_result("new", result(1, 0.4, **flat))
    mine.on_trial_complete("new", result(2, 0.95, **flat))
    trial = trial_of(mine, "new")
    assert trial.params == {"optim/lr": 0.03, "optim/name": "adam", "epochs": 40}
    assert (trial.state, trial.value, list(trial.intermediate_values)) == (TrialState.COMPLETE, 4.0, [1, 2])


def test_a_pickled_pair_stays_a_pair() -> None:
    mine = search()
    searcher, copied = pickle.loads(pickle.dumps((mine, TimeToTargetScheduler(mine))))
    assert copied._search is searcher


def test_time_between_an_end_and_a_restore_does_not_count() -> None:
    elapsed = ours._Elapsed()
    elapsed._clock = clock = ManualClock(100.0)
    assert elapsed() == 0.0
    clock.advance(30.0)
    copied = pickle.loads(pickle.dumps(elapsed))
    copied._clock = later = ManualClock(9000.0)
    assert copied() == 30.0
    later.advance(5.0)
    assert copied() == 35.0
    assert pickle.loads(pickle.dumps(ours._Elapsed()))._before_s == 0.0


# ------------------------------------------------------------------------------------------------ scheduler and stopper


class Controller:
    """As much of Tune's controller as the scheduler sees."""

    def __init__(self, *trials: Any) -> None:
        self.trials = list(trials)
        self.stopped: list[str] = []

    def get_live_trials(self) -> set[Any]:
        return set(map(id, self.trials)) and {*self.trials}

    def get_trials(self) -> list[Any]:
        return self.trials

    def stop_trial(self, trial: Any) -> None:
        self.stopped.append(trial.trial_id)
        self.trials.remove(trial)


class Trial(SimpleNamespace):
    """One of Tune's."""

    def __hash__(self) -> int:
        return id(self)


def running(trial_id: str, actor: Any = None) -> Trial:
    return Trial(trial_id=trial_id, status="RUNNING", temporary_state=SimpleNamespace(ray_actor=actor))


def test_the_scheduler_stops_at_the_target_and_what_is_hopeless() -> None:
    mine = search()
    play(mine, 12)  # after 25 nothing is left to gain, and nothing is stopped for gaining less
    scheduler = TimeToTargetScheduler(mine)
    hopeless = None
    for number in range(100, 110):  # a repeat of the incumbent is let run
        config = mine.suggest(f"t{number}")
        decision = scheduler.on_trial_result(None, running(f"t{number}"), result(max(1, config["epochs"] // 2), 0.2))
        mine.on_trial_complete(f"t{number}", result(max(1, config["epochs"] // 2), 0.2))
        hopeless = hopeless or (decision if decision == "STOP" else None)
    assert hopeless == "STOP"
    fresh = search()
    fresh.suggest("good")
    assert TimeToTargetScheduler(fresh).on_trial_result(None, running("good"), result(1, 0.5)) == "CONTINUE"
    assert TimeToTargetScheduler(fresh).on_trial_result(None, running("good"), result(2, TARGET)) == "STOP"


def test_the_end_of_the_budget_is_hard(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ours.ray, "kill", killed.append)
    timers: list[tuple[float, Any, list[Any]]] = []

    class Timer:
        def __init__(self, seconds: float, call: Any, arguments: list[Any]) -> None:
            timers.append((seconds, call, arguments))

        def start(self) -> None: ...

    monkeypatch.setattr(ours.threading, "Timer", Timer)
    mine = search(budget_s=60.0)
    mine._elapsed._clock = clock = ManualClock()
    scheduler, controller = TimeToTargetScheduler(mine), Controller(running("a", "actor of a"), running("b"))
    scheduler.choose_trial_to_run(controller)
    assert mine.suggest("c") != Searcher.FINISHED and controller.stopped == []
    clock.advance(60.0)
    assert mine.suggest("d") == Searcher.FINISHED
    assert scheduler.choose_trial_to_run(controller) is None
    assert sorted(controller.stopped) == ["a", "b"] and killed == []
    scheduler.choose_trial_to_run(controller)
    ((seconds, call, arguments),) = timers
    call(*arguments)
    assert (seconds, killed) == (ours.GRACE_S, ["actor of a"])


def test_the_stopper_ends_trials_and_the_experiment() -> None:
    stopper = TimeToTargetStopper(TARGET, "accuracy", budget_s=60.0)
    stopper._elapsed._clock = clock = ManualClock()
    assert not stopper("a", result(1, 0.89)) and stopper("a", result(2, 0.9))
    assert not stopper("a", {"loss": 1.0}) and not stopper("a", result(1, float("nan")))
    assert not stopper.stop_all()
    clock.advance(59.0)
    assert not stopper.stop_all()
    copied = pickle.loads(pickle.dumps(stopper))
    copied._elapsed._clock = later = ManualClock()
    assert not copied.stop_all()
    later.advance(1.0)
    assert copied.stop_all()
    falling = TimeToTargetStopper(0.5, "loss", "min")
    assert falling("a", {"loss": 0.4}) and not falling("a", {"loss": 0.6}) and not falling.stop_all()


# ------------------------------------------------------------------------------------------------------------ wrong use


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lr": tune.uniform(0, 1)}, "horizon 'epochs' is not in param_space (lr)"),
        ({"epochs": 5}, "param_space has nothing to search"),
        ({"epochs": tune.grid_search([1, 2])}, "Grid search parameters cannot be automatically converted"),
    ],
)
def test_a_wrong_space_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        TimeToTargetSearch(TARGET, "epochs").set_search_properties("accuracy", "max", space)
    assert message in str(caught.value)


def test_a_metric_and_its_mode_are_needed() -> None:
    with pytest.raises(ValueError, match="name the metric and say 'max' or 'min'"):
        TimeToTargetSearch(TARGET, "epochs").set_search_properties(None, None, dict(SPACE))
    with pytest.raises(ValueError, match="accuracy targets lie between 0 and 1"):
        TimeToTargetSearch(97.0, "epochs", metric="accuracy", mode="max")
    mine = TimeToTargetSearch(1.5, 10, metric="loss", mode="min", seed=0)
    assert mine.set_search_properties(None, None, {"lr": tune.uniform(0, 1)})
    mine.suggest("a")
    mine.on_trial_complete("a", {"loss": 1.4, "training_iteration": 3, "time_total_s": 7.0})
    assert trial_of(mine, "a").value == 7.0
    with pytest.raises(RuntimeError, match="no param_space"):
        TimeToTargetSearch(TARGET, "epochs").suggest("a")
