"""Arithmetic in fewer bits: what is computed in them, what stays fp32, and where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.errors import UsageError
from autoaccel.trainer.build import build
from autoaccel.trainer.parts import LoadedTask, Step
from autoaccel.trainer.techniques.precision import no_float8_layers, same_products, use_float8

Runner = Callable[..., Any]
Loader = Callable[..., LoadedTask]
FP16 = {"precision.dtype": "fp16"}


class Linear(nn.Module):
    """Notes the type it computes in."""

    def __init__(self, seen: list[torch.dtype]) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(6, 3), seen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        self.seen.append(out.dtype)
        return out


def test_fp16_computes_in_fp16_and_keeps_fp32_weights(run: Runner, load: Loader) -> None:
    seen: list[torch.dtype] = []
    done = run(FP16, load(model=lambda: Linear(seen)))
    assert set(seen) == {torch.float16}
    assert done.weights.dtype == torch.float32


def test_fp16_learns_what_fp32_learns(run: Runner) -> None:
    """The scale is gone from the gradients before they reach the weights."""
    short, exact = run(FP16), run()
    assert short.ended.value == pytest.approx(exact.ended.value, abs=0.1)
    assert short.weights == pytest.approx(exact.weights, abs=0.02)


def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_halved(load: Loader, config: Any) -> None:
    loaded = load(model=lambda: nn.Linear(6, 3))
    parts = build(loaded, config(FP16))
    scaler = dict(parts.state)["scaler"]
    before, scale = parts.model.weight.detach().clone(), scaler.state_dict()["scale"]
    parts.scale(parts.model(torch.ones(2, 6)).sum() * float("inf")).backward()
    parts.update()
    assert torch.equal(parts.model.weight, before)
    assert scaler.state_dict()["scale"] == scale / 2


def test_fp16_updates_do_not_load_the_compiler(run_python: Callable[[str], str]) -> None:
    """Importing it takes longer than a short training."""
    code = """
import sys, torch
from autoaccel.config import TrainerConfig, with_params
from autoaccel.tasks.digits import digits
from autoaccel.trainer.build import build, load_data
from autoaccel.trainer.loop import optimizer_step
from autoaccel.trainer.parts import Step
loaded = load_data(digits(), torch.device("cpu"))
parts = build(loaded, with_params(TrainerConfig(), {"precision.dtype": "fp16"}))
optimizer_step(loaded, parts, Step(0, 0, 0.0, 4))
print("torch._dynamo" in sys.modules)
"""
    assert run_python(code).split() == ["False"]


def test_float8_is_refused_where_the_device_cannot(load: Loader, config: Any) -> None:
    with pytest.raises(UsageError, match=r"precision\.dtype 'float8': it needs a CUDA device"):
        build(load(), config({"precision.dtype": "float8"}))


def test_float8_needs_a_linear_layer_of_the_right_sizes() -> None:
    assert no_float8_layers(nn.Sequential(nn.Linear(32, 10))) != ""
    assert no_float8_layers(nn.Sequential(nn.Linear(32, 10), nn.Linear(32, 48))) == ""


@pytest.mark.filterwarnings("ignore")  # what importing torchao says
def test_float8_rounds_the_large_linear_layers_and_gives_them_back() -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    before, keys = dict(model.named_parameters()), list(model.state_dict())
    x = torch.randn(5, 16)
    exact = model(x)
    put_back = use_float8(model, emulate=True)
    assert list(model.state_dict()) == keys
    rounded = model(x)
    assert not torch.equal(rounded, exact)
    assert torch.allclose(rounded, exact, atol=0.1)
    rounded.sum().backward()
    put_back()
    assert [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(p is before[name] and p.grad is not None for name, p in model.named_parameters())
    assert torch.equal(model(x), exact)


def test_a_precision_of_products_is_refused_where_it_changes_nothing(load: Loader, config: Any) -> None:
    reason = same_products(torch.device("cpu"), "medium")
    if not reason:
        pytest.skip("this CPU multiplies in fewer bits")
    with pytest.raises(UsageError, match=r"precision\.matmul 'medium': .* all bits"):
        build(load(), config({"precision.matmul": "medium"}))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "float8"])
def test_every_precision_trains_on_a_gpu(make_task: Any, config: Any, dtype: str) -> None:
    from autoaccel.trainer.build import load_data
    from autoaccel.trainer.loop import optimizer_step

    task = make_task(model=lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 3)))
    loaded = load_data(task, torch.device("cuda"))
    parts = build(loaded, config({"precision.dtype": dtype}))
    losses = [float(optimizer_step(loaded, parts, Step(i, 24 * i, 0.0, 24))) for i in range(12)]
    assert losses[-1] < losses[0]
