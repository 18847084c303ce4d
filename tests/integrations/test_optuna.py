"""The sampler and pruner in real Optuna studies, on trainings made of formulas and on hand-made trials."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from autoaccel import TimeToTargetPruner, TimeToTargetSampler
from tests.integrations import trainings
from tests.integrations.trainings import TARGET, expected_s, objective, spend

optuna.logging.set_verbosity(optuna.logging.WARNING)


def study_of(seed: int = 0, storage: Any = None, **arguments: Any) -> optuna.Study:
    sampler = TimeToTargetSampler(TARGET, "epochs", seed=seed, **arguments)
    pruner = TimeToTargetPruner(sampler)
    return optuna.create_study(
        sampler=sampler, pruner=pruner, storage=storage, study_name="s", load_if_exists=storage is not None
    )


def params_of(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def sampler_of(study: optuna.Study) -> TimeToTargetSampler:
    assert isinstance(study.sampler, TimeToTargetSampler)
    return study.sampler


# -------------------------------------------------------------------------------------------------------- what it finds


def test_it_beats_random_search_at_equal_simulated_budget() -> None:
    ours, random = [], []
    for seed in range(4):
        study = spend(study_of(seed), 500)
        answer = sampler_of(study).answer(study)
        ours.append(expected_s(answer, answer["epochs"]))
        peer = spend(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)), 500)
        random.append(expected_s(peer.best_params, peer.best_params["epochs"]))
    full_s = 10 * 100 * trainings.epoch_s({"batch": 64, "optimizer": "sgd"})
    capped = [np.minimum(found, full_s) for found in (ours, random)]
    assert np.log(capped[0]).mean() < np.log(capped[1]).mean() - np.log(1.3)


def test_a_fixed_length_needs_no_parameter() -> None:
    sampler = TimeToTargetSampler(TARGET, 40, seed=0)
    study = optuna.create_study(sampler=sampler, pruner=TimeToTargetPruner(sampler))
    spend(study, 500, epochs=40)
    assert expected_s(sampler.answer(study), 40) < 100


def test_the_best_trial_is_one_that_hit() -> None:
    study = spend(study_of(1), 300)
    assert study.best_trial.constraints["target"] <= 0
    missed = [t for t in study.trials if t.state is TrialState.COMPLETE and t.constraints["target"] > 0]
    assert missed, "some trial ran its course without a hit"


def test_a_default_is_tried_first_and_shorter() -> None:
    default = {"optimizer": "adam", "lr": 0.01, "batch": 32, "epochs": 80}
    first = study_of(default=default).ask()
    assert trainings.suggest(first) == {"optimizer": "adam", "lr": 0.01, "batch": 32}
    assert first.suggest_int("epochs", 1, 100, log=True) == 8


def test_a_condition_is_learned() -> None:
    study = study_of()
    study.optimize(objective, n_trials=12)
    view = sampler_of(study)._view(study)
    assert view.setting is not None
    momentum = next(knob for knob in view.setting.space.knobs if knob.path == "momentum")
    assert momentum.when == {"optimizer": 0}


# ----------------------------------------------------------------------------------------------- all from the storage


def journal(folder: Path) -> JournalStorage:
    file = str(folder / "journal")
    return JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))


@pytest.mark.parametrize("kind", ["memory", "journal"])
def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(kind: str, tmp_path: Path) -> None:
    whole = study_of()
    whole.optimize(objective, n_trials=14)
    memory = optuna.storages.InMemoryStorage()
    for _ in range(2):
        part = study_of(storage=memory if kind == "memory" else journal(tmp_path))
        part.optimize(objective, n_trials=7)
    assert params_of(part) == params_of(whole)


def test_a_copy_knows_its_arguments() -> None:
    study = study_of(3)
    study.optimize(objective, n_trials=8)
    for copied in (pickle.loads(pickle.dumps(study.sampler)), copy.deepcopy(study.sampler)):
        assert copied.answer(study) == sampler_of(study).answer(study)


def test_running_trials_count() -> None:
    study = study_of()
    study.optimize(objective, n_trials=10)
    asked = []
    for _ in range(4):
        trial = study.ask()
        asked.append({**trainings.suggest(trial), "epochs": trial.suggest_int("epochs", 1, 100, log=True)})
    assert len({str(point) for point in asked}) == 4


def test_threads_share_a_sampler() -> None:
    study = study_of()
    study.optimize(objective, n_trials=10, n_jobs=2)
    assert all(trial.state is not TrialState.FAIL for trial in study.trials)


def test_failed_and_enqueued_trials_are_evidence() -> None:
    study = study_of()
    study.enqueue_trial({"optimizer": "adam", "lr": 0.003, "batch": 64, "epochs": 30})
    study.optimize(objective, n_trials=3)
    failed = study.ask()
    trainings.suggest(failed)
    failed.suggest_int("epochs", 1, 100, log=True)
    study.tell(failed, state=TrialState.FAIL)
    curves = sampler_of(study)._view(study).curves
    assert curves[0].params["lr"] == 0.003
    assert curves[-1].outcome == "failed" and curves[-1].margins[0] < -2


# --------------------------------------------------------------------------------------------------------- the pruner


def ask(study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    trainings.suggest(trial)
    trial.suggest_int("epochs", 1, 100, log=True)
    return trial


@pytest.fixture(scope="module")
def hit_study() -> optuna.Study:
    """A study whose incumbent is known; its cap is what a trial may take."""
    return spend(study_of(1), 400)


def capped(study: optuna.Study) -> float:
    return sampler_of(study)._view(study).cap_s()


def test_a_trial_past_the_incumbents_time_is_pruned(hit_study: optuna.Study) -> None:
    study, seconds = hit_study, capped(hit_study)
    trial = ask(study)
    trial.set_user_attr("seconds", 10 * seconds)
    trial.report(TARGET - 0.001, 1)
    assert trial.should_prune()
    study.tell(trial, state=TrialState.PRUNED)


def test_a_hopeless_trial_is_pruned_long_before(hit_study: optuna.Study) -> None:
    other = TimeToTargetPruner(TimeToTargetSampler(TARGET, "epochs", seed=1))  # as in another process
    for _ in range(8):  # a repeat of the incumbent is let run
        trial = ask(hit_study)
        trial.set_user_attr("seconds", 0.3 * capped(hit_study))
        trial.report(0.1, max(1, trial.params["epochs"] // 2))
        frozen = hit_study.get_trials(deepcopy=False)[trial.number]
        stopped = trial.should_prune()
        assert other.prune(hit_study, frozen) == stopped
        hit_study.tell(trial, state=TrialState.PRUNED)
        if '"race"' in frozen.system_attrs["time_to_target:proposal"]:
            assert stopped
            return
    raise AssertionError("nothing but repeats")


def test_a_hit_is_never_pruned(hit_study: optuna.Study) -> None:
    trial = ask(hit_study)
    trial.set_user_attr("seconds", 1e6)
    trial.report(TARGET, 1)
    assert not trial.should_prune()
    hit_study.tell(trial, state=TrialState.FAIL)


# ------------------------------------------------------------------------------------------------------------ wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 97.0, "horizon": "epochs"}, "accuracy targets lie between 0 and 1"),
        ({"target": 0.0, "horizon": "epochs", "metric": "loss"}, "loss targets lie above 0"),
        ({"target": 0.9, "horizon": "epochs", "metric": "f1"}, "'accuracy' (0..1, higher is better) or 'loss'"),
        ({"target": 0.9, "horizon": 0}, "a parameter's name, or a number of steps"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        TimeToTargetSampler(**arguments)
    assert message in str(caught.value)


def without_horizon(trial: optuna.Trial) -> float:
    return trial.suggest_float("lr", 0, 1)


def in_batches(trial: optuna.Trial) -> float:
    trial.report(0.5, 1000 * trial.suggest_int("epochs", 10, 20))
    return 1.0


@pytest.mark.parametrize(
    ("directions", "run", "message"),
    [
        (["maximize"], in_batches, "the study maximizes, but its value is seconds"),
        (["minimize", "minimize"], in_batches, "needs a single-objective study"),
        (["minimize"], without_horizon, "trial 0 has no numeric parameter 'epochs'"),
        (["minimize"], in_batches, "report steps in the unit of the horizon, 'epochs'"),
    ],
)
def test_wrong_studies(directions: list[str], run: Callable[[optuna.Trial], float], message: str) -> None:
    study = optuna.create_study(directions=directions, sampler=TimeToTargetSampler(0.9, "epochs"))
    with pytest.raises(ValueError) as caught:
        study.optimize(run, n_trials=1)
    assert message in str(caught.value)


def test_a_trial_that_reports_nothing_is_told_so() -> None:
    study = optuna.create_study(sampler=TimeToTargetSampler(0.9, 5))
    with pytest.warns(UserWarning, match="trial 0 reported nothing"):
        study.optimize(without_horizon, n_trials=1)
