"""Which way a training is spread over the processes of a team, as its config says.

Must not know how processes are started, nor what they tell each other.
"""

from __future__ import annotations

from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.trainer.losses import Loss
from autoaccel.trainer.parts import LoadedTask, Spread
from autoaccel.trainer.team import team_of
from autoaccel.trainer.techniques.data_parallel import Shared, replicated, sharded, whole_state
from autoaccel.trainer.techniques.model_parallel import Autocast, by_matrices, by_stages


def spread_model(
    loaded: LoadedTask, config: TrainerConfig, model: nn.Module, loss: Loss, autocast: Autocast
) -> tuple[nn.Module, Spread]:
    """The model as this process has it, and how its steps are spread; both plain where a training is alone.

    Raises:
        UsageError: this process is in no team of that size, or the task's plan does not fit the model.
    """
    parallel, plan, device = config.parallel, loaded.task.plan, loaded.device
    team = team_of(parallel.n)
    if parallel.strategy == "ddp":
        return model, replicated(model, team, parallel.bucket_mb)
    if parallel.strategy == "fsdp2":
        return model, sharded(model, team, device, parallel.offload)
    if parallel.strategy == "tensor":
        assert plan is not None, "checked before"
        by_matrices(model, plan, team, device)
        return model, Spread(team, whole=whole_state, stored=Shared)
    if parallel.strategy == "pipeline":
        assert plan is not None, "checked before"
        return by_stages(model, plan, team, loss, autocast)
    return model, Spread()
