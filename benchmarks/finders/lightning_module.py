"""A workload as a LightningModule, as the documentation of the batch-size finder shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from benchmarks.finders.workloads import WORKLOADS, datasets
from benchmarks.trainer.workloads import loss_of


class Recipe(LightningModule):
    """Its `batch_size` is what the finder changes."""

    def __init__(self, workload: str, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.batch_size = 2
        self.lr, self.model = recipe["optim.lr"], WORKLOADS[workload].model()
        self.data = datasets(workload)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        return loss_of(self.model(inputs), targets)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, targets = batch
        self.log("loss", loss_of(self.model(inputs), targets))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data[1], self.batch_size)
