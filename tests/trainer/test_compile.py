"""Compiling: the last thing done to a model, undone at the end, its code kept where the user's cache is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.trainer.build import build
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.process import process_settings
from autoaccel.trainer.techniques.compilation import compile_model, no_compiler

Load = Callable[..., LoadedTask]
CACHE = "TORCHINDUCTOR_CACHE_DIR"
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache directory, empty."""
    monkeypatch.setenv("AUTOACCEL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(CACHE, raising=False)
    return tmp_path


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A compiler that compiles nothing; what it was asked for."""
    asked: list[dict[str, Any]] = []

    def compile_nothing(function: Any, **how: Any) -> Any:
        asked.append(how)

        def call(*args: Any, **kwargs: Any) -> Any:
            how["calls"] = how.get("calls", 0) + 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    monkeypatch.setattr("autoaccel.trainer.techniques.compilation.no_compiler", lambda device: "")
    return asked


@pytest.mark.parametrize("mode", ["default", "max-autotune-no-cudagraphs"])
def test_every_forward_pass_goes_through_the_compiled_model(run: Any, cache: Path, compiled: Any, mode: str) -> None:
    """12 steps and 3 evaluations of one batch each."""
    plain, other = run(), run({"compile.mode": mode})
    assert compiled == [{"mode": mode, "calls": 15}]
    assert torch.equal(plain.weights, other.weights)


def test_the_trained_model_is_no_longer_compiled_and_keeps_its_names(run: Any, cache: Path, compiled: Any) -> None:
    done = run({"compile.mode": "default"})
    before = compiled[0]["calls"]
    done.model(torch.ones(2, 6))
    assert compiled[0]["calls"] == before
    assert list(done.model.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]


def test_a_resumed_training_is_the_same(run: Any, cache: Path, compiled: Any, tmp_path: Path) -> None:
    answers = iter([False] * 4 + [True])
    params, folder = {"compile.mode": "default"}, tmp_path / "run"
    folder.mkdir()
    whole = run(params)
    run(params, folder=folder, stopped=lambda: next(answers))
    assert torch.equal(run(params, folder=folder, resume=True).weights, whole.weights)


def test_nothing_is_compiled_unless_asked(run: Any, compiled: Any) -> None:
    run()
    assert compiled == []


# ---------------------------------------------------------------------------------------------------------------- cache

ON = with_params(TrainerConfig(), {"compile.mode": "default"})


def test_code_is_kept_in_the_users_cache_while_a_training_runs(cache: Path) -> None:
    with process_settings(ON):
        assert os.environ[CACHE] == str(cache / "compiled")
        assert (cache / "compiled").is_dir()
    assert CACHE not in os.environ
    with pytest.raises(RuntimeError, match="boom"), process_settings(ON):
        raise RuntimeError("boom")
    assert CACHE not in os.environ


def test_where_the_user_wants_it_kept_is_respected(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "/somewhere")
    with process_settings(ON):
        assert os.environ[CACHE] == "/somewhere"
    assert os.environ[CACHE] == "/somewhere"


def test_what_torch_says_by_itself_is_not_the_user(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    monkeypatch.setenv(CACHE, cache_dir())
    before = os.environ[CACHE]
    with process_settings(ON):
        assert os.environ[CACHE] == str(cache / "compiled")
    assert os.environ[CACHE] == before


def test_a_cache_that_cannot_be_made_is_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("AUTOACCEL_CACHE_DIR", str(cache / "file"))
    with process_settings(ON):
        assert CACHE not in os.environ


def test_a_training_that_compiles_nothing_makes_no_cache(cache: Path) -> None:
    with process_settings(TrainerConfig()):
        pass
    assert list(cache.iterdir()) == []


# -------------------------------------------------------------------------------------------------------------- refusal


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_need_a_cuda_device(load: Load, config: Any, mode: str) -> None:
    with pytest.raises(UsageError, match="CUDA graphs, which needs a CUDA device"):
        build(load(), config({"compile.mode": mode}))


def test_without_a_c_compiler_it_is_refused(
    load: Load, config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs a C compiler"):
        build(load(), config({"compile.mode": "default"}))


# ---------------------------------------------------------------------------------------------------------- a real one


@pytest.mark.slow
@pytest.mark.skipif(no_compiler(CPU) != "", reason="no C compiler")
@pytest.mark.filterwarnings("ignore")  # what the compiler says
def test_a_real_compiler_changes_nothing_but_the_code(run: Any, load: Load, cache: Path) -> None:
    """Two blocks, computed twice and with batch norm, in a training and in its evaluation."""

    def net() -> nn.Module:
        body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        return nn.Sequential(nn.Sequential(body, nn.Linear(8, 8)), nn.Linear(8, 3))

    params = {"batch.size": 60, "horizon.samples": 180, "evaluate.every_samples": 180, "optim.name": "sgd"}
    params["memory.checkpointing"] = "full"
    loaded = load(model=net)
    plain, other = run(params, loaded), run({**params, "compile.mode": "default"}, loaded)
    assert other.ended.outcome == "finished", other.ended.message
    ours, theirs = other.model.state_dict(), plain.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in theirs)
    assert any((cache / "compiled").rglob("*.so"))
    loaded.task.model().load_state_dict(ours)


@pytest.mark.slow
@pytest.mark.skipif(no_compiler(CPU) != "", reason="no C compiler")
@pytest.mark.filterwarnings("ignore")
def test_a_memory_budget_keeps_fewer_activations_and_the_same_gradients(cache: Path) -> None:
    """What a compiled net of eight layers saves for backward, with all and with a tenth of its activations."""

    def saved(budget: float) -> tuple[int, list[torch.Tensor]]:
        torch.manual_seed(0)
        net = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(32, 32), nn.GELU())))
        config = with_params(ON, {"memory.budget": budget})
        with process_settings(config):
            end, found = compile_model(net, "default"), [0]

            def note(tensor: torch.Tensor) -> torch.Tensor:
                found[0] += tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = net(torch.ones(512, 32)).square().sum()
            loss.backward()
            end()
        return found[0], [p.grad for p in net.parameters() if p.grad is not None]

    (all_of_it, theirs), (fewer, ours) = saved(1.0), saved(0.1)
    assert fewer < 0.7 * all_of_it
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"memory.budget": 0.5}, "compile.mode is 'off'"),
        ({"memory.budget": 0.5, "compile.mode": "default", "memory.checkpointing": "full"}, "both decide"),
        ({"memory.budget": 1.5}, "between 0 and 1"),
    ],
)
def test_a_memory_budget_needs_a_compiler(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_params(TrainerConfig(), params)
