"""timm's parts put together as its training script does: loader, task, optimizer, schedule by updates. Images only.

The wheel has no training script. Its meters and its log are left out, and so is its prefetcher, which would normalise
images that the model takes as bytes.
"""

from __future__ import annotations

from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask
from torch import nn

from benchmarks.trainer.loading import as_it_is, pairs
from benchmarks.trainer.workloads import Job, parameter_groups

NAMES = {"sgd": "sgd", "adamw": "adamw"}
"""timm's `sgd` is Nesterov's."""


def train(job: Job) -> nn.Module:
    """Train for the job's steps."""
    recipe = job.recipe
    model = job.model().to(job.device)
    moments = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {"betas": (recipe.momentum, 0.999)}
    optimizer = create_optimizer_v2(
        parameter_groups(model, recipe),
        opt=NAMES[recipe.optimizer],
        lr=recipe.lr,
        weight_decay=0.0,
        fused=True,
        **moments,
    )
    schedule, _ = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=1,
        min_lr=0.0,
        warmup_epochs=0,
        step_on_epochs=False,
        updates_per_epoch=job.n_steps,
    )
    batches = create_loader(
        pairs(job),
        input_size=(3, 32, 32),
        batch_size=recipe.batch,
        is_training=job.shuffled,
        no_aug=True,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
        pin_memory=job.device.type == "cuda",
        collate_fn=as_it_is if job.whole_batches else None,
        device=job.device,
    )
    task = ClassificationTask(model, nn.CrossEntropyLoss(), device=job.device, verbose=False)
    n_updates = 0
    while n_updates < job.n_steps:
        task.train()
        for inputs, targets in batches:
            loss = task(inputs.to(job.device), targets.to(job.device))["loss"]
            loss.backward()
            optimizer.step()
            n_updates += 1
            optimizer.zero_grad()
            schedule.step_update(num_updates=n_updates)
            if n_updates == job.n_steps:
                break
    return model
