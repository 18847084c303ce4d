"""Task: model, data, loss and metric; the thing a user hands over.

Holds no state and loads no torch: data stays as the user gave it, the trainer puts it on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autoaccel.config import TrainerConfig
from autoaccel.errors import UsageError, did_you_mean
from autoaccel.trial import Direction

if TYPE_CHECKING:
    import torch

LOSSES = ("cross_entropy", "mse", "binary_cross_entropy")
METRICS: dict[str, Direction] = {"accuracy": "max", "f1": "max", "auc": "max", "loss": "min", "perplexity": "min"}


@dataclass(frozen=True, kw_only=True)
class ParallelPlan:
    """How a model may be cut over devices; what is left out cannot be had.

    Args:
        tensor: for `parallel.strategy` tensor, by names of linear layers ('blocks.*.hidden', as in `named_modules`),
            'columns' where each device is to compute a part of the outputs, 'rows' where it has a part of the inputs:
            a layer by columns is followed by one by rows, with element-wise functions between them. In attention q, k
            and v are layers of their own, by columns, and the number of heads is read from their outputs.
        stages: for 'pipeline', `stages(model) -> modules` that, called one after the other on the inputs, compute what
            the model does; each takes and returns one tensor, and its parameters are the model's own.
    """

    tensor: Mapping[str, Literal["columns", "rows"]] = field(default_factory=dict)
    stages: Callable[[Any], Sequence[torch.nn.Module]] | None = None

    def __post_init__(self) -> None:
        wrong = {name: way for name, way in self.tensor.items() if way not in ("columns", "rows")}
        if wrong:
            raise UsageError(f"ParallelPlan: tensor {wrong!r}", "Use 'columns' or 'rows'.")
        if self.stages is not None and not callable(self.stages):
            raise UsageError(f"ParallelPlan: stages {self.stages!r} is not callable", "Pass a function.")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A training problem.

    Args:
        name: shown everywhere.
        model: called once per training, returns a fresh `torch.nn.Module`.
        train, validation, test: `(inputs, targets)` tensors or arrays, a dict of them, or a map-style `Dataset`.
            `test` is optional and only ever reported, never searched on. float64 becomes float32; integer labels (the
            second of a pair, the key 'labels') become int64; everything else, uint8 inputs included, reaches the model
            as it is. A Dataset that gives the same samples twice is read once and kept; an augmenting one is read
            sample by sample.
        loss: one of `LOSSES`, or `loss(outputs, targets) -> scalar mean`. cross_entropy takes integer classes from 0
            for outputs (N, C), (N, T, C) or (N, C, ...); binary_cross_entropy takes logits, one per target.
        metric: one of `METRICS`, or `metric(outputs, targets) -> float` on the whole validation set (CPU tensors).
            f1 is that of class 1 where there are two classes, else the mean over classes; auc likewise (one against
            the rest), and needs every class in the validation set. A metric that is not finite ends a training.
        direction: 'max' or 'min'; needed for a callable metric, known for the others.
        target: metric value to reach when the caller gives none.
        baseline: the config used today; the answer is compared with it. Default: `config.keras_recipe`.
        step: `step(model, batch) -> dict` for batches or outputs that are no plain tensors. Keys: 'outputs' and
            'targets' (tensors for the metric), optionally 'loss' (mean over the batch; `loss` then only says how the
            metric reads the outputs) and 'n' (how many items the mean was taken over, e.g. tokens; gradient
            accumulation weighs by it).
        weights: file of weights that every training starts from: the .safetensors of `autoaccel train --out`, or a
            state dict saved by torch. One layer may differ in shape, a head for other classes: it begins anew.
        plan: how the model may be cut over several devices, for tensor and pipeline parallelism.
    """

    name: str
    model: Callable[[], torch.nn.Module]
    train: Any
    validation: Any
    test: Any = None
    loss: str | Callable[..., Any] = "cross_entropy"
    metric: str | Callable[..., float] = "accuracy"
    direction: Direction | None = None
    target: float | None = None
    baseline: TrainerConfig | None = None
    step: Callable[..., dict[str, Any]] | None = None
    weights: str | Path | None = None
    plan: ParallelPlan | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise UsageError(f"Task name {self.name!r}: empty", "Give the task a short name.")
        for name in ("model", "step"):
            value = getattr(self, name)
            if not callable(value) and not (name == "step" and value is None):
                raise UsageError(f"Task {self.name!r}: {name} {value!r} is not callable", "Pass a function.")
        if self.weights is not None and not isinstance(self.weights, str | Path):
            raise UsageError(f"Task {self.name!r}: weights {self.weights!r} is no path", "Pass the path of a file.")
        if self.plan is not None and not isinstance(self.plan, ParallelPlan):
            raise UsageError(f"Task {self.name!r}: plan {self.plan!r}", "Pass a ParallelPlan.")
        self._check_choice("loss", LOSSES)
        self._check_choice("metric", tuple(METRICS))
        if self.loss == "mse" and isinstance(self.metric, str) and self.metric != "loss":
            raise UsageError(
                f"Task {self.name!r}: metric {self.metric!r} needs classes, the mse loss has none",
                "Use metric='loss' or a function.",
            )
        if self.baseline is not None and not isinstance(self.baseline, TrainerConfig):
            raise UsageError(f"Task {self.name!r}: baseline {self.baseline!r}", "Pass a TrainerConfig.")
        if self.baseline is not None and self.baseline.horizon.unit != "samples":
            unit = self.baseline.horizon.unit
            raise UsageError(
                f"Task {self.name!r}: the baseline's horizon is in {unit}",
                "Give it in samples: the search changes them.",
            )
        self._check_direction()

    def _check_choice(self, field: str, known: tuple[str, ...]) -> None:
        value = getattr(self, field)
        if isinstance(value, str) and value not in known:
            raise UsageError(f"Task {self.name!r}: unknown {field} {value!r}", did_you_mean(value, known))
        if not isinstance(value, str) and not callable(value):
            raise UsageError(
                f"Task {self.name!r}: {field} {value!r} is no name and no function", did_you_mean("", known)
            )

    def _check_direction(self) -> None:
        known = METRICS.get(self.metric) if isinstance(self.metric, str) else None
        if self.direction not in (None, "max", "min"):
            raise UsageError(f"Task {self.name!r}: direction {self.direction!r}", "Use 'max' or 'min'.")
        if known is None and self.direction is None:
            raise UsageError(f"Task {self.name!r}: a metric of your own needs a direction", "Add direction='max'.")
        if known is not None and self.direction not in (None, known):
            raise UsageError(
                f"Task {self.name!r}: {self.metric} is better towards {known!r}", "Leave the direction out."
            )

    @property
    def metric_name(self) -> str:
        """The metric's name; a callable's own."""
        return self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "metric")

    @property
    def metric_direction(self) -> Direction:
        """Where better is."""
        if self.direction is not None:
            return self.direction
        return METRICS[str(self.metric)]
