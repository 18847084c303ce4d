"""Where values lie and which are computed twice: memory changes, the training does not."""

from __future__ import annotations

import copy
import gc
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.trainer.blocks import blocks
from autoaccel.trainer.build import build
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.flops import recounted
from autoaccel.trainer.loop import gradients
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.techniques.memory_format import no_convolution
from autoaccel.trainer.techniques.offload import ScratchFile, no_other_memory
from autoaccel.trainer.techniques.recompute import recompute_blocks
from tests.trainer.nets import NETS, Residual, images, mlp, plain_net, residual_net, transformer

Load = Callable[..., LoadedTask]
LAST = torch.channels_last


@pytest.fixture
def pictures(load: Load) -> Callable[[Callable[[], nn.Module]], LoadedTask]:
    """A task of small images for a model."""
    return lambda model: load(model=model, train=images(48, 1), validation=images(30, 2))


def training(run: Any, loaded: LoadedTask, **params: Any) -> Any:
    """Six steps and three looks at a small training of images."""
    done = run({"horizon.samples": 144, "evaluate.every_samples": 48, **params}, loaded)
    assert done.ended.outcome == "finished", done.ended.message
    return done


def first_gradients(parts: Parts, loaded: LoadedTask) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of a first step, dropout drawn from the same seed."""
    torch.manual_seed(5)
    parts.model.train()
    loss = gradients(loaded, parts, Step(0, 0, 0.0, 24), parts.order.draw(0, 24, 0.0))
    return loss, {name: p.grad for name, p in parts.model.named_parameters() if p.grad is not None}


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


SAME: list[tuple[str, dict[str, str]]] = [
    (net, {path: value})
    for net in ("residual", "plain", "transformer")
    for path, value in [
        ("memory.checkpointing", "selective"),
        ("memory.checkpointing", "full"),
        ("memory.offload", "disk"),
    ]
] + [("mlp", {"memory.offload": "disk"})]


@pytest.mark.parametrize(("net", "params"), SAME, ids=[f"{net} {next(iter(p.values()))}" for net, p in SAME])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_is_the_same_to_the_last_bit(
    run: Any, pictures: Any, net: str, params: dict[str, str], seed: int
) -> None:
    """Weights, statistics of batch norm, losses and metrics; dropout included."""
    loaded = pictures(NETS[net])
    plain, other = training(run, loaded, seed=seed), training(run, loaded, seed=seed, **params)
    assert equal_states(plain.model, other.model)
    assert [(r.value, r.loss) for r in plain.reports] == [(r.value, r.loss) for r in other.reports]


def still(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A net without dropout, whose masks are drawn in the order of memory."""
    model = make()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return lambda: copy.deepcopy(model)


@pytest.mark.parametrize("net", [residual_net, plain_net])
def test_channels_last_leaves_loss_and_gradients(pictures: Any, config: Any, net: Any) -> None:
    loaded = pictures(still(net))
    found = []
    for value in ("contiguous", "channels_last"):
        torch.manual_seed(0)
        parts = build(loaded, config({"memory.format": value}))
        found.append(first_gradients(parts, loaded))
    (loss, plain), (other_loss, other) = found
    assert other_loss == pytest.approx(float(loss), rel=1e-5)
    assert plain.keys() == other.keys()
    assert all(torch.allclose(plain[key], other[key], atol=1e-5) for key in plain)


def test_channels_last_orders_weights_and_batches(pictures: Any, config: Any) -> None:
    loaded = pictures(residual_net)
    seen: list[torch.Tensor] = []
    parts = build(loaded, config({"memory.format": "channels_last"}))
    parts.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    first_gradients(parts, loaded)
    kernels = [p for p in parts.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=LAST) and not p.is_contiguous() for p in kernels)
    assert all(x.is_contiguous(memory_format=LAST) and not x.is_contiguous() for x in seen)
    plain = build(loaded, config({}))
    assert all(p.is_contiguous() for p in plain.model.parameters())


@pytest.mark.parametrize("params", [{"memory.format": "channels_last"}, {"memory.checkpointing": "full"}])
def test_the_final_weights_load_into_a_fresh_model(run: Any, pictures: Any, params: dict[str, str]) -> None:
    loaded = pictures(residual_net)
    done = training(run, loaded, **params)
    fresh = loaded.task.model()
    fresh.load_state_dict(done.model.state_dict())
    assert evaluate(loaded.task, build_around(fresh, loaded), loaded.validation) == done.ended.value


def build_around(model: nn.Module, loaded: LoadedTask) -> Parts:
    return replace(build(loaded, TrainerConfig()), model=model)


# ------------------------------------------------------------------------------------------------------------ recompute


class Counted(Residual):
    """Counts its forward passes."""

    n_passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_passes += 1
        return super().forward(x)


def three_blocks() -> nn.Module:
    body = nn.Sequential(Counted(3, 3), Counted(3, 3), Counted(3, 3))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))


@pytest.mark.parametrize(("which", "passes"), [("none", [1, 1, 1]), ("selective", [2, 1, 2]), ("full", [2, 2, 2])])
def test_blocks_are_computed_twice_in_training_only(pictures: Any, config: Any, which: str, passes: list[int]) -> None:
    loaded = pictures(three_blocks)
    parts = build(loaded, config({"memory.checkpointing": which}))
    first_gradients(parts, loaded)
    assert [block.n_passes for block in parts.model[0]] == passes
    evaluate(loaded.task, parts, loaded.validation)
    assert [block.n_passes for block in parts.model[0]] == [n + 1 for n in passes]


def test_what_is_saved_shrinks(pictures: Any, config: Any) -> None:
    def saved(which: str) -> int:
        loaded, n = pictures(residual_net), 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal n
            n += tensor.numel()
            return tensor

        parts = build(loaded, config({"memory.checkpointing": which}))
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            parts.model(loaded.train.take(torch.arange(8))[0])
        return n

    assert saved("full") < saved("selective") < saved("none")


def test_a_copy_of_a_model_computes_with_its_own_weights() -> None:
    model = residual_net()
    recompute_blocks(model, "full")
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8)
    for p in model.parameters():
        p.data.zero_()
    assert not torch.equal(twin.eval()(x), model.eval()(x))


def test_the_trained_model_is_as_the_task_made_it(run: Any, pictures: Any) -> None:
    done = training(run, pictures(residual_net), **{"memory.checkpointing": "full"})
    assert all("forward" not in vars(module) for module in done.model.modules())


def test_flops_count_what_is_computed_twice(run: Any, pictures: Any) -> None:
    """Recomputing blocks adds about their forward pass: between nothing and a third of forward and backward."""
    loaded = pictures(residual_net)
    plain, selective, full = (
        training(run, loaded, **{"memory.checkpointing": which}).ended.flops for which in ("none", "selective", "full")
    )
    assert plain < 1e5 < selective < full  # the plain task of these tests has made-up FLOPs


def test_flops_of_a_block_by_hand(config: Any, load: Load) -> None:
    """Two linear layers in a block: forward 2 x, backward 3 x (no gradient of the input), and forward again, the last
    layer of a block apart, for its output is not needed."""
    net = lambda: nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3)))  # noqa: E731
    first, second = 2 * 6 * 8, 2 * 8 * 3
    plain = 2 * first + 3 * second
    loaded = replace(load(model=net), flops_per_sample=float(plain))
    assert recounted(loaded, config({})).flops_per_sample == plain
    again = recounted(loaded, config({"memory.checkpointing": "full"}))
    assert again.flops_per_sample == plain + first
    assert again.evaluation_flops == (first + second) * loaded.validation.n


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (residual_net, ["Residual"] * 3),
        (transformer, ["Layers"] * 2),
        (plain_net, ["Sequential"] * 2),
        (mlp, []),
        (lambda: nn.Linear(2, 2), []),
    ],
)
def test_the_blocks_of_small_nets(make: Callable[[], nn.Module], kinds: list[str]) -> None:
    assert [type(block).__name__ for block in blocks(make())] == kinds


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("test_resnet", {"BasicBlock": 3, "Bottleneck": 1}),
        ("test_vit", {"Block": 6}),
        ("test_efficientnet", {"ConvBnAct": 1, "EdgeResidual": 2, "InvertedResidual": 2}),
        ("test_convnext", {"ConvNeXtBlock": 9}),
    ],
)
def test_the_blocks_of_timm_models(name: str, kinds: dict[str, int]) -> None:
    timm = pytest.importorskip("timm")
    assert Counter(type(block).__name__ for block in blocks(timm.create_model(name, num_classes=3))) == kinds


# -------------------------------------------------------------------------------------------------------------- offload


def test_activations_come_back_as_they_were() -> None:
    file = ScratchFile()
    base = torch.arange(24.0).reshape(2, 3, 4)
    given = [
        base,
        base.to(torch.bfloat16),
        base.transpose(0, 2),
        base[:, 1:, ::2],
        base[0, 0, 0],
        torch.randn(2, 3, 4, 5).contiguous(memory_format=LAST),
        torch.tensor([True, False]),
        torch.arange(3).expand(2, 3),
    ]
    stored = [file.write(tensor) for tensor in given]
    for tensor, kept in zip(given, stored, strict=True):
        again = kept.read()
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)
    assert stored[5].read().is_contiguous(memory_format=LAST)


def test_the_file_is_used_again_and_is_in_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = ScratchFile()
    sizes = []
    for _ in range(3):
        kept = [file.write(torch.randn(100)) for _ in range(4)]
        sizes.append(file.n_bytes)
        del kept
        gc.collect()
    assert sizes == [1600, 1600, 1600]
    assert list(tmp_path.iterdir()) == []


def test_weights_are_not_written(pictures: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = ScratchFile.write
    monkeypatch.setattr(ScratchFile, "write", lambda self, t: written.append(t.numel()) or write(self, t))
    loaded = pictures(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 500), nn.ReLU(), nn.Linear(500, 3)))
    parts = build(loaded, config({"memory.offload": "disk"}))
    first_gradients(parts, loaded)
    assert written
    assert max(written) < 192 * 500
    before = len(written)
    evaluate(loaded.task, parts, loaded.validation)
    assert len(written) == before


def test_a_full_disk_is_said(run: Any, pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def truncate(self, size: int) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(EnvironmentFaultError, match="No space left on device"):
        run({"memory.offload": "disk"}, pictures(mlp))


# -------------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"memory.format": "channels_last"}, "no two-dimensional convolution"),
        ({"memory.checkpointing": "full"}, "has no blocks"),
        ({"memory.checkpointing": "selective"}, "has no blocks"),
        ({"memory.offload": "host"}, "in host memory already"),
    ],
)
def test_what_a_model_or_device_has_no_use_for_is_refused(
    pictures: Any, config: Any, params: dict[str, str], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        build(pictures(mlp), config(params))


def test_what_can_be_used_is_not_refused() -> None:
    assert no_convolution(residual_net()) == ""
    assert no_other_memory(torch.device("cuda")) == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("where", ["host", "disk"])
def test_offload_leaves_loss_and_gradients_on_a_gpu(make_task: Any, config: Any, where: str) -> None:
    from autoaccel.trainer.build import load_data

    loaded = load_data(make_task(model=plain_net, train=images(48, 1), validation=images(30, 2)), torch.device("cuda"))
    found = []
    for value in ("none", where):
        torch.manual_seed(0)
        found.append(first_gradients(build(loaded, config({"memory.offload": value})), loaded))
    (loss, plain), (other_loss, other) = found
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-4)
    assert all(torch.allclose(plain[key], other[key], atol=1e-4) for key in plain)
