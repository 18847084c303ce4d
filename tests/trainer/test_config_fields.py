"""Every field of TrainerConfig changes the training: no option is silently ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, to_params
from autoaccel.sections import KERNELS
from autoaccel.trainer.parts import LoadedTask

WITHOUT_BETA2 = ("sgd", "lars", "schedule_free_sgd")
SGD, LINEAR = {"optim.name": "sgd"}, {"schedule.name": "linear"}
INFOBATCH, EASY_TO_HARD = {"data.sampling": "infobatch"}, {"data.order": "easy_to_hard"}
SELECTIVE = {"data.sampling": "selective"}

CHANGES: list[tuple[str, Any, dict[str, Any]]] = [
    ("batch.size", 48, {}),
    ("batch.ramp", 0.5, {}),
    *[("optim.name", name, {}) for name in KERNELS if name != "adamw"],
    *[("optim.lr", 0.02, {"optim.name": name}) for name in KERNELS],
    *[("optim.weight_decay", 0.5, {"optim.name": name}) for name in KERNELS],
    *[("optim.momentum", 0.5, {"optim.name": name}) for name in KERNELS],
    *[("optim.beta2", 0.5, {"optim.name": name}) for name in KERNELS if name not in WITHOUT_BETA2],
    ("optim.clip", 0.1, {}),
    ("optim.clip", 0.1, SGD),
    ("optim.lr_scaling", "linear", {}),
    ("optim.sam_rho", 0.1, {}),
    ("optim.sam_rho", 0.2, {"optim.sam_rho": 0.1}),
    ("optim.sam_every", 2, {"optim.sam_rho": 0.1}),
    ("optim.lr_scaling", "sqrt", {}),
    ("schedule.name", "linear", {}),
    ("schedule.name", "cosine", {}),
    ("schedule.name", "cosine", LINEAR),
    *[("schedule.name", name, {"schedule.name": "cosine"}) for name in ("rex", "wsd", "one_cycle")],
    *[("schedule.name", "one_cycle", {"optim.name": name, "schedule.name": "cosine"}) for name in ("sgd", "muon")],
    *[("schedule.warmup", 0.5, {"schedule.name": name}) for name in ("rex", "wsd", "one_cycle")],
    ("schedule.cooldown", 0.4, {"schedule.name": "wsd"}),
    ("schedule.warmup", 0.5, {}),
    ("schedule.warmup", 0.5, LINEAR),
    *[("average.name", name, {"average.window": 0.5}) for name in ("ema", "lawa", "swa", "lookahead")],
    ("average.half_life", 0.2, {"average.name": "ema"}),
    ("average.window", 0.5, {"average.name": "lawa"}),
    ("average.window", 0.5, {"average.name": "swa"}),
    ("average.every", 2, {"average.name": "lookahead"}),
    ("data.sampling", "class_balanced", {}),
    ("data.sampling", "importance", {}),
    ("data.sampling", "infobatch", {}),
    ("data.prune", 0.3, INFOBATCH),
    ("data.prune_until", 0.5, INFOBATCH),
    ("data.sampling", "selective", {}),
    ("data.keep", 0.25, SELECTIVE),
    ("data.keep_from", 0.2, SELECTIVE),
    ("data.keep_until", 0.7, SELECTIVE),
    ("data.repeats", 2, {}),
    ("data.order", "easy_to_hard", {}),
    ("data.order_until", 0.9, EASY_TO_HARD),
    ("regularize.label_smoothing", 0.1, {}),
    ("regularize.objective", "binary_cross_entropy", {}),
    ("regularize.label_smoothing", 0.1, {"regularize.objective": "binary_cross_entropy"}),
    ("precision.dtype", "bf16", {}),
    ("precision.dtype", "fp16", {}),
    ("regularize.dropout", 0.5, {}),
    ("regularize.dropout", 0.0, {}),
    ("model.freeze", 0.5, {}),
    ("horizon.samples", 192, {}),
    ("horizon.steps", 5, {}),
    ("seed", 1, {}),
]
"""Fields that change the final weights: path, another value, what else is set."""

OTHERWISE = {
    "batch.accumulation": "below",
    "evaluate.every_samples": "below",
    "evaluate.batch": "test_evaluate.py",
    "horizon.seconds": "test_loop.py",
    "horizon.flops": "test_loop.py",
    "precision.matmul": "test_process.py",
    "memory.format": "test_memory.py",
    "memory.checkpointing": "test_memory.py",
    "memory.offload": "test_memory.py",
    "memory.budget": "test_compile.py",
    "model.init": "test_model.py",
    "model.drop_path": "test_model.py",
    "model.drop_path_ramp": "test_model.py",
    "model.lora_rank": "test_model.py",
    "compile.mode": "test_compile.py",
    "system.threads": "test_process.py",
    "system.cudnn_benchmark": "test_process.py",
    "system.attention": "test_process.py",
    **dict.fromkeys(
        (f"parallel.{name}" for name in ("strategy", "n_processes", "bucket_mb", "offload")),
        "test_spread.py, ../execution/test_group.py",
    ),
    **dict.fromkeys(("loader.workers", "loader.prefetch", "loader.pin"), "techniques/test_loader.py"),
    **dict.fromkeys(("optim.kernel", "optim.state"), "test_optimizers.py"),
    "data.echo": "techniques/test_echo.py",
    **dict.fromkeys(
        (f"augment.{name}" for name in ("flip", "translate", "cutout", "policy", "level", "mixup", "cutmix")),
        "test_prepare.py",
    ),
    **dict.fromkeys((f"curriculum.{name}" for name in ("resolution", "sequence", "until", "batch")), "test_prepare.py"),
}
"""Fields with an effect of another kind, or on other models only, and where it is tested."""


def test_every_field_is_tested_here() -> None:
    assert {path for path, _, _ in CHANGES} | OTHERWISE.keys() == set(to_params(TrainerConfig()))


@pytest.mark.parametrize(("path", "value", "others"), CHANGES, ids=[f"{p}={v}{'+' * bool(o)}" for p, v, o in CHANGES])
def test_a_field_changes_the_weights(run: Callable[..., Any], path: str, value: Any, others: dict[str, Any]) -> None:
    before, again, after = run(others), run(others), run({**others, path: value})
    assert before.ended.outcome == after.ended.outcome == "finished"
    assert torch.equal(before.weights, again.weights)
    assert not torch.equal(before.weights, after.weights)


@pytest.mark.parametrize("optimizer", KERNELS)
def test_weight_decay_spares_biases(run: Callable[..., Any], optimizer: str) -> None:
    """At a decay that pulls every weight to zero in one step, biases still move by the gradient alone."""
    params = {"optim.name": optimizer, "optim.weight_decay": 100.0, "optim.lr": 0.01, "horizon.samples": 24}
    params["evaluate.every_samples"] = 24
    with_decay, without = run(params), run({**params, "optim.weight_decay": 0.0})
    for decayed, plain in zip(with_decay.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(decayed, plain) == (plain.ndim < 2)


class Watcher(nn.Module):
    """Notes how many samples it is given in training, and in which precision it computes."""

    def __init__(self, seen: list[tuple[int, torch.dtype]]) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(6, 3), seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        if self.training:
            self.seen.append((len(x), out.dtype))
        return out


@pytest.mark.parametrize(("accumulation", "pieces"), [(1, [24]), (2, [12, 12]), (3, [8, 8, 8]), (5, [5, 5, 5, 5, 4])])
def test_accumulation_bounds_what_is_on_the_device_at_once(
    run: Callable[..., Any], load: Callable[..., LoadedTask], accumulation: int, pieces: list[int]
) -> None:
    seen: list[tuple[int, torch.dtype]] = []
    run({"batch.accumulation": accumulation}, load(model=lambda: Watcher(seen)))
    assert seen == [(n, torch.float32) for n in pieces] * 12


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(run: Callable[..., Any], load: Callable[..., LoadedTask]) -> None:
    seen: list[tuple[int, torch.dtype]] = []
    done = run({"precision.dtype": "bf16"}, load(model=lambda: Watcher(seen)))
    assert {dtype for _, dtype in seen} == {torch.bfloat16}
    assert done.weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("every", "at"), [(96, [96, 192, 288]), (24, list(range(24, 289, 24))), (100, [120, 216, 288]), (10**6, [288])]
)
def test_evaluations_come_every_so_many_samples_and_at_the_end(
    run: Callable[..., Any], every: int, at: list[int]
) -> None:
    assert [r.samples for r in run({"evaluate.every_samples": every}).reports] == at


def test_a_batch_may_be_larger_than_the_training_set(run: Callable[..., Any]) -> None:
    assert run({"batch.size": 200, "horizon.samples": 600}).ended.samples == 600
