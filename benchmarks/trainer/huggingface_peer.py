"""The Trainer of transformers (and accelerate): nothing logged, saved, evaluated or shown, gradients not clipped."""

from __future__ import annotations

import tempfile

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from benchmarks.trainer.loading import as_it_is, named
from benchmarks.trainer.workloads import Job, loss_of, lr_factor, optimizer_of


class WithLoss(nn.Module):
    """A model as the Trainer takes one that is not from its own library: it returns its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = self.model(inputs)
        return {"loss": loss_of(outputs, labels), "logits": outputs}


def train(job: Job) -> nn.Module:
    """Train for the job's steps."""
    model = WithLoss(job.model())
    on_cpu = job.device.type == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=job.n_steps,
            per_device_train_batch_size=job.recipe.batch,
            train_sampling_strategy="random" if job.shuffled else "sequential",
            dataloader_drop_last=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=not on_cpu,
            max_grad_norm=0.0,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=on_cpu,
        )
        optimizer = optimizer_of(model.to(job.device), job.recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, job.n_steps))
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=named(job),
            data_collator=as_it_is if job.whole_batches else None,
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.model
