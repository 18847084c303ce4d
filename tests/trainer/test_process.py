"""Settings of the whole process: they hold while a training runs, and the caller's come back whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig, with_params
from autoaccel.trainer.process import process_settings

READERS: dict[str, Callable[[], Any]] = {"precision.matmul": torch.get_float32_matmul_precision}
CASES: list[tuple[str, Any]] = [("precision.matmul", "high"), ("precision.matmul", "medium")]


@pytest.mark.parametrize(("path", "value"), CASES)
def test_a_setting_holds_inside_and_the_callers_comes_back(path: str, value: Any) -> None:
    read = READERS[path]
    before = read()
    with process_settings(with_params(TrainerConfig(), {path: value})):
        assert read() == value
    assert read() == before


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
