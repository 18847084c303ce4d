"""Digits on a machine whose steps always cost the same: in training the model waits in its forward pass.

With AUTOACCEL_BENCHMARK_JUDGING=1 it does not wait; what a training would have cost is computed (see `judge`).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from autoaccel import Task
from autoaccel.tasks.digits import digits

PROTOCOL = json.loads((Path(__file__).parent / "protocol.json").read_text())
FIXED_S, PER_SAMPLE_S = PROTOCOL["fixed_s"], PROTOCOL["per_sample_s"]
JUDGING = "AUTOACCEL_BENCHMARK_JUDGING"


class Waiting(nn.Module):
    """A model, and the time its forward pass takes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and JUDGING not in os.environ:
            time.sleep(FIXED_S + PER_SAMPLE_S * len(inputs))
        found: torch.Tensor = self.inner(inputs)
        return found


def task() -> Task:
    """What is tuned."""
    plain = digits()
    return replace(plain, name="waiting-digits", model=lambda: Waiting(plain.model()))
