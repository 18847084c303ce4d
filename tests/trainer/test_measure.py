"""Measured pieces of a step: which rows there are, not how long they took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig
from autoaccel.trainer import measure as measuring
from autoaccel.trainer.measure import measure_steps
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.techniques import optimizers
from autoaccel.trainer.techniques.optimizers import Muon

Loader = Callable[..., LoadedTask]
TWO = {"sgd": {"optim.name": "sgd"}, "adamw foreach": {"optim.name": "adamw", "optim.kernel": "foreach"}}


def measure(loaded: LoadedTask, **changes: Any) -> dict[str, Any]:
    given = {"micro": [8, 16], "dtypes": ["fp32", "bf16"], "optimizers": TWO, "room": Room(60.0, math.inf)}
    return measure_steps(loaded, TrainerConfig(), **{**given, **changes})


def test_every_piece_is_measured(load: Loader) -> None:
    found = measure(load())
    assert [(r["dtype"], r["micro"]) for r in found["micro"] if r["dtype"] == "fp32"] == [("fp32", 8), ("fp32", 16)]
    assert all(r["seconds"] > 0 for r in found["micro"])
    assert found["optimizer"].keys() == TWO.keys() and all(s > 0 for s in found["optimizer"].values())
    assert found["evaluation"]["fp32"] > 0


def test_adding_gradients_to_others_is_told_apart_from_making_them(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0

    class Stopwatch:
        def __init__(self, _device: torch.device) -> None:
            self._began_s = now_s

        def elapsed_s(self) -> float:
            return now_s - self._began_s

    def model() -> nn.Module:
        net = nn.Linear(6, 3)

        def arrives(parameter: nn.Parameter) -> None:
            nonlocal now_s
            now_s += 0.001 if parameter.grad is None else 0.003

        for parameter in net.parameters():
            parameter.register_hook(lambda _, parameter=parameter: arrives(parameter))
        return net

    monkeypatch.setattr(measuring, "Stopwatch", Stopwatch)
    found = measure(load(model=model), dtypes=["fp32"])
    assert [row["seconds"] for row in found["micro"]] == [pytest.approx(2 * 0.001)] * 2
    assert found["accumulation"] == pytest.approx(2 * 0.002)


def test_a_size_that_does_not_fit_is_said_and_larger_ones_are_left_out(load: Loader) -> None:
    class Large(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if len(x) < 16 or not self.training else x + torch.empty(2**55)

    found = measure(load(model=lambda: Large(6, 3)), micro=[8, 16, 32], dtypes=["fp32"])
    assert [r.get("oom", False) for r in found["micro"]] == [False, True]


def test_a_failure_is_not_taken_for_exhausted_memory(load: Loader) -> None:
    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        measure(load(model=lambda: Broken(6, 3)))


def test_flops_are_charged_and_never_exceed_their_limit(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "Stopwatch", lambda _: SimpleNamespace(elapsed_s=lambda: 0.001))
    full = measure(load(), dtypes=["fp32"])
    assert full["flops"] == 10 * (8 + 16) * 10 + 2 * 9 * 8 * 10 + 300
    assert measure(load(), room=Room(60.0, 500.0), dtypes=["fp32"])["flops"] <= 500
    assert measure(load(), room=Room(60.0, 90.0), dtypes=["fp32"])["micro"] == []


def test_no_time_no_rows(load: Loader) -> None:
    assert measure(load(), room=Room(0.0, math.inf))["micro"] == []


def test_a_precision_that_is_emulated_is_given_up_at_the_smallest_size(load: Loader) -> None:
    class Emulated(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_autocast_enabled("cpu"):
                time.sleep(0.05)
            return super().forward(x)

    found = measure(load(model=lambda: Emulated(6, 3)), micro=[8, 16, 32])
    assert [r["micro"] for r in found["micro"] if r["dtype"] == "fp32"] == [8, 16, 32]
    assert [r["micro"] for r in found["micro"] if r["dtype"] == "bf16"] == [8]
    assert [r["dtype"] for r in found["micro"]][:2] == ["fp32", "bf16"], "before the time is spent on other sizes"
    assert set(found["evaluation"]) == {"fp32"}


def test_a_size_that_cannot_be_measured_in_time_is_not_begun(load: Loader) -> None:
    seen = []

    class Slow(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            time.sleep(0.01 * len(x))
            return super().forward(x)

    found = measure(load(model=lambda: Slow(6, 3)), micro=[8, 64], dtypes=["fp32"], room=Room(1.0, math.inf))
    assert [r["micro"] for r in found["micro"]] == [8] and 64 not in seen


def test_an_update_that_takes_its_gradients_away_is_timed_with_gradients_all_the_same(
    load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Muon does."""
    seen: list[bool] = []

    class Watched(Muon):
        def step(self, closure: Any = None) -> Any:
            seen.append(any(p.grad is not None for group in self.param_groups for p in group["params"]))
            return super().step(closure)

    monkeypatch.setattr(optimizers, "Muon", Watched)
    measure(load(), optimizers={"muon": {"optim.name": "muon"}}, micro=[8], dtypes=["fp32"])
    assert len(seen) > 2 and all(seen)
