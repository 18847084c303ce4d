"""Selective backprop: a step looks at more samples than it trains on, and takes those with the largest losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.errors import UsageError
from autoaccel.sections import Data
from autoaccel.trainer.build import build
from autoaccel.trainer.data import load_split
from autoaccel.trainer.flops import step_flops
from autoaccel.trainer.loop import optimizer_step
from autoaccel.trainer.order import new_order
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.techniques.selective import hardest, n_candidates

SELECTIVE = {"data.sampling": "selective"}
Make = Callable[..., TrainerConfig]
Load = Callable[..., LoadedTask]


def norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def loss_of_all(loaded: LoadedTask, parts: Parts) -> torch.Tensor:
    """Of every training sample, in evaluation mode."""
    parts.model.eval()
    with torch.no_grad():
        inputs, labels = loaded.train.take(torch.arange(loaded.train.n))
        losses = nn.functional.cross_entropy(parts.model(inputs), labels, reduction="none")
    parts.model.train()
    return losses


@settings(max_examples=100)
@given(st.integers(1, 500), st.floats(0.1, 0.99), st.floats(0, 1))
def test_candidates_are_as_many_as_the_share_says_inside_the_interval(size: int, keep: float, done: float) -> None:
    data = Data(sampling="selective", keep=keep, keep_from=0.25, keep_until=0.75)
    n = n_candidates(data, size, done)
    assert n == size if not 0.25 <= done < 0.75 else abs(n * keep - size) <= keep / 2 + 1e-9
    assert n_candidates(replace(data, sampling="uniform"), size, done) == size


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 30), st.sampled_from([0.25, 0.33, 0.5, 0.9]), st.integers(0, 9))
def test_candidates_of_consecutive_steps_follow_each_other(n: int, size: int, keep: float, first: int) -> None:
    split = load_split((torch.zeros(n, 1), torch.arange(n)), "train", torch.device("cpu"))
    plain = new_order(split, Data(), 7)
    order = new_order(split, Data(sampling="selective", keep=keep, keep_from=0.0), 7)
    n_looks = round(size / keep)
    whole = plain.draw(first * n_looks, 3 * n_looks, 0.0).indices
    steps = [order.draw((first + k) * size, size, 0.5).indices for k in range(3)]
    assert torch.equal(torch.cat(steps), whole)
    assert torch.equal(order.draw(first * size, size, 0.95).indices, plain.draw(first * size, size, 0.95).indices)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("keep", [0.25, 0.5])
def test_those_with_the_largest_losses_are_kept(load: Load, config: Make, keep: float, accumulation: int) -> None:
    loaded = load(model=norm_net)
    params = {**SELECTIVE, "data.keep": keep, "data.keep_from": 0.0, "batch.accumulation": accumulation}
    parts = build(loaded, config(params))
    losses, step = loss_of_all(loaded, parts), Step(0, 0, 0.5, 24)
    seen = parts.order.draw(0, 24, 0.5)
    kept = hardest(loaded.task, parts, step, seen)
    assert (len(seen.indices), len(kept.indices), len(kept.indices.unique())) == (round(24 / keep), 24, 24)
    left = seen.indices[~torch.isin(seen.indices, kept.indices)]
    assert float(losses[left].max()) <= float(losses[kept.indices].min()) + 1e-6
    where = [seen.indices.tolist().index(i) for i in kept.indices.tolist()]
    assert where == sorted(where), "the order is that of the draw, so that micro-batches are alike"
    inputs, labels = loaded.train.take(kept.indices)
    assert torch.equal(kept.batch[0], inputs) and torch.equal(kept.batch[1], labels)


def test_looking_leaves_no_trace(load: Load, config: Make) -> None:
    loaded = load(model=norm_net)
    parts = build(loaded, config({**SELECTIVE, "data.keep_from": 0.0}))
    parts.model.train()
    before, random = {k: v.clone() for k, v in parts.model.state_dict().items()}, torch.get_rng_state()
    hardest(loaded.task, parts, Step(0, 0, 0.5, 24), parts.order.draw(0, 24, 0.5))
    assert all(torch.equal(v, before[k]) for k, v in parts.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert parts.model.training and all(p.grad is None for p in parts.model.parameters())


class Noted(nn.Module):
    """Writes down in which mode how many samples it is given."""

    def __init__(self, seen: list[tuple[bool, int]]) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(6, 3), seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((torch.is_grad_enabled(), len(x)))
        out: torch.Tensor = self.layer(x)
        return out


def test_a_step_looks_and_trains_within_the_interval_only(run: Callable[..., Any], load: Load) -> None:
    """Twelve steps of 24, from a half to three quarters of them choosing; nothing is on the device beyond a piece."""
    seen: list[tuple[bool, int]] = []
    params = {**SELECTIVE, "data.keep_until": 0.75, "batch.accumulation": 2, "evaluate.every_samples": 288}
    done = run(params, load(model=lambda: Noted(seen)))
    plain = [(True, 12)] * 2
    choosing = [(False, 12)] * 4 + plain
    assert seen[:-1] == plain * 6 + choosing * 3 + plain * 3
    assert (done.ended.samples, done.ended.steps) == (288, 12)


def test_what_was_prepared_for_the_look_is_what_is_trained_on(load: Load, config: Make) -> None:
    """An augmentation that differs each time it is asked would otherwise be trained on another view."""
    seen: list[tuple[bool, int]] = []
    loaded, calls = load(model=lambda: Noted(seen)), [0]

    def prepare(batch: Any, _indices: torch.Tensor, _step: Step) -> Any:
        calls[0] += 1
        return batch[0] * 0 + calls[0], batch[1]

    parts = build(loaded, config({**SELECTIVE, "data.keep_from": 0.0, "batch.accumulation": 2}))
    given_inputs: list[torch.Tensor] = []
    parts.model.register_forward_pre_hook(lambda _, x: given_inputs.append(x[0]) if torch.is_grad_enabled() else None)
    optimizer_step(loaded, replace(parts, prepare=prepare), Step(0, 0, 0.5, 24))
    assert calls == [4], "48 candidates in pieces of 12, and no more"
    assert set(torch.cat(given_inputs).flatten().tolist()) <= {1.0, 2.0, 3.0, 4.0}


def test_flops_count_the_looks(load: Load, config: Make, run: Callable[..., Any]) -> None:
    """10 per sample trained on and 5 per sample looked at (300 for 60 samples of validation); 48 looks a step."""
    chosen = config(SELECTIVE)
    assert step_flops(load(), chosen, Step(0, 0, 0.4, 24)) == 240
    assert step_flops(load(), chosen, Step(0, 0, 0.5, 24)) == 240 + 48 * 5
    assert step_flops(load(), config(), Step(0, 0, 0.5, 24)) == 240
    done = run({**SELECTIVE, "data.keep_until": 0.75})
    assert done.ended.flops == run().ended.flops + 3 * 48 * 5


def test_pieces_give_the_step_of_the_whole(load: Load, config: Make) -> None:
    results = []
    for pieces in (1, 2, 5):
        torch.manual_seed(0)
        loaded = load(model=lambda: nn.Linear(6, 3))
        parts = build(loaded, config({**SELECTIVE, "data.keep_from": 0.0, "batch.accumulation": pieces}))
        loss = optimizer_step(loaded, parts, Step(0, 0, 0.5, 24))
        results.append((float(loss), torch.cat([p.detach().flatten() for p in parts.model.parameters()])))
    for loss_value, weights in results[1:]:
        assert loss_value == pytest.approx(results[0][0], abs=1e-6)
        torch.testing.assert_close(weights, results[0][1], atol=1e-5, rtol=0)


def test_batches_may_be_dicts(load: Load, config: Make) -> None:
    def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"outputs": model(batch["x"]), "targets": batch["labels"]}

    plain = load()
    data = {"x": plain.train.tensors[0], "labels": plain.train.tensors[1]}
    loaded = load(train=data, validation=data, step=step, model=lambda: nn.Linear(6, 3))
    parts = build(loaded, config({**SELECTIVE, "data.keep_from": 0.0, "batch.accumulation": 2}))
    kept = hardest(loaded.task, parts, Step(0, 0, 0.5, 24), parts.order.draw(0, 24, 0.5))
    assert torch.equal(kept.batch["x"], data["x"][kept.indices])
    assert float(optimizer_step(loaded, parts, Step(0, 0, 0.5, 24))) > 0


def test_a_task_with_a_loss_of_its_own_is_refused(run: Callable[..., Any], load: Load) -> None:
    loaded = load(loss=lambda outputs, targets: nn.functional.cross_entropy(outputs, targets))
    with pytest.raises(UsageError, match=r"data\.sampling 'selective': it needs the loss of every sample"):
        run(SELECTIVE, loaded)
