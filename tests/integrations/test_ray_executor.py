"""Trials of Ray Tune keep the executor contract. Each executor is an experiment of its own, so this takes minutes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray.tune", reason="needs ray[tune]")

from autoaccel.errors import EnvironmentFaultError
from autoaccel.execution.base import Executor
from autoaccel.execution.local import TaskSource
from autoaccel.execution.ray_cluster import RayCluster, connect, disconnect
from autoaccel.trial import Report
from tests.kits.executor_contract import EASY, ExecutorContract, endless, ends, first_report, run, training, until
from tests.kits.faulty_task import RAISE, copied_to
from tests.kits.patience import eventually
from tests.kits.processes import alive, trainers

SMALL = RayCluster(resources={"CPU": 0.25})

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_to(tmp_path_factory.mktemp("tune")).parent


@pytest.fixture(scope="module")
def make(folder: Path) -> Iterator[Callable[..., Executor]]:
    source = TaskSource(f"{folder / 'faulty_task.py'}:toy")
    private = connect(RayCluster(), source)
    numbers = itertools.count()

    def made(n_slots: int = 1, cluster: RayCluster = SMALL) -> Executor:
        from autoaccel.integrations.ray_executor import RayTuneExecutor

        return RayTuneExecutor(connect(RayCluster(), source), folder / f"run{next(numbers)}", n_slots, cluster=cluster)

    yield made
    disconnect(private)


class TestRayTune(ExecutorContract):
    def test_what_goes_wrong_is_told(self, executor: Executor) -> None:
        _, ended = run(executor, training(EASY, seed=RAISE))
        assert ended.outcome == "crashed" and "ValueError: no such layer" in ended.message
        assert run(executor, training(EASY))[1].outcome == "hit"

    def test_an_actor_killed_in_mid_trial_is_a_loss(self, executor: Executor) -> None:
        spec = endless()
        executor.start(spec)
        first_report(executor)
        (actor,) = eventually(actors)  # it carries its name while it does something
        actor.kill()
        events = until(executor, ends)
        (ended,) = ends(events)
        assert ended.outcome == "lost" and ended.samples > 0
        assert run(executor, training(EASY))[1].outcome == "hit"


def test_trials_at_once_keep_their_actors(make: Callable[..., Executor]) -> None:
    """Tune by itself keeps one without a trial: the other slot would wait for a new actor again and again."""
    executor, seen = make(n_slots=2), []
    for _ in range(4):
        specs = [endless(), endless()]
        for spec in specs:
            executor.start(spec)
        until(executor, lambda events: len({e.trial for e in events if isinstance(e, Report)}) == 2)
        seen.append(trainers())
        for spec in specs:
            executor.stop(spec.trial)
        until(executor, lambda events: len(ends(events)) == 2)
    executor.close()
    assert len(seen[0]) == 2 and seen == [seen[0]] * 4


def actors() -> list[psutil.Process]:
    """Ray's processes that hold a trial."""
    return [process for process, command in alive() if command.startswith("ray::") and "Training" in command]


def test_tunes_own_tooling_reads_the_trials(make: Callable[..., Executor], folder: Path) -> None:
    from ray.tune import ExperimentAnalysis

    executor = make()
    spec = training(EASY)
    reports, ended = run(executor, spec)
    executor.close()
    (path,) = sorted(folder.glob("run*/ray/trials-*"), key=lambda p: p.stat().st_mtime)[-1:]
    (row,) = ExperimentAnalysis(str(path), default_metric="value", default_mode="max").dataframe().to_dict("records")
    assert spec.config is not None
    assert (row["config/batch.size"], row["config/purpose"]) == (spec.config.batch.size, "race")
    assert (row["value"], row["outcome"]) == (ended.value, "hit")
    assert isinstance(reports[0], Report)


def test_no_room_is_told_at_once(make: Callable[..., Executor]) -> None:
    with pytest.raises(EnvironmentFaultError, match="no room for 2 trials at once: they need licence 2 of 0"):
        make(n_slots=2, cluster=RayCluster(resources={"CPU": 0.25, "licence": 1.0}))
