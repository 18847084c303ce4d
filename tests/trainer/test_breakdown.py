"""Where a step goes: the pieces are the loop's, the bytes those that its operations move. No speed is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.trainer import breakdown, timing
from autoaccel.trainer.breakdown import PIECES, arithmetic, measure_breakdown
from autoaccel.trainer.build import load_data
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.timing import Laps
from autoaccel.trainer.traffic import Traffic

Loader = Callable[..., LoadedTask]
MAIN = {"data", "prepare", "forward", "backward", "optimizer"}


def measured(loaded: LoadedTask, config: TrainerConfig) -> dict[str, Any]:
    """Two rounds of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(breakdown, "_ROUNDS", 2)
        return measure_breakdown(loaded, config, limit_s=60.0)


def slept_s(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only sleeping moves, and what to sleep with."""
    at = [0.0]
    clocks = SimpleNamespace(perf_counter=lambda: at[0], process_time=lambda: at[0] / 2)
    monkeypatch.setattr(timing, "time", clocks)
    return lambda seconds: at.__setitem__(0, at[0] + seconds)


# --------------------------------------------------------------------------------------------------------------- pieces


class Tired(torch.autograd.Function):
    """The identity, which takes a second forward and three back."""

    sleep: Callable[[float], None] = staticmethod(lambda _: None)

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        Tired.sleep(1.0)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        Tired.sleep(3.0)
        return gradient


class Slow(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Tired.apply(super().forward(x))
        return found


class Distant:
    """A Dataset whose samples take half a second each, and differ whenever they are read, so that they are not kept."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep, self.n_read = sleep, 0

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.sleep(0.5)
        self.n_read += 1
        return torch.full((6,), float(self.n_read)), index % 3


def test_every_second_is_in_the_piece_that_took_it(
    load: Loader, config: Callable[..., TrainerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches of twelve samples each; evaluations forward alone."""
    sleep = slept_s(monkeypatch)
    monkeypatch.setattr(Tired, "sleep", staticmethod(sleep))
    loaded = load(model=lambda: Slow(6, 3), train=Distant(sleep))
    found = measured(loaded, config({"batch.accumulation": 2}))
    wall_s = {name: piece["wall_s"] for name, piece in found["pieces"].items()}
    assert wall_s == pytest.approx({"data": 12.0, "prepare": 0, "forward": 2.0, "backward": 6.0, "optimizer": 0})
    assert {name: piece["cpu_s"] for name, piece in found["pieces"].items()} == pytest.approx(
        {name: seconds / 2 for name, seconds in wall_s.items()}
    )
    assert found["step"] == pytest.approx({"wall_s": 20.0, "cpu_s": 10.0})
    assert found["evaluation_s"] == pytest.approx(1.0)
    assert not found["resident"] and not found["reads_ahead"]


def test_a_plain_step(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    loaded = load()
    found = measured(loaded, config())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["pieces"]) == MAIN and list(found["pieces"]) == [p for p in PIECES if p in MAIN]
    assert found["samples"] == 24 and found["rounds"] == 2 and found["resident"] and not found["oom"]
    assert found["step_flops"] == 24 * 10.0
    assert found["flops"] == (3 + 2 * 2 + 1) * 240.0 + 2 * 300.0, "everything that was run is charged"
    assert not found["convolves"] and found["threads"] == torch.get_num_threads()


def test_the_copy_is_taken_out_of_the_wait_in_which_it_happens() -> None:
    pieces = {"data": {"wall_s": 5.0, "cpu_s": 1.0}, "forward": {"wall_s": 2.0, "cpu_s": 2.0}}
    found = breakdown._with_copy(pieces, {"wall_s": 3.0, "cpu_s": 4.0})
    assert list(found) == ["data", "copy", "forward"]
    assert found["copy"] == {"wall_s": 3.0, "cpu_s": 1.0} and found["data"] == {"wall_s": 2.0, "cpu_s": 0.0}
    assert breakdown._with_copy(pieces, None) == pieces


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("params", [{}, {"loader.workers": 1, "loader.pin": True}])
def test_samples_are_copied_to_a_gpu(
    make_task: Callable[..., Any], config: Callable[..., TrainerConfig], params: dict[str, Any]
) -> None:
    loaded = load_data(make_task(train=Distant(lambda _: None)), torch.device("cuda"))
    found = measured(loaded, config(params))
    assert set(found["pieces"]) == {*MAIN, "copy"} and found["arithmetic"] == "fp32"
    assert found["n_operations"] > 0 and found["n_bytes"] > 0


def test_averages_of_the_weights_are_a_piece(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    assert "after" in measured(load(), config({"average.name": "ema"}))["pieces"]


def test_the_steps_begin_anew_after_the_horizon(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    """Three steps are the whole training."""
    found = measured(load(), config({"horizon.samples": 72, "data.sampling": "importance"}))
    assert found["samples"] == 24


def test_reading_samples_is_no_work_of_the_device(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    """However many operations a dataset needs for a sample."""

    def busy(_: float) -> None:
        for _ in range(100):
            torch.ones(1) + 1

    idle, hard = (measured(load(train=Distant(sleep)), config()) for sleep in (lambda _: None, busy))
    assert idle["n_operations"] == hard["n_operations"] < 100 and idle["n_bytes"] == hard["n_bytes"]


def test_workers_read_the_same_samples_and_are_ended(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    import psutil

    before = {child.pid for child in psutil.Process().children()}
    loaded = load(train=Distant(lambda _: None))
    found = measured(loaded, config({"loader.workers": 1, "horizon.samples": 48}))
    assert found["reads_ahead"] and set(found["pieces"]) == MAIN
    assert {child.pid for child in psutil.Process().children()} <= before


def test_exhausted_memory_is_said(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    class Large(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.empty(2**55)

    assert measured(load(model=lambda: Large(6, 3)), config()) == {"oom": True, "flops": 0.0}


def test_a_failure_is_not_taken_for_exhausted_memory(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        measured(load(model=lambda: Broken(6, 3)), config())


def test_one_round_is_measured_however_little_time_there_is(load: Loader, config: Callable[..., TrainerConfig]) -> None:
    """One step to warm up, a whole one, one in pieces, one that is counted; one evaluation."""
    found = measure_breakdown(load(), config(), limit_s=0.0)
    assert found["rounds"] == 1 and found["flops"] == 4 * 240.0 + 300.0


def test_a_compiled_step_is_counted_as_it_was_written(
    load: Loader, config: Callable[..., TrainerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever compiling makes of it: here nothing, so that no compiler is needed."""
    monkeypatch.setattr("autoaccel.trainer.build.compile_model", lambda *_: lambda: None)
    plain, compiled = (measured(load(), config(p)) for p in ({}, {"compile.mode": "default", "memory.budget": 0.5}))
    assert compiled["n_bytes"] == plain["n_bytes"] > 0 and compiled["n_operations"] == plain["n_operations"] > 0


# -------------------------------------------------------------------------------------------------------------- traffic


def traffic(run: Callable[[], object]) -> tuple[int, int]:
    with Traffic() as counted:
        run()
    return counted.n_operations, counted.n_bytes


X, Y, SQUARE = torch.ones(100), torch.ones(100), torch.ones(10, 10)


@pytest.mark.parametrize(
    ("run", "n_operations", "n_numbers"),
    [
        (lambda: X + Y, 1, 300),
        (lambda: X.add_(1.0), 1, 200),
        (lambda: X.copy_(Y), 1, 200),
        (lambda: X.zero_(), 1, 100),
        (lambda: X.sum(), 1, 101),
        (lambda: torch.zeros(100), 1, 100),
        (lambda: torch.empty(100), 0, 0),
        (lambda: X.view(10, 10).t().detach(), 0, 0),
        (lambda: SQUARE @ SQUARE, 1, 300),
        (lambda: torch.mm(SQUARE, SQUARE, out=torch.empty(10, 10)), 1, 400),  # what it writes to is an input too
        (lambda: torch._foreach_add_([X, Y], 1.0), 1, 400),
        (lambda: torch._foreach_copy_([X], [Y]), 1, 200),
    ],
)
def test_an_operation_moves_what_it_reads_and_writes(
    run: Callable[[], object], n_operations: int, n_numbers: int
) -> None:
    assert traffic(run) == (n_operations, 4 * n_numbers)


@pytest.mark.parametrize(("fused", "n_copies"), [(True, 8), (False, 21)])
def test_a_fused_update_moves_less(fused: bool, n_copies: int) -> None:
    """Weights, gradients and both averages read and written; unfused, each of a dozen operations reads and writes."""
    weight = nn.Parameter(torch.ones(10_000))
    weight.grad = torch.ones(10_000)
    optimizer = torch.optim.AdamW([weight], fused=fused, foreach=not fused)
    optimizer.step()
    assert traffic(optimizer.step)[1] == pytest.approx(n_copies * 4 * 10_000, rel=0.01)


# ----------------------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("device", "params", "net", "expected"),
    [
        ("cpu", {"precision.matmul": "high"}, nn.Conv2d(1, 1, 1), "fp32"),
        ("cpu", {"precision.dtype": "bf16"}, nn.Linear(1, 1), "bf16"),
        ("cuda", {}, nn.Linear(1, 1), "fp32"),
        ("cuda", {"precision.matmul": "high"}, nn.Linear(1, 1), "tf32"),
        ("cuda", {}, nn.Conv2d(1, 1, 1), "tf32"),  # cuDNN may, unless it is told not to
        ("cuda", {"precision.dtype": "fp16"}, nn.Conv2d(1, 1, 1), "fp16"),
    ],
)
def test_the_ceiling_is_that_of_the_numbers_that_are_multiplied(
    config: Callable[..., TrainerConfig], device: str, params: dict[str, Any], net: nn.Module, expected: str
) -> None:
    assert arithmetic(config(params), torch.device(device), net) == expected


# ----------------------------------------------------------------------------------------------------------------- laps


def test_laps_sum_what_belongs_to_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = slept_s(monkeypatch)
    laps = Laps(torch.device("cpu"))
    for piece, seconds in (("a", 1.0), ("b", 2.0), ("a", 4.0), ("", 8.0), ("b", 16.0)):
        laps.enter(piece)
        sleep(seconds)
    assert laps.end() == {"a": (5.0, 2.5), "b": (18.0, 9.0)}
    sleep(1.0)
    assert laps.end() == {}, "between two ends nothing belongs to anything"
