"""Settings of the whole process: they hold while a training runs, and the caller's come back whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.trainer.applicability import unavailable
from autoaccel.trainer.build import build
from autoaccel.trainer.look import look
from autoaccel.trainer.process import process_settings
from tests.trainer.nets import images, residual_net, transformer


def allowed_kernels() -> str:
    """What attention may be computed by, in the words of `system.attention`."""
    on = torch.backends.cuda
    kernels = {"flash": on.flash_sdp_enabled(), "efficient": on.mem_efficient_sdp_enabled()}
    kernels |= {"math": on.math_sdp_enabled(), "cudnn": on.cudnn_sdp_enabled()}
    return " ".join(name for name, enabled in kernels.items() if enabled)


READERS: dict[str, Callable[[], Any]] = {
    "precision.matmul": torch.get_float32_matmul_precision,
    "system.threads": torch.get_num_threads,
    "system.cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
    "system.attention": allowed_kernels,
}
CASES: list[tuple[str, Any]] = [
    ("precision.matmul", "high"),
    ("precision.matmul", "medium"),
    ("system.threads", 3),
    ("system.cudnn_benchmark", True),
    ("system.attention", "math"),
    ("system.attention", "flash"),
    ("system.attention", "efficient"),
    ("system.attention", "cudnn"),
]


@pytest.mark.parametrize(("path", "value"), CASES)
def test_a_setting_holds_inside_and_the_callers_comes_back(path: str, value: Any) -> None:
    read = READERS[path]
    before = read()
    with process_settings(with_params(TrainerConfig(), {path: value})):
        assert read() == value
    assert read() == before != value


@pytest.mark.parametrize(("path", "value"), CASES)
def test_the_callers_setting_comes_back_after_a_failure(path: str, value: Any) -> None:
    read = READERS[path]
    before = read()
    with pytest.raises(RuntimeError, match="boom"), process_settings(with_params(TrainerConfig(), {path: value})):
        raise RuntimeError("boom")
    assert read() == before


class Notes(nn.Module):
    """Notes a setting of the process at every forward pass, and fails after some."""

    def __init__(self, read: Callable[[], Any], seen: list[Any], fails_after: int) -> None:
        super().__init__()
        self.layer, self.read, self.seen, self.fails_after = nn.Linear(6, 3), read, seen, fails_after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.read())
        if len(self.seen) > self.fails_after:
            raise RuntimeError("boom")
        out: torch.Tensor = self.layer(x)
        return out


@pytest.mark.parametrize("fails_after", [3, 10**6])
def test_a_training_runs_under_its_own_settings(run: Any, load: Any, fails_after: int) -> None:
    """A caller's `high` is not the training's `highest`."""
    seen: list[Any] = []
    torch.set_float32_matmul_precision("high")
    try:
        ended = run({}, load(model=lambda: Notes(torch.get_float32_matmul_precision, seen, fails_after))).ended
        assert ended.outcome == ("crashed" if fails_after == 3 else "finished")
        assert set(seen) == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_training_may_be_run_with_other_threads_than_its_configs() -> None:
    before = torch.get_num_threads()
    with process_settings(with_params(TrainerConfig(), {"system.threads": before + 1}), before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("fails_after", [3, 10**6])
def test_threads_hold_for_one_training(run: Any, load: Any, fails_after: int) -> None:
    before, seen = torch.get_num_threads(), list[int]()
    run({"system.threads": before + 1}, load(model=lambda: Notes(torch.get_num_threads, seen, fails_after)))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


# ------------------------------------------------------------------------------------------------------------ attention


def attending(load: Any) -> Any:
    return load(model=transformer, train=images(48, 1), validation=images(30, 2))


@pytest.mark.parametrize("kernel", ["math", "flash"])
def test_one_kernel_is_used_for_the_whole_training(run: Any, load: Any, kernel: str) -> None:
    class Watched(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(allowed_kernels())
            return super().forward(x)  # type: ignore[no-any-return]

    seen: list[str] = []
    loaded = load(model=lambda: Watched(transformer()), train=images(48, 1), validation=images(30, 2))
    done = run({"system.attention": kernel, "horizon.samples": 48}, loaded)
    assert done.ended.outcome == "finished", done.ended.message
    assert seen.count(kernel) > len(seen) / 2  # all but the looks when it was built
    assert allowed_kernels() != kernel


def test_kernels_agree_to_rounding(run: Any, load: Any) -> None:
    params = {"horizon.samples": 96, "evaluate.every_samples": 96, "optim.name": "sgd"}
    runs = [run({**params, "system.attention": kernel}, attending(load)) for kernel in ("auto", "math", "flash")]
    assert all(torch.allclose(r.weights, runs[0].weights, atol=1e-4) for r in runs)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"system.attention": "efficient"}, "this cpu device has no such kernel"),
        ({"system.attention": "cudnn"}, "this cpu device has no such kernel"),
        ({"system.cudnn_benchmark": True}, "needs a CUDA device"),
    ],
)
def test_what_this_device_does_not_have_is_refused(load: Any, config: Any, params: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        build(attending(load), config(params))


def test_a_search_tries_no_more_threads_than_cores_but_a_config_may_have_them(
    load: Any, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoaccel.trainer.applicability.usable_cores", lambda: 4)
    loaded = load()
    rows = [row for row in unavailable(loaded, loaded.task.model()) if row["path"] == "system.threads"]
    assert [row["values"] for row in rows] == [[8], [16], [32]] and rows[0]["reason"] == "there are 4 cores for it"
    build(loaded, config({"system.threads": 8}))


def test_a_kernel_is_refused_for_a_model_without_attention(load: Any, config: Any) -> None:
    with pytest.raises(UsageError, match="does not call torch's scaled dot-product attention"):
        build(load(), config({"system.attention": "math"}))


def test_looking_for_attention_leaves_the_model_as_it_was(load: Any) -> None:
    loaded = load(model=residual_net, train=images(48, 1), validation=images(30, 2))
    model = residual_net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    look(loaded, model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
