"""The search in Ray Tune: a Searcher, a TrialScheduler and a Stopper for a `tune.Tuner` of the user's own.

The trainable reports its metric as it always did, and its search space has a parameter that sets a training's length.
A trial is stopped at the target and when finishing it is worth less than starting another. Underneath is the same
sampler as for Optuna studies, told what really happened: a stopped trial as stopped, a miss as a miss. Importing this
module imports Ray Tune. Must not know how decisions are made.
"""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import optuna
import ray
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import Stopper
from ray.tune.utils import flatten_dict

from autoaccel.clock import Clock, MonotonicClock
from autoaccel.integrations.optuna import TimeToTargetSampler
from autoaccel.integrations.trials import Goal

GRACE_S = 1.0
"""How long trials may take to end by themselves when the budget is over; what is left then is killed."""
_STEPS, _SECONDS = "training_iteration", "time_total_s"
_KINDS = {"max": "accuracy", "min": "loss"}


class Decides(Protocol):
    """What the scheduler asks: a searcher that knows what to do with trials that run."""

    def decide(self, trial: Any, result: dict[str, Any]) -> str:
        """TrialScheduler.CONTINUE, .STOP or .NOOP, after a result of one of Tune's trials."""

    def is_over(self) -> bool:
        """Whether nothing may run any longer."""

    def condemned(self) -> frozenset[str]:
        """Trials to be killed, by Tune's id."""

    def at_rest(self) -> frozenset[str]:
        """Trials that have no more steps, kept until another one can take over their actor; by Tune's id."""


class _Elapsed:
    """Seconds since it was first asked; a copy that is unpickled later goes on from there."""

    def __init__(self) -> None:
        self._before_s = 0.0
        self._clock: Clock = MonotonicClock()
        self._began_s: float | None = None

    def __call__(self) -> float:
        if self._began_s is None:
            self._began_s = self._clock.now()
        return self._before_s + self._clock.now() - self._began_s

    def __getstate__(self) -> dict[str, Any]:
        return {"_before_s": self._before_s if self._began_s is None else self()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._before_s = state["_before_s"]


class TimeToTargetSearch(Searcher):
    """Proposes the trainings that are expected to shorten the way to the target most for what they cost.

    Use it with `TimeToTargetScheduler`, or with a scheduler of Tune's and `TimeToTargetStopper`. Everything it knows is
    saved with the experiment, so that `Tuner.restore` goes on where it was.
    """

    def __init__(  # noqa: PLR0913 - the options of one search
        self,
        target: float,
        horizon: str | int,
        *,
        metric: str | None = None,
        mode: str | None = None,
        default: Mapping[str, Any] | None = None,
        seed: int | None = None,
        budget_s: float | None = None,
        steps: str = _STEPS,
        seconds: str = _SECONDS,
    ) -> None:
        """Args:
        target: value of the metric that ends a training.
        horizon: name of the parameter that sets a training's length, in the unit of `steps` ('a/b' for a nested one);
            or a number of steps, if all trainings have the same length.
        metric, mode: the reported metric: 'max' for one between 0 and 1, 'min' for one above 0. Default: TuneConfig's.
        default: today's parameters, as far as known; tried first, at a shorter length.
        seed: the same seed and results give the same proposals; None: a random one.
        budget_s: seconds the experiment may take from Tune's first turn on, those before a restore included.
        steps, seconds: results that say how far a training is and how long it took.
        """
        super().__init__(metric=metric, mode=mode)
        self._target, self._horizon, self._seed = target, horizon, seed
        self._default = {**flatten_dict(dict(default or {}))}
        self._budget_s, self._steps, self._seconds = budget_s, steps, seconds
        self._study: optuna.Study | None = None
        self._space: dict[str, optuna.distributions.BaseDistribution] = {}
        self._trials: dict[str, optuna.Trial] = {}
        self._ended: set[str] = set()
        self._elapsed = _Elapsed()
        if mode is not None:
            self._goal()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **_: Any) -> bool:
        """Takes the space from the Tuner's `param_space`, and metric and mode from its TuneConfig if not given here."""
        if self._space:
            return False
        self._metric, self._mode = self._metric or metric, self._mode or mode
        goal = self._goal()
        space = OptunaSearch.convert_search_space(config)
        if not space:
            raise ValueError("param_space has nothing to search: use tune.loguniform, tune.randint and so on")
        if isinstance(self._horizon, str) and self._horizon not in space:
            raise ValueError(
                f"horizon {self._horizon!r} is not in param_space ({', '.join(sorted(space))}): add what sets a "
                f"training's length, as in {self._horizon!r}: tune.lograndint(1, 101)"
            )
        self._space = space
        sampler = TimeToTargetSampler(
            goal.target, goal.horizon, metric=goal.metric, default=self._default, seed=self._seed
        )
        self._study = optuna.create_study(sampler=sampler)
        return True

    def suggest(self, trial_id: str) -> Any:
        if self.is_over():
            return Searcher.FINISHED
        trial = self._trials[trial_id] = self._asked()
        return _nested(trial.params)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._report(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if result and self.metric in result:
            self._report(trial_id, result)
        if trial_id not in self._trials or trial_id in self._ended:
            return
        self._ended.add(trial_id)
        trial = self._trials[trial_id]
        seen = self._frozen(trial).intermediate_values
        state = TrialState.PRUNED
        if error:
            state = TrialState.FAIL
        elif seen and (any(map(self._goal().hit, seen.values())) or max(seen) >= self._length(trial)):
            state = TrialState.COMPLETE
        values = self._frozen(trial).user_attrs.get("seconds") if state is TrialState.COMPLETE else None
        self._asked_study().tell(trial, values, state=state)

    def decide(self, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial should go on; for TimeToTargetScheduler."""
        return FIFOScheduler.STOP if self.should_stop(trial.trial_id, result) else FIFOScheduler.CONTINUE

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this result ends a trial: it is a hit, or finishing the trial is worth less than another one."""
        self._report(trial_id, result)
        trial = self._trials.get(trial_id)
        if trial is None or trial_id in self._ended:
            return False
        frozen, study = self._frozen(trial), self._asked_study()
        if any(map(self._goal().hit, frozen.intermediate_values.values())):
            return True
        sampler = study.sampler
        assert isinstance(sampler, TimeToTargetSampler)
        return sampler.should_stop(study, frozen)

    def answer(self) -> dict[str, Any]:
        """Parameters with the least expected running time to the target, as far as the results tell."""
        study = self._asked_study()
        assert isinstance(study.sampler, TimeToTargetSampler)
        return _nested(study.sampler.answer(study))

    def is_over(self) -> bool:
        elapsed_s = self._elapsed()
        return self._budget_s is not None and elapsed_s >= self._budget_s

    def condemned(self) -> frozenset[str]:
        return frozenset()

    def at_rest(self) -> frozenset[str]:
        return frozenset()

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))

    def _goal(self) -> Goal:
        if self._metric is None or self._mode not in _KINDS:
            raise ValueError(
                f"metric {self._metric!r} and mode {self._mode!r}: name the metric and say 'max' or 'min', here or in "
                "tune.TuneConfig"
            )
        return Goal(self._target, _KINDS[self._mode], self._horizon)

    def _asked_study(self) -> optuna.Study:
        if self._study is None:
            raise RuntimeError("the Tuner has no param_space, so there is nothing to search")
        return self._study

    def _asked(self) -> optuna.Trial:
        return self._asked_study().ask(self._space)

    def _frozen(self, trial: optuna.Trial) -> optuna.trial.FrozenTrial:
        return self._asked_study()._storage.get_trial(trial._trial_id)

    def _length(self, trial: optuna.Trial) -> float:
        return float(trial.params[self._horizon] if isinstance(self._horizon, str) else self._horizon)

    def _report(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take in a result; one that was seen before changes nothing."""
        if trial_id in self._ended or self.metric not in result:
            return
        if trial_id not in self._trials:  # the experiment was saved a moment after this searcher was
            with suppress(KeyError):
                self._asked_study().enqueue_trial({name: result[f"config/{name}"] for name in self._space})
                self._trials[trial_id] = self._asked()
        trial, step = self._trials.get(trial_id), int(result[self._steps])
        if trial is not None and step not in self._frozen(trial).intermediate_values:
            trial.report(float(result[self.metric]), step)
            trial.set_user_attr("seconds", max(float(result[self._seconds]), 1e-6))


class TimeToTargetScheduler(FIFOScheduler):
    """Stops what its searcher says, and ends the experiment hard: what has not ended soon after the budget is killed.

    Tune itself waits for a trial's next result, or 10 s and more.
    """

    def __init__(self, search: Decides, grace_s: float = GRACE_S) -> None:
        """Args:
        search: the Tuner's TimeToTargetSearch.
        grace_s: seconds that trials may take to end when the budget is over.
        """
        super().__init__()
        self._search, self._grace_s = search, grace_s

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._search.decide(trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Asked by Tune at every turn of its loop; so this is where the budget is kept."""
        live = list(tune_controller.get_live_trials())
        actors = {t.trial_id: t.temporary_state.ray_actor for t in live if t.temporary_state.ray_actor}
        _kill([actors[trial_id] for trial_id in self._search.condemned() if trial_id in actors])
        resting_ids = self._search.at_rest()
        at_rest = [trial for trial in live if trial.trial_id in resting_ids]
        if at_rest and any(trial.status == Trial.PENDING for trial in live):
            tune_controller.stop_trial(at_rest[0])  # Tune keeps one actor without a trial: one at a turn
        if self._search.is_over():
            for trial in live:
                tune_controller.stop_trial(trial)
            if actors:  # Tune's loop may be over before they are gone: a timer sees to it
                timer = threading.Timer(self._grace_s, _kill, [list(actors.values())])
                timer.daemon = True
                timer.start()
        return super().choose_trial_to_run(tune_controller)


class TimeToTargetStopper(Stopper):
    """Ends a trial at its target and an experiment at its budget, for those who keep another scheduler.

    Tune then ends as it does with its own budget: a trial that does not report is waited for.
    """

    def __init__(self, target: float, metric: str, mode: str = "max", budget_s: float | None = None) -> None:
        """Args:
        target: value of the metric that ends a training.
        metric, mode: the reported metric, 'max' or 'min'.
        budget_s: seconds the experiment may take from its first turn on, those before a restore included.
        """
        self._goal, self._metric = Goal(target, _KINDS[mode], 1), metric
        self._budget_s, self._elapsed = budget_s, _Elapsed()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        value = result.get(self._metric, math.nan)
        return bool(math.isfinite(value) and self._goal.hit(value))

    def stop_all(self) -> bool:
        elapsed_s = self._elapsed()
        return self._budget_s is not None and elapsed_s >= self._budget_s


def _kill(actors: list[Any]) -> None:
    for actor in actors:
        with suppress(ray.exceptions.RayError, ValueError, RuntimeError):  # it is gone, or Ray is
            ray.kill(actor)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'a/b': 1} -> {'a': {'b': 1}}, as the trainable knows it."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = found
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return found
