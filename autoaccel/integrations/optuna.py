"""The search as an Optuna sampler and pruner, for a study of the user's own that minimises seconds to a target.

In the objective: suggest parameters, among them the training's length; report the metric after so many units of it;
stop at the target; ask `trial.should_prune()`; return the seconds, missed or not. Seed each training with the trial's
number: a promising configuration is proposed again, to tell skill from luck. Must not know how decisions are made.
"""

from __future__ import annotations

import json
import math
import threading
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autoaccel.clock import Clock, MonotonicClock
from autoaccel.integrations.trials import FIRST_SHARE, PROPOSAL, Goal, StudyView, external, knob_of, reports
from autoaccel.search.advice import Proposal

_CONSTRAINT = "constraints:target"
"""Where Optuna keeps what `trial.set_constraint("target", ...)` sets; above zero means missed."""


class TimeToTargetSampler(BaseSampler):
    """Proposes the trainings that are expected to shorten the way to the target most for what they cost.

    Everything follows from the study's trials and the arguments, so a resumed study goes on as if it had not stopped.
    A complete trial that missed the target is marked infeasible: `study.best_trial` is the fastest that hit. It may
    have been lucky; `answer` gives the parameters with the least expected running time to the target.
    """

    _latest: tuple[object, int, StudyView] | None

    def __init__(
        self,
        target: float,
        horizon: str | int,
        *,
        metric: str = "accuracy",
        default: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        """Args:
        target: value of the reported metric that ends a training.
        horizon: name of the numeric parameter that sets a training's length (and anneals its schedule), in the unit of
            the reported steps; or a number of steps, if all trainings have the same length.
        metric: "accuracy" (0 to 1, higher is better) or "loss" (above 0, lower is better).
        default: today's parameters, as far as known; tried first, at a shorter length.
        seed: the same seed and trials give the same proposals; None: a random one.
        """
        self.goal = Goal(target, metric, horizon)
        self.default = dict(default or {})
        self.seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self._forget()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._check_study(study)
        with self._lock:
            return self._view(study).search_space()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._check_study(study)
        with self._lock:
            view = self._view(study)
            proposal = view.propose(study.get_trials(deepcopy=False), trial.number)
        if proposal is None:
            return {}
        if "fixed_params" in trial.system_attrs:  # enqueued: capped, but never given up for a promise it did not make
            proposal = replace(proposal, purpose="enqueued", rate=0.0, why="enqueued")
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, _packed(proposal))
        point = view.point(proposal.params, proposal.horizon)
        return {name: value for name, value in point.items() if name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What is not known from earlier trials: the first trial takes the default, later ones a random value."""
        self._check_study(study)
        knob = knob_of(param_name, param_distribution, {})
        if param_name == self.goal.horizon:
            full = float(self.default.get(param_name, knob.high))
            return external(param_distribution, knob.clip(FIRST_SHARE * full))
        if trial.number == 0 and param_name in self.default:
            return self.default[param_name]
        rng = np.random.default_rng([self.seed % 2**63, trial.number, zlib.crc32(param_name.encode())])
        share = 0.5 if trial.number == 0 else float(rng.random())
        value = knob.from_unit(share) if knob.is_numeric else int(share * len(knob.choices))
        return external(param_distribution, value)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._started_s[trial._trial_id] = self._clock.now()

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Marks a complete trial that missed as infeasible; says what is wrong with a trial that cannot be used."""
        self._started_s.pop(trial._trial_id, None)
        if state is TrialState.FAIL:
            return
        self._check_trial(trial)
        if state is not TrialState.COMPLETE:
            return
        shown = [value for _, value in reports(trial)]
        if not shown:
            message = f"trial {trial.number} reported nothing, so it teaches nothing: trial.report(metric, step)"
            warnings.warn(message, UserWarning, stacklevel=2)
            return
        margin = max(self.goal.margin(value) for value in shown)
        missed = not any(map(self.goal.hit, shown))
        violation = min(max(-margin, 1e-9), 1e9) if missed else min(-margin, 0.0)
        study._storage.set_trial_system_attr(trial._trial_id, _CONSTRAINT, violation)

    def answer(self, study: Study) -> dict[str, Any]:
        """Parameters with the least expected running time to the target, as far as the study's trials tell."""
        self._check_study(study)
        with self._lock:
            return self._view(study).answer()

    def should_stop(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether going on with a running trial is worth less than starting another; see `TimeToTargetPruner`."""
        self._check_study(study)
        self._check_trial(trial)
        if not trial.intermediate_values or any(map(self.goal.hit, trial.intermediate_values.values())):
            return False
        with self._lock:
            view = self._view(study)
            if view.setting is None:
                return False
            elapsed_s = self._elapsed_s(view, trial)
            running = view.running_curve(trial, elapsed_s)
            assert running is not None
            stored = trial.system_attrs.get(PROPOSAL)
            if stored is None:
                proposal = Proposal(running.params, running.horizon, view.cap_s(), 0.0, "first", "not proposed here")
            else:
                proposal = _unpacked(stored, running.params)
            return elapsed_s >= proposal.cap_s or view.should_stop(running, proposal)

    def _elapsed_s(self, view: StudyView, trial: FrozenTrial) -> float:
        """Seconds since a trial began: its attribute "seconds", else by the clock; one that began in another process
        began when its steps say."""
        told = trial.user_attrs.get("seconds")
        if told is not None:
            return float(told)
        now_s = self._clock.now()
        if trial._trial_id not in self._started_s:
            running = view.running_curve(trial)
            self._started_s[trial._trial_id] = now_s - (running.seconds if running is not None else 0.0)
        return max(now_s - self._started_s[trial._trial_id], 1e-6)

    def _view(self, study: Study) -> StudyView:
        """What the study's trials say now; one study at a time is kept."""
        if self._latest is None or self._latest[0] is not study._storage or self._latest[1] != study._study_id:
            self._latest = (study._storage, study._study_id, StudyView(self.goal, self.default, self.seed))
        view = self._latest[2]
        view.update(study.get_trials(deepcopy=False))
        return view

    def _check_study(self, study: Study) -> None:
        if len(study.directions) > 1:
            raise ValueError("seconds to a target are one number: TimeToTargetSampler needs a single-objective study")
        if study.directions[0] is not StudyDirection.MINIMIZE:
            raise ValueError(
                "the study maximizes, but its value is seconds to the target: create_study(direction='minimize')"
            )

    def _check_trial(self, trial: FrozenTrial) -> None:
        name, number = self.goal.horizon, trial.number
        length = self.goal.horizon_of(trial) if not self._is_choice(trial) else None
        if length is None:
            raise ValueError(
                f"trial {number} has no numeric parameter {name!r}, which sets a training's length: "
                f"suggest it, as in trial.suggest_int({name!r}, 1, 100, log=True)"
            )
        last = trial.last_step
        if last is not None and last > 1.5 * length + 1:
            raise ValueError(
                f"trial {number} reported step {last}, but its training ends at {length:g}: "
                f"report steps in the unit of the horizon, {name!r}"
            )

    def _is_choice(self, trial: FrozenTrial) -> bool:
        return isinstance(trial.distributions.get(str(self.goal.horizon)), CategoricalDistribution)

    def _forget(self) -> None:
        """What a fresh sampler with these arguments knows."""
        self._lock = threading.RLock()
        self._clock: Clock = MonotonicClock()
        self._started_s: dict[int, float] = {}
        self._latest = None

    def __getstate__(self) -> dict[str, Any]:
        return {"goal": self.goal, "default": self.default, "seed": self.seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


class TimeToTargetPruner(BasePruner):
    """Stops a trial that has taken as long as the best configuration needs to the target, or whose curve says that
    finishing it gains less than starting another.

    A trial that has hit is never pruned, as a pruned trial cannot become the best: the objective stops at the target.
    """

    def __init__(self, sampler: TimeToTargetSampler) -> None:
        """Args:
        sampler: the study's sampler; in another process one with the same arguments.
        """
        self._sampler = sampler

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self._sampler.should_stop(study, trial)


def _packed(proposal: Proposal) -> str:
    """A proposal for the storage, without its parameters: the trial has them."""
    fields = {name: value for name, value in asdict(proposal).items() if name != "params"}
    return json.dumps({n: None if v == math.inf else v for n, v in fields.items()})


def _unpacked(text: str, params: Mapping[str, Any]) -> Proposal:
    fields: dict[str, Any] = {n: math.inf if v is None else v for n, v in json.loads(text).items()}
    return Proposal(params=params, **fields)
