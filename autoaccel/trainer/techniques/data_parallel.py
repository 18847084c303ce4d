"""Data parallelism: each device computes a part of every batch.

What it does: *ddp* keeps the whole model on each device and averages gradients in buckets while backward still runs;
*fsdp2* keeps a part of weights, gradients and optimizer state on each, and fetches a block's weights when it computes.
With micro-batches, gradients are exchanged in the last of a step only. With `offload` that part waits in host memory.
When it pays: ddp where computing a part of the batch saves more than sending the gradients takes; fsdp2 where the
model does not fit on one device.
Cost: ddp sends as many bytes as there are gradients a step, fsdp2 1.5 times that (weights twice, gradients once);
offload, every weight and gradient over the bus.
Source: ddp arXiv 2006.15704; fsdp2 2304.11277 and torch's `fully_shard`.
Order: after everything that changes modules or parameters, before the optimizer.
Conflicts: BatchNorm sees one device's part of a batch; see `sections.conflicts` for what needs the whole model.

Must not know losses, nor how processes are started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from autoaccel.trainer.blocks import blocks
from autoaccel.trainer.parts import Spread
from autoaccel.trainer.team import Team


def replicated(model: nn.Module, team: Team, bucket_mb: float) -> Spread:
    """Every device has the whole model; those of the leader's weights are everybody's."""
    called = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=bucket_mb)

    def piece(is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if is_last else called.no_sync()

    return Spread(team, splits_batches=True, called=called, piece=piece)


def sharded(model: nn.Module, team: Team, device: torch.device, offload: str) -> Spread:
    """Every device has a part of each parameter, in place; blocks are fetched one by one, the rest at once."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

    mesh = init_device_mesh(device.type, (team.n,))
    policy = CPUOffloadPolicy(pin_memory=device.type != "cpu") if offload == "host" else OffloadPolicy()
    for block in blocks(model):
        fully_shard(block, mesh=mesh, offload_policy=policy)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    assert isinstance(model, FSDPModule)
    return Spread(team, splits_batches=True, piece=partial(_exchanging, model), whole=whole_state, stored=Shared)


@contextmanager
def _exchanging(model: Any, is_last: bool) -> Iterator[None]:
    model.set_requires_gradient_sync(is_last)
    yield


def whole_state(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The state of a model whose parameters are in parts, put together in the leader's main memory."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast("Mapping[str, torch.Tensor]", get_model_state_dict(model, options=options))


class Shared:
    """Model and optimizer as a checkpoint holds them: put together by the leader, read by all."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """Of both; all processes have to ask, the leader gets it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        model, optimizer = get_state_dict(self._model, self._optimizer, options=options)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Each process keeps its part."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        given = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
        return set_state_dict(self._model, self._optimizer, **given, options=StateDictOptions(full_state_dict=True))
