"""Sharpness-aware minimization: the gradient from up the slope, and no other trace of having been there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.trainer.build import build
from autoaccel.trainer.loop import gradients, optimizer_step
from autoaccel.trainer.parts import LoadedTask, Step
from autoaccel.trainer.techniques.sharpness import climbed

Runner = Callable[..., Any]
Loader = Callable[..., LoadedTask]


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_the_climb_has_its_length_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    net = batch_norm_net()
    net(torch.randn(10, 6)).square().sum().backward()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    slope = torch.cat([p.grad.flatten() for p in net.parameters()])
    with climbed(net, 0.3):
        moved = torch.cat([(p - before[name]).flatten() for name, p in net.named_parameters()]).detach()
        assert float(moved.norm()) == pytest.approx(0.3, rel=1e-4)
        assert float(moved @ slope / slope.norm()) == pytest.approx(0.3, rel=1e-4), "along the gradient"
        assert all(p.grad is None for p in net.parameters())
        net(torch.randn(10, 6)).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is not None for p in net.parameters())


def test_a_step_descends_with_the_gradient_of_up_there(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    """By hand: SGD's first step is lr x (1 + momentum) x the gradient at w + rho g / |g|, on the same samples."""
    loaded = load(model=batch_norm_net)
    torch.manual_seed(0)
    parts = build(loaded, config({"optim.name": "sgd", "optim.lr": 1.0, "optim.sam_rho": 0.5}))
    other = batch_norm_net()
    other.load_state_dict(parts.model.state_dict())
    step = Step(0, 0, 0.0, 24)
    optimizer_step(loaded, parts, step)

    inputs, labels = loaded.train.take(parts.order.draw(0, 24, 0.0).indices)
    start = [p.detach().clone() for p in other.parameters()]
    nn.functional.cross_entropy(other(inputs), labels).backward()
    norm = torch.cat([p.grad.flatten() for p in other.parameters()]).norm()
    with torch.no_grad():
        for p in other.parameters():
            p += 0.5 * p.grad / norm
            p.grad = None
    running = other[1].running_mean.clone()
    nn.functional.cross_entropy(other(inputs), labels).backward()
    for ours, begin, theirs in zip(parts.model.parameters(), start, other.parameters(), strict=True):
        assert torch.allclose(ours, begin - 1.9 * theirs.grad, atol=1e-5)
    assert torch.equal(parts.model[1].running_mean, running), "statistics are those of the first pass"


@pytest.mark.parametrize(("every", "extra"), [(1, 12), (3, 4), (5, 3), (100, 1)])
def test_flops_count_the_second_gradient(run: Runner, every: int, extra: int) -> None:
    """Twelve steps of 24 samples at 10 FLOPs each."""
    plain = run().ended.flops
    assert run({"optim.sam_rho": 0.1, "optim.sam_every": every}).ended.flops == plain + extra * 240


def test_the_sampling_learns_from_the_first_pass_only(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    from dataclasses import replace

    class Learning:
        wants_losses = True

        def __init__(self, inner: Any) -> None:
            self.inner, self.learned = inner, list[torch.Tensor]()

        def draw(self, position: int, size: int, done: float) -> Any:
            return self.inner.draw(position, size, done)

        def learn(self, indices: torch.Tensor, losses: torch.Tensor) -> None:
            self.learned.append(losses)

    loaded = load(model=batch_norm_net)
    parts = build(loaded, config({"optim.sam_rho": 5.0}))
    order = Learning(parts.order)
    parts = replace(parts, order=order)
    expected = gradients(loaded, parts, Step(0, 0, 0.0, 24), parts.order.draw(0, 24, 0.0), learn=False)
    parts.optimizer.zero_grad()
    optimizer_step(loaded, parts, Step(0, 0, 0.0, 24))
    (losses,) = order.learned
    assert float(losses.mean()) == pytest.approx(float(expected))


def test_a_stopped_training_goes_on_bit_for_bit(run: Runner, load: Loader, tmp_path: Path) -> None:
    answers = iter([False] * 4 + [True])
    params = {"optim.sam_rho": 0.2, "optim.sam_every": 2, "batch.accumulation": 2}
    whole = run(params)
    run(params, folder=tmp_path, stopped=lambda: next(answers))
    assert torch.equal(run(params, folder=tmp_path, resume=True).weights, whole.weights)
