"""The optimizer and its parameter groups.

What it does: *sgd* with Nesterov momentum, *adamw* with decoupled weight decay.
When it pays: the family decides the learning rate's range; tens of percent of the steps.
Cost: one (sgd) or two (adamw) more copies of the weights.
Source: SGD arXiv 1706.02677; AdamW arXiv 1711.05101.
Order: after everything that changes the model's parameters.
Conflicts: none.

Must not know the loss or the schedule.
"""

from __future__ import annotations

import torch
from torch import nn

from autoaccel.sections import Optim
from autoaccel.trainer.compiler import spare_compiler


def new_optimizer(model: nn.Module, config: Optim, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of all parameters that require a gradient."""
    kind = torch.optim.Optimizer
    spare_compiler(kind.add_param_group, kind.zero_grad, kind.state_dict, kind.load_state_dict)
    trainable = [p for p in model.parameters() if p.requires_grad]
    # Biases and norm scales are not decayed: they are few, and decay only shifts them.
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused kernels exist for CPU and CUDA; one AdamW step of 11M parameters took 10.5 ms instead of 43 ms on a CPU.
    fused = device.type in ("cpu", "cuda")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)
