"""What holds for every order of samples: stopped trainings go on exactly, a task can be tried and measured with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, from_dict
from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.tasks.base import Task
from autoaccel.trainer.data import load_split
from autoaccel.trainer.measure import measure_steps
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.preflight import preflight

ORDERS: dict[str, dict[str, Any]] = {
    "importance": {"data.sampling": "importance"},
    "infobatch": {"data.sampling": "infobatch", "data.prune_until": 0.7},
    "selective": {"data.sampling": "selective", "data.keep_from": 0.3, "data.keep_until": 0.7},
    "easy to hard": {"data.order": "easy_to_hard", "data.order_until": 0.7},
    "importance repeated": {"data.sampling": "importance", "data.repeats": 3},
    "selective repeated": {"data.sampling": "selective", "data.keep_from": 0.0, "data.repeats": 2},
}


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


@pytest.mark.parametrize("steps", [2, 4, 5, 9])
@pytest.mark.parametrize("kind", ORDERS)
def test_a_stopped_training_goes_on_bit_for_bit(
    run: Callable[..., Any], load: Callable[..., LoadedTask], tmp_path: Path, steps: int, kind: str
) -> None:
    """Batches of 28 do not divide the 96 samples of a pass: passes begin inside batches."""
    params = {**ORDERS[kind], "batch.size": 28, "batch.accumulation": 2, "horizon.samples": 336, "seed": 5}
    loaded = load(model=norm_net)
    whole = run(params, loaded)
    answers = iter([False] * (steps - 1) + [True])
    stopped = run(params, loaded, folder=tmp_path, stopped=lambda: next(answers))
    assert (stopped.ended.outcome, stopped.ended.steps) == ("stopped", steps)
    resumed = run(params, loaded, folder=tmp_path, resume=True)
    assert torch.equal(resumed.weights, whole.weights)
    assert resumed.ended.flops == whole.ended.flops
    assert [r.value for r in (*stopped.reports, *resumed.reports)] == [r.value for r in whole.reports]


@pytest.mark.parametrize("kind", ORDERS)
def test_a_baseline_with_it_is_tried_and_measured(
    make_task: Callable[..., Task], config: Callable[..., TrainerConfig], kind: str
) -> None:
    mine = config(ORDERS[kind])
    loaded, facts = preflight(make_task(baseline=mine))
    assert from_dict(facts["baseline"]) == mine
    room, own = Room(60.0, 1e12), {"adamw": {"optim.name": "adamw"}}
    found = measure_steps(loaded, mine, micro=[4, 8], dtypes=["fp32"], optimizers=own, room=room)
    assert [row["micro"] for row in found["micro"]] == [4, 8] and all("seconds" in row for row in found["micro"])


@pytest.mark.parametrize("kind", ["importance", "infobatch", "selective", "easy to hard"])
def test_a_baseline_that_the_task_cannot_use_is_refused_before_any_trial(
    make_task: Callable[..., Task], config: Callable[..., TrainerConfig], kind: str
) -> None:
    def step(model: nn.Module, batch: Any) -> dict[str, Any]:
        outputs = model(batch[0])
        return {"outputs": outputs, "targets": batch[1], "loss": nn.functional.cross_entropy(outputs, batch[1])}

    with pytest.raises(UsageError, match="it needs the loss of every sample, the task has a loss of its own"):
        preflight(make_task(baseline=config(ORDERS[kind]), step=step))


@pytest.mark.parametrize("kind", ORDERS)
def test_a_training_set_smaller_than_a_batch_will_do(
    run: Callable[..., Any], load: Callable[..., Any], kind: str
) -> None:
    inputs, labels = load().train.tensors
    done = run(ORDERS[kind], load(train=(inputs[:5], labels[:5])))
    assert done.ended.outcome == "finished" and done.ended.samples == 288


def test_losses_that_are_no_numbers_end_a_training_as_diverged(run: Callable[..., Any]) -> None:
    for params in ORDERS.values():
        assert run({**params, "optim.name": "sgd", "optim.lr": 1e30}).ended.outcome == "diverged"


def test_orders_that_are_known_ahead_neither_learn_nor_change() -> None:
    """What workers that read ahead rely on: such an order draws the same whatever it was told."""
    split = load_split((torch.zeros(20, 1), torch.arange(20) % 3), "train", torch.device("cpu"))
    for data in (Data(), Data(sampling="class_balanced"), Data(repeats=2), Data(echo=2)):
        order, other = new_order(split, data, 1), new_order(split, data, 1)
        order.learn(torch.arange(20), torch.arange(20.0))
        assert data.known_ahead and not order.wants_losses
        assert torch.equal(order.draw(30, 40, 0.9).indices, other.draw(30, 40, 0.0).indices)
    changed = [Data(sampling=kind) for kind in ("importance", "infobatch", "selective")]
    assert not any(data.known_ahead for data in (*changed, replace(Data(), order="easy_to_hard")))
