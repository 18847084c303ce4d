"""Settings of a training that several processes share, one on each device.

Must not know the task, nor how processes are started.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from autoaccel.sections.checks import check, one_of, positive_int


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How one training is spread over devices: GPUs, or cores where there are none. The gradients stay those of one."""

    strategy: Literal["none", "ddp", "fsdp2", "tensor", "pipeline"] = "none"
    """ddp: each device has the model and a part of every batch (arXiv 2006.15704); fsdp2: and keeps a part only of
    weights, gradients and optimizer state (2304.11277); tensor: a part of the matrices (1909.08053); pipeline: a part
    of the layers (1811.06965). The last two need `Task.plan`. BatchNorm sees one device's part of a batch."""
    n_processes: int = 2
    """Devices of one training; without effect where `strategy` is none."""
    bucket_mb: float = 25.0
    """MB of gradients that ddp sends together, while backward still computes the others."""
    offload: Literal["none", "host"] = "none"
    """host: weights, gradients and optimizer state of fsdp2 wait in host memory; on a CPU they are there already."""

    def __post_init__(self) -> None:
        one_of(("none", "ddp", "fsdp2", "tensor", "pipeline"), "parallel.strategy", self.strategy)
        ok = positive_int(self.n_processes) and self.n_processes >= 2
        check(ok, "parallel.n_processes", self.n_processes, "a whole number >= 2")
        check(0 < self.bucket_mb < math.inf, "parallel.bucket_mb", self.bucket_mb, "a finite number > 0")
        one_of(("none", "host"), "parallel.offload", self.offload)

    @property
    def n(self) -> int:
        """Processes that train together."""
        return 1 if self.strategy == "none" else self.n_processes

    @property
    def splits_batches(self) -> bool:
        """Whether each process computes a part of every batch."""
        return self.strategy in ("ddp", "fsdp2")

    @property
    def splits_model(self) -> bool:
        """Whether each process has a part of the model only."""
        return self.strategy in ("fsdp2", "tensor", "pipeline")
