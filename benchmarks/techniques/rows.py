"""Every technique as a change of the baseline's settings, by family.

A literal table; must not know how it is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Row:
    """One technique."""

    name: str
    family: str
    change: dict[str, Any]
    workload: Literal["images", "text"] = "images"
    beside: dict[str, Any] = field(default_factory=dict)
    """What the baseline of this row has too, because the technique is an addition to it."""


ROWS: tuple[Row, ...] = (
    Row("random flip", "augmentation", {"augment.flip": "random"}),
    Row("alternating flip", "augmentation", {"augment.flip": "alternating"}),
    Row("translation by 2 pixels", "augmentation", {"augment.translate": 2}),
    Row("cutout of 8 pixels", "augmentation", {"augment.cutout": 8}),
    Row("TrivialAugment", "augmentation", {"augment.policy": "trivial"}),
    Row("RandAugment, level 9", "augmentation", {"augment.policy": "rand"}),
    Row("mixup 0.2", "augmentation", {"augment.mixup": 0.2}),
    Row("cutmix 1", "augmentation", {"augment.cutmix": 1.0}),
    Row("label smoothing 0.1", "regularization", {"regularize.label_smoothing": 0.1}),
    Row("progressive resizing from half the side", "curriculum", {"curriculum.resolution": 0.5}),
    Row("sequence-length warm-up from a quarter", "curriculum", {"curriculum.sequence": 0.25}, "text"),
    Row("batch ramp over half of the training", "curriculum", {"batch.ramp": 0.5}),
    Row("class-balanced sampling", "sampling", {"data.sampling": "class_balanced"}),
    Row("two loader workers", "data path", {"loader.workers": 2}),
    Row("pinned memory", "data path", {"loader.workers": 2, "loader.pin": True}),
    Row("cosine", "schedule", {"schedule.name": "cosine"}),
    Row("constant", "schedule", {"schedule.name": "constant"}),
    Row("SGD with Nesterov momentum, 0.1", "optimizer", {"optim.name": "sgd", "optim.lr": 0.1}),
    Row("accumulation of 2", "memory", {"batch.accumulation": 2}),
    Row("bf16", "precision", {"precision.dtype": "bf16"}),
)
