"""What is decided before several processes train: parts of a batch, stages, plans, and what excludes each other.

That they train what one trains is tested in execution/test_group.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.tasks.base import ParallelPlan, Task
from autoaccel.tasks.nets import LanguageModel
from autoaccel.tasks.text import Text
from autoaccel.trainer.applicability import unavailable
from autoaccel.trainer.build import build, load_data, new_model
from autoaccel.trainer.losses import loss_of
from autoaccel.trainer.parts import LoadedTask, Spread
from autoaccel.trainer.team import Team, too_few_devices
from autoaccel.trainer.techniques.data_parallel import replicated, sharded
from autoaccel.trainer.techniques.model_parallel import by_matrices, by_stages, cuts
from tests.kits import parallel_task

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("size", [7, 24, 25])
def test_parts_make_the_batch_and_differ_by_one_sample_at_most(n: int, size: int) -> None:
    parts = [list(range(size))[Team(rank, n).part(size)] for rank in range(n)]
    assert [i for part in parts for i in part] == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_all_processes_have_as_many_micro_batches() -> None:
    batch = with_params(TrainerConfig(), {"batch.size": 25, "batch.accumulation": 6}).batch
    for size in (3, 7, 12, 25, 60):
        n = Spread(Team(0, 3), splits_batches=True).n_pieces(batch, size)
        assert 1 <= n <= size // 3


@pytest.mark.parametrize(
    ("widths", "n", "ends"), [([1, 1, 1, 1], 2, [2, 4]), ([9, 1, 1, 1], 2, [1, 4]), ([1, 1, 1, 9], 3, [2, 3, 4])]
)
def test_stages_have_about_as_many_parameters(widths: list[int], n: int, ends: list[int]) -> None:
    assert cuts([nn.Linear(10, 10 * width) for width in widths], n) == ends


# ------------------------------------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    "params",
    [
        {"parallel.strategy": "ddp", "parallel.n_processes": 8, "batch.size": 7},
        {"parallel.strategy": "ddp", "parallel.n_processes": 8, "batch.size": 16, "batch.ramp": 0.5},
        {"parallel.strategy": "ddp", "data.sampling": "importance"},
        {"parallel.strategy": "ddp", "model.freeze": 0.5},
        {"parallel.strategy": "ddp", "parallel.offload": "host"},
        {"parallel.strategy": "fsdp2", "optim.name": "muon"},
        {"parallel.strategy": "fsdp2", "optim.sam_rho": 0.1},
        {"parallel.strategy": "fsdp2", "average.name": "ema"},
        {"parallel.strategy": "fsdp2", "precision.dtype": "fp16"},
        {"parallel.strategy": "tensor", "optim.clip": 1.0},
        {"parallel.strategy": "pipeline", "compile.mode": "default"},
        {"parallel.strategy": "pipeline", "batch.ramp": 0.5},
        {"parallel.strategy": "pipeline", "curriculum.sequence": 0.5},
    ],
)
def test_what_excludes_a_strategy_is_said_with_both(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"parallel\.") as caught:
        with_params(TrainerConfig(), params)
    assert caught.value.hint.startswith("Set ")
    assert with_params(TrainerConfig(), {**params, "parallel.strategy": "none", "parallel.offload": "none"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("parallel.strategy", "zero"),
        ("parallel.n_processes", 1),
        ("parallel.bucket_mb", 0.0),
        ("parallel.offload", "disk"),
    ],
)
def test_wrong_values_are_refused(path: str, value: Any) -> None:
    with pytest.raises(UsageError, match=path):
        with_params(TrainerConfig(), {path: value})


def test_a_task_without_a_plan_has_no_part_of_a_model(load: Callable[..., LoadedTask]) -> None:
    loaded = load()
    rows = {(row["path"], *(row["values"] or ())): row["reason"] for row in unavailable(loaded, new_model(loaded))}
    assert "no plan" in rows["parallel.strategy", "tensor"] and "no plan" in rows["parallel.strategy", "pipeline"]
    planned = load_data(parallel_task.task(step=lambda model, batch: {}), CPU)
    rows = {(row["path"], *(row["values"] or ())): row["reason"] for row in unavailable(planned, new_model(planned))}
    assert ("parallel.strategy", "tensor") not in rows
    assert "step of its own" in rows["parallel.strategy", "pipeline"]


def test_more_processes_than_devices_are_too_many() -> None:
    assert "for 4096 processes" in too_few_devices(4096, CPU)
    assert not too_few_devices(1, CPU)


def test_a_training_of_several_processes_does_not_begin_in_one(
    load: Callable[..., LoadedTask], config: Callable[..., TrainerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoaccel.trainer.applicability.too_few_devices", lambda n, device: "")
    with pytest.raises(UsageError, match="2 processes in a team of 1"):
        build(load(), config({"parallel.strategy": "ddp"}))


@pytest.mark.parametrize(
    "fields", [{"tensor": {"a": "diagonal"}}, {"stages": 3}], ids=["no way to cut", "stages that are no function"]
)
def test_a_plan_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="ParallelPlan"):
        ParallelPlan(**fields)
    with pytest.raises(UsageError, match="plan"):
        Task(name="x", model=nn.Identity, train=(), validation=(), plan=fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [({"blocks.*.middle": "columns"}, "no linear layer is called"), ({"head.classes": "columns"}, "3 outputs")],
)
def test_a_plan_that_does_not_fit_the_model_is_refused(tensor: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        by_matrices(parallel_task.Transformer(), ParallelPlan(tensor=tensor), Team(0, 2), CPU)


def test_fewer_modules_than_stages_are_refused() -> None:
    plan = ParallelPlan(stages=lambda model: [model])
    with pytest.raises(UsageError, match="1 modules cannot be cut into 2 stages"):
        by_stages(nn.Linear(2, 2), plan, Team(0, 2), loss_of(parallel_task.task()), torch.no_grad)


# ------------------------------------------------------------------------------------------ what a setting comes to


@pytest.fixture
def team_of_one(tmp_path: Path) -> Iterator[Team]:
    """A process group of this process alone: what torch is given can be looked at."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield Team(0, 1)
    dist.destroy_process_group()


def test_the_size_of_a_bucket_is_torchs(team_of_one: Team) -> None:
    called: Any = replicated(nn.Linear(2, 2), team_of_one, 0.5).called
    assert called.bucket_bytes_cap == 2**19


def test_offloading_is_fsdps_policy_and_has_no_effect_on_a_cpu_but_to_run(team_of_one: Team) -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy

    for offload in ("none", "host"):
        model: Any = parallel_task.Transformer()
        sharded(model, team_of_one, CPU, offload)
        groups = [m._get_fsdp_state()._fsdp_param_group for m in (model, *model.blocks)]
        assert [isinstance(g.offload_policy, CPUOffloadPolicy) for g in groups] == [offload == "host"] * 3


def test_the_language_models_stages_compute_what_it_does(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be " * 400)
    task = Text(text=tmp_path / "text.txt", context=16).task()
    assert task.plan is not None and task.plan.stages is not None
    model: Any = task.model()
    assert isinstance(model, LanguageModel)
    x = torch.randint(5, (3, 16))
    found = x
    stages = task.plan.stages(model)
    for stage in stages:
        found = stage(found)
    assert torch.equal(found, model(x))
    own = {id(p) for stage in stages for p in stage.parameters()}
    assert own == {id(p) for p in model.parameters()}
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert {"blocks.0.hidden", "blocks.0.out"} <= set(layers)
