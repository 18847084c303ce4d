"""Lightning as fast as it is documented to be: `Trainer(barebones=True)`, in which all that may cost speed is off."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from benchmarks.trainer.loading import loader
from benchmarks.trainer.workloads import Job, loss_of, lr_factor, optimizer_of


class Recipe(LightningModule):
    """The job as a LightningModule."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job, self.model = job, job.model()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        inputs, targets = batch
        return loss_of(self.model(inputs), targets)

    def configure_optimizers(self) -> Any:
        optimizer = optimizer_of(self.model, self.job.recipe)
        n_steps = self.job.n_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(job: Job) -> nn.Module:
    """Train for the job's steps."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Recipe(job)
    trainer = Trainer(
        accelerator="gpu" if job.device.type == "cuda" else "cpu",
        devices=1,
        max_steps=job.n_steps,
        max_epochs=-1,
        barebones=True,
        use_distributed_sampler=False,
    )
    trainer.fit(module, train_dataloaders=loader(job))
    return module.model
