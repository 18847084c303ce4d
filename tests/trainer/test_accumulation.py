"""Gradient accumulation is exact: the pieces of a batch give the step of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.tasks.base import Task
from autoaccel.trainer.build import build, load_data
from autoaccel.trainer.data import Drawn
from autoaccel.trainer.loop import gradients, optimizer_step
from autoaccel.trainer.losses import forward
from autoaccel.trainer.parts import LoadedTask, Step
from autoaccel.trainer.randomness import seeded

VOCABULARY, LENGTH, N = 7, 5, 24


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def token_net() -> nn.Module:
    return nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY))


def token_data() -> dict[str, torch.Tensor]:
    """Sequences of 1 to 5 tokens; what is beyond their end has to be ignored."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(N) % LENGTH + 1
    tokens = torch.randint(VOCABULARY, (N, LENGTH + 1), generator=generator)
    return {"tokens": tokens, "mask": torch.arange(LENGTH)[None] < lengths[:, None]}


def token_step(model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Next-token loss, a mean over the real tokens of the batch."""
    outputs = model(batch["tokens"][:, :-1])[batch["mask"]]
    targets = batch["tokens"][:, 1:][batch["mask"]]
    return {
        "outputs": outputs,
        "targets": targets,
        "loss": nn.functional.cross_entropy(outputs, targets),
        "n": len(targets),
    }


def one_step(loaded: LoadedTask, config: TrainerConfig) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, gradients and parameters of one optimizer step."""
    seen: list[torch.Tensor] = []
    with seeded(3):
        parts = build(loaded, config)
        parts.model.train()

        def update() -> None:
            seen.extend(p.grad.clone().flatten() for p in parts.model.parameters() if p.grad is not None)
            parts.update()

        loss = optimizer_step(loaded, replace(parts, update=update), Step(0, 0, 0.0, config.batch.size))
    return float(loss), torch.cat(seen), torch.cat([p.detach().flatten() for p in parts.model.parameters()])


def whole_gradient(loaded: LoadedTask, config: TrainerConfig) -> torch.Tensor:
    """Of the mean loss over the first batch, by autograd alone."""
    with seeded(3):
        parts = build(loaded, config)
    drawn = parts.order.draw(0, config.batch.size, 0.0)
    out = forward(loaded.task, parts.model, parts.loss, loaded.train.take(drawn.indices))
    return torch.cat([g.flatten() for g in torch.autograd.grad(out.loss, list(parts.model.parameters()))])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("size", [24, 23])
@pytest.mark.parametrize("kind", ["plain", "tokens", "mse"])
def test_pieces_give_the_step_of_the_whole(
    make_task: Callable[..., Task], config: Callable[..., TrainerConfig], kind: str, size: int, optimizer: str
) -> None:
    if kind == "tokens":
        data = token_data()
        task = Task(name="lm", model=token_net, train=data, validation=data, metric="perplexity", step=token_step)
    elif kind == "mse":
        data = (torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 24))
        net = lambda: nn.Linear(6, 1)  # noqa: E731
        task = Task(name="line", model=net, train=data, validation=data, loss="mse", metric="loss")
    else:
        task = make_task(model=plain_net)
    loaded = load_data(task, torch.device("cpu"))
    results = [
        one_step(loaded, config({"batch.size": size, "batch.accumulation": pieces, "optim.name": optimizer}))
        for pieces in (1, 2, 3, 4)
    ]
    loss, gradients, parameters = results[0]
    assert gradients.abs().max() > 1e-3
    torch.testing.assert_close(gradients, whole_gradient(loaded, config({"batch.size": size})), atol=1e-6, rtol=0)
    for other_loss, other_gradients, other_parameters in results[1:]:
        assert other_loss == pytest.approx(loss, abs=1e-6)
        torch.testing.assert_close(other_gradients, gradients, atol=1e-6, rtol=0)
        # AdamW divides by the gradient's size: where that is zero up to rounding, so is not the step
        torch.testing.assert_close(other_parameters, parameters, atol=1e-6 if optimizer == "sgd" else 2e-5, rtol=0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights=st.lists(st.floats(0, 10, width=32), min_size=2, max_size=24),
    pieces=st.integers(1, 24),
    kind=st.sampled_from(["plain", "step", "mse"]),
)
def test_a_weighted_mean_is_the_same_in_any_pieces(
    make_task: Callable[..., Task],
    config: Callable[..., TrainerConfig],
    weights: list[float],
    pieces: int,
    kind: str,
) -> None:
    """Also where the step counts items of its own, which a mean over samples has no use for."""
    if kind == "mse":
        data = (torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 24))
        task = Task(name="line", model=lambda: nn.Linear(6, 1), train=data, validation=data, loss="mse", metric="loss")
    else:
        task = make_task(model=plain_net, step=counting_step if kind == "step" else None)
    loaded, size = load_data(task, torch.device("cpu")), len(weights)
    params = {"batch.size": size, "batch.accumulation": min(pieces, size), "data.sampling": "importance"}
    with seeded(3):
        parts = build(loaded, config(params))
    drawn = Drawn(torch.arange(size), torch.tensor(weights))
    loss = gradients(loaded, parts, Step(0, 0, 0.0, size), drawn)
    found = torch.cat([p.grad.flatten() for p in parts.model.parameters() if p.grad is not None])
    out = forward(task, parts.model, parts.loss, loaded.train.take(drawn.indices), each=True)
    assert out.each is not None and parts.loss.each is not None
    whole = (parts.loss.each(out.outputs, out.targets) * drawn.weights).sum() / size
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(whole, list(parts.model.parameters()))])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert float(loss) == pytest.approx(float(whole.detach()), abs=1e-5)


def counting_step(model: nn.Module, batch: Any) -> dict[str, Any]:
    """As many items as the labels say."""
    return {"outputs": model(batch[0]), "targets": batch[1], "n": 1 + int(batch[1].sum())}
