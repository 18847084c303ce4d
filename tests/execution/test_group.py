"""Several processes train as one does, and end as one."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from autoaccel.config import TrainerConfig, to_dict, with_params
from autoaccel.execution.group import Groups
from autoaccel.execution.local import LocalExecutor, TaskSource
from autoaccel.hardware.profile import usable_cores
from autoaccel.sections import Parallel
from autoaccel.training import TrainResult, train
from autoaccel.trial import Ended, Report, Target, TrialSpec
from tests.kits import parallel_task
from tests.kits.executor_contract import ends, run, until
from tests.kits.patience import eventually

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(usable_cores() < 2, reason="needs two cores"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="relies on Linux"),
]
N_STEPS, BATCH = 20, 25  # an odd batch: its parts are of different sizes
_numbers = iter(range(1, 1000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("group")
    shutil.copy(ROOT / "tests" / "kits" / "parallel_task.py", folder / "parallel_task.py")
    return folder


@pytest.fixture(scope="module")
def executor(folder: Path) -> Iterator[LocalExecutor]:
    """One for all: trainings of equal sizes share a group."""
    executor = LocalExecutor(TaskSource(f"{folder / 'parallel_task.py'}:task"), folder / "worker.log")
    yield executor
    executor.close()


def spec(strategy: str, target: float | None = None, n_steps: int = N_STEPS, **others: Any) -> TrialSpec:
    base = {
        "parallel.strategy": strategy,
        "batch.size": BATCH,
        "horizon.samples": n_steps * BATCH,
        "evaluate.every_samples": BATCH,
        "evaluate.batch": 16,
        "optim.lr": 0.1 if others.get("optim.name") == "sgd" else 0.01,
    }
    config = with_params(TrainerConfig(), {**base, **others})
    wanted = None if target is None else Target.at_least(target)
    return TrialSpec(next(_numbers), "train", config, wanted, test=True)


def trained(executor: LocalExecutor, *args: Any, **others: Any) -> tuple[list[Report], Ended]:
    reports, ended = run(executor, spec(*args, **others))
    assert ended.outcome == "finished", ended.message
    return reports, ended


CASES = [
    ("ddp", {}),
    ("ddp", {"batch.accumulation": 3, "optim.clip": 0.1, "parallel.bucket_mb": 0.01}),
    ("ddp", {"optim.name": "sgd", "optim.sam_rho": 0.05, "average.name": "ema"}),
    ("fsdp2", {}),
    ("fsdp2", {"batch.accumulation": 3, "optim.name": "sgd", "optim.clip": 1.0, "memory.checkpointing": "full"}),
    ("fsdp2", {"parallel.offload": "host"}),
    ("tensor", {}),
    ("tensor", {"batch.accumulation": 2, "memory.checkpointing": "selective"}),
    ("pipeline", {}),
    ("pipeline", {"batch.accumulation": 5, "optim.name": "sgd"}),
]


@pytest.mark.parametrize(("strategy", "others"), CASES, ids=[f"{s}-{i}" for i, (s, _) in enumerate(CASES)])
def test_several_processes_give_the_losses_of_one(
    executor: LocalExecutor, strategy: str, others: dict[str, Any]
) -> None:
    alone = {path: value for path, value in others.items() if not path.startswith("parallel.")}
    one, one_ended = trained(executor, "none", **alone)
    several, ended = trained(executor, strategy, **others)
    assert len(one) == len(several) == N_STEPS
    assert one[-1].loss < 0.9 * one[0].loss  # it learned something
    assert [r.loss for r in several] == pytest.approx([r.loss for r in one], rel=1e-4)
    assert [(r.steps, r.samples, r.flops) for r in several] == [(r.steps, r.samples, r.flops) for r in one]
    assert [r.value for r in several] == pytest.approx([r.value for r in one], abs=0.021)  # one sample of 50
    assert ended.facts["test_value"] == pytest.approx(one_ended.facts["test_value"], abs=0.033)
    assert ended.flops == one_ended.flops
    assert ended.cpu_s is None is not one_ended.cpu_s


def test_what_a_strategy_does_to_a_step_is_measured_beside_steps_of_one_process(executor: LocalExecutor) -> None:
    plain = spec("none").config
    assert plain is not None
    probe = {
        "config": to_dict(plain),
        "params": {"parallel.strategy": "fsdp2"},
        "blocks": {"sizes": [8, 24], "points": 2, "rounds": 3, "warm": 0, "compiles": False},
        "room": {"seconds": 60.0, "flops": 1e15},
    }
    _, ended = run(executor, TrialSpec(next(_numbers), "effect", probe=probe))
    assert ended.outcome == "done", ended.message
    assert ended.facts["sizes"] == [8, 24] and ended.facts["failed"] == ""
    assert all(seconds > 0 for name in ("plain_s", "changed_s") for seconds in ended.facts[name])
    assert ended.facts["flops_ratio"] == 1.0
    trained(executor, "fsdp2")  # the group is fit for the next


def test_items_of_different_numbers_in_each_part_are_weighed(folder: Path) -> None:
    """A task's own step says how many items each part of a batch has."""
    groups = Groups(f"{folder / 'parallel_task.py'}:counting")
    losses = {}
    try:
        for strategy in ("ddp", "fsdp2"):
            reports: list[Report] = []
            ended = groups.run(spec(strategy, **{"batch.accumulation": 2}), reports.append)
            assert ended.outcome == "finished", ended.message
            losses[strategy] = [r.loss for r in reports]
    finally:
        groups.close()
    alone = spec("none", **{"batch.accumulation": 2}).config
    assert alone is not None
    losses["none"] = [r.loss for r in train(parallel_task.counting(), alone).reports]
    assert losses["ddp"] == pytest.approx(losses["none"], rel=1e-4)
    assert losses["fsdp2"] == pytest.approx(losses["none"], rel=1e-4)


# ------------------------------------------------------------------------------------------------------ one for all


def ranks() -> list[psutil.Process]:
    """The processes of groups below this one, dead ones not counted."""
    below = psutil.Process().children(recursive=True)
    return [p for p in below if p.status() != psutil.STATUS_ZOMBIE and "autoaccel.execution.rank" in str(p.cmdline())]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def endless(strategy: str) -> TrialSpec:
    return spec(strategy, target=1.0, n_steps=10**6)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_trial_once_and_the_next_is_clean(
    executor: LocalExecutor, folder: Path, victim: int
) -> None:
    before, _ = trained(executor, "ddp")
    group = ranks()
    assert len(group) == 2
    wish = folder / f"kill.{victim}"
    wish.touch()
    failing = spec("ddp")
    try:
        reports, ended = run(executor, failing)
    finally:
        wish.unlink()
    assert (reports, ended.outcome) == ([], "crashed")
    assert ended.message == f"process {victim} of 2 died: signal SIGKILL"
    assert eventually(lambda: gone(group))
    after, _ = trained(executor, "ddp")
    assert [r.loss for r in after] == [r.loss for r in before]
    assert len(ranks()) == 2 and not {p.pid for p in ranks()} & {p.pid for p in group}


def test_no_process_outlives_a_killed_worker(executor: LocalExecutor) -> None:
    trial = endless("ddp")
    executor.start(trial)
    until(executor, bool)
    group = ranks()
    worker = psutil.Process(group[0].ppid())
    os.kill(worker.pid, signal.SIGKILL)
    (ended,) = ends(until(executor, ends))
    assert (ended.outcome, ended.message) == ("crashed", "the worker process died: signal SIGKILL")
    assert ended.steps > 0
    assert len(group) == 2 and eventually(lambda: gone(group))


def test_a_group_is_stopped_capped_and_killed_as_one_process_is(executor: LocalExecutor) -> None:
    stopped = endless("fsdp2")
    executor.start(stopped)
    until(executor, bool)
    executor.stop(stopped.trial)
    assert ends(until(executor, ends))[0].outcome == "stopped"
    group = ranks()
    capped = replace(endless("pipeline"), cap_s=0.5)
    _, ended = run(executor, capped)
    assert ended.outcome == "capped" and ended.elapsed_s >= 0.5
    assert ranks() == group  # a trial that was cut leaves them fit for the next
    killed = endless("tensor")
    executor.start(killed)
    until(executor, bool)
    executor.kill(killed.trial)
    assert ends(until(executor, ends))[0].outcome == "timeout"
    assert eventually(lambda: gone(group))


def test_what_only_one_process_needs_runs_without_a_group(executor: LocalExecutor) -> None:
    trained(executor, "none")
    assert not ranks()


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"parallel.n_processes": 4096, "batch.size": 8192}, "for 4096 processes"),
        ({"model.init": "whitening"}, "model.init"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    executor: LocalExecutor, others: dict[str, Any], reason: str
) -> None:
    """The first would need as many processes as devices, the second fails in all of them alike."""
    _, ended = run(executor, spec("ddp", **others))
    assert ended.outcome == "refused" and reason in ended.message
    assert ended.facts["hint"]


# ------------------------------------------------------------------------------------------------ outside the tuner


def weights_of(result: TrainResult) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "tensor", "pipeline"])
def test_a_training_outside_the_tuner_gives_its_model_and_goes_on_from_a_checkpoint(
    strategy: str, tmp_path: Path
) -> None:
    """The task is given as an object, whose module the processes could not import by themselves."""
    config = spec(strategy, n_steps=3 * N_STEPS, **{"optim.name": "sgd"}).config
    assert config is not None

    def stop(report: Report) -> None:
        if report.steps == 1:
            os.kill(os.getpid(), signal.SIGINT)

    half = train(parallel_task.task(), config, run_dir=tmp_path, report=stop)
    assert (half.outcome, half.signal) == ("stopped", signal.SIGINT)
    assert not (tmp_path / "model.safetensors").exists()
    rest = train(parallel_task.task(), config, run_dir=tmp_path, resume=True)
    assert rest.outcome == "finished"
    assert [r.steps for r in (*half.reports, *rest.reports)] == list(range(1, 3 * N_STEPS + 1))
    alone = train(parallel_task.task(), replace(config, parallel=Parallel()))
    torch.testing.assert_close(weights_of(rest), weights_of(alone), atol=1e-4, rtol=1e-3)
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in rest.model.state_dict().items())
