"""A loop as somebody writes it by hand for this one recipe: nothing is checked, logged or configurable."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.trainer.workloads import Job, loss_of, lr_factor, optimizer_of


def train(job: Job) -> nn.Module:
    """Train for the job's steps."""
    model = job.model().to(job.device).train()
    optimizer = optimizer_of(model, job.recipe)
    inputs, targets = job.inputs.to(job.device), job.targets.to(job.device)
    for step, chosen in enumerate(_batches(job)):
        for group in optimizer.param_groups:
            group["lr"] = job.recipe.lr * lr_factor(step, job.n_steps)
        # Faster than inputs[chosen]: 0.06 ms instead of 0.36 ms for 128 images of 3 KB.
        loss = loss_of(model(inputs.index_select(0, chosen)), targets.index_select(0, chosen))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step + 1 == job.n_steps:
            break
    return model


def _batches(job: Job) -> Iterator[torch.Tensor]:
    n, size = len(job.inputs), job.recipe.batch
    while True:
        order = torch.randperm(n) if job.shuffled else torch.arange(n)
        yield from order.to(job.device).split(size)[: n // size]
