"""How large a step is, and what becomes of its batch before the model sees it: augmentation, smaller samples, mixing.

The order is written here; the techniques know nothing of each other. Random numbers follow from the seed and the
position in the order of samples, so that a training can be resumed anywhere. Must not know the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.trainer.data import Batch
from autoaccel.trainer.look import in_evaluation
from autoaccel.trainer.parts import LoadedTask, Prepare, Step
from autoaccel.trainer.techniques.augment import alternating_flip, cutout, flip, translate
from autoaccel.trainer.techniques.curriculum import (
    batch_size,
    resize,
    resolution,
    sequence_length,
    stage_end,
    truncate,
)
from autoaccel.trainer.techniques.mixing import cutmix, mixup, mixup_or_cutmix
from autoaccel.trainer.techniques.policy import rand_augment, trivial_augment

_SIDE_MULTIPLE, _TOKEN_MULTIPLE = 4, 8
"""Smaller images and sequences come in multiples of it: strides, patches and kernels like them."""

Change = Callable[[torch.Tensor, torch.Tensor, Step, torch.Generator], torch.Tensor]
"""From images, their indices, the step and random numbers to images."""


def preparation(loaded: LoadedTask, config: TrainerConfig, n_classes: Callable[[], int]) -> Prepare:
    """The function of a batch that a config asks for; the identity for most.

    Args:
        loaded: whose batches.
        config: of the training.
        n_classes: of the task; asked only where targets are mixed.
    """
    changes, mix = _image_changes(loaded, config), _mixing(config, n_classes)
    length = config.curriculum.sequence
    if not changes and mix is None and length == 1:
        return lambda batch, _indices, _step: batch
    draws = _Draws(config.seed, loaded.device)

    def prepare(batch: Batch, indices: torch.Tensor, step: Step) -> Batch:
        rng = draws.of(step, len(indices))
        if length < 1:
            full, until = batch[0].shape[1], config.curriculum.until
            batch = truncate(batch, sequence_length(step.done, length, until, full, _TOKEN_MULTIPLE))
        inputs, targets = batch
        for change in changes:
            inputs = change(inputs, indices, step, rng)
        return (inputs, targets) if mix is None else mix(inputs, targets, rng)

    return prepare


def step_size(loaded: LoadedTask, config: TrainerConfig, done: float) -> int:
    """Samples of a step that begins at this share of the horizon.

    Larger steps on smaller samples end where the samples grow: a short training would be over after a few of them.
    """
    size, curriculum = batch_size(done, config.batch.ramp, config.batch.size), config.curriculum
    if curriculum.batch == "same":
        return size
    share = size_share(loaded, config, done)
    if share == 1:
        return size
    left = math.inf
    if config.horizon.unit == "samples":
        left = (stage_end(done, curriculum.until) - done) * config.n_steps * config.batch.size
    return max(size, round(min(size / share, left)))


def size_share(loaded: LoadedTask, config: TrainerConfig, done: float) -> float:
    """Pixels or tokens of a sample, as a share of the full ones, at this share of the horizon."""
    curriculum, shape = config.curriculum, loaded.train.shape
    if curriculum.resolution < 1:
        full = min(shape[1:])
        side = resolution(done, curriculum.resolution, curriculum.until, full, _SIDE_MULTIPLE)
        return (side / full) ** 2
    if curriculum.sequence < 1:
        full = shape[0]
        return sequence_length(done, curriculum.sequence, curriculum.until, full, _TOKEN_MULTIPLE) / full
    return 1.0


def n_classes_of(loaded: LoadedTask, model: nn.Module) -> int:
    """Outputs of the model for one sample."""
    with torch.no_grad(), in_evaluation(model):
        outputs: torch.Tensor = model(loaded.train.take(torch.arange(1))[0])
    return outputs.shape[-1]


class _Draws:
    """A generator that is at the same place for the same piece of the same step, whenever it is asked."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed, self._generator = seed, torch.Generator(device)
        self._position, self._pieces = -1, 0

    def of(self, step: Step, n: int) -> torch.Generator:
        """For the next `n` samples of a step. A step that is computed a second time draws the same again."""
        if step.position != self._position or self._pieces >= step.size:
            self._position, self._pieces = step.position, 0
        self._generator.manual_seed(hash((self._seed, step.position, self._pieces)) % 2**63)
        self._pieces += n
        return self._generator


def _image_changes(loaded: LoadedTask, config: TrainerConfig) -> list[Change]:
    """What is done to images, in this order."""
    augment, curriculum, changes = config.augment, config.curriculum, list[Change]()
    if augment.flip == "random":
        changes.append(lambda x, _i, _s, rng: flip(x, rng))
    if augment.flip == "alternating":
        n = loaded.train.n
        changes.append(lambda x, i, step, _r: alternating_flip(x, i.to(x.device), step.position // n, config.seed))
    if augment.translate:
        changes.append(lambda x, _i, _s, rng: translate(x, augment.translate, rng))
    if augment.policy == "trivial":
        changes.append(lambda x, _i, _s, rng: trivial_augment(x, rng))
    if augment.policy == "rand":
        changes.append(lambda x, _i, _s, rng: rand_augment(x, 2, augment.level, rng))
    if augment.cutout:
        changes.append(lambda x, _i, _s, rng: cutout(x, augment.cutout, rng))
    if curriculum.resolution < 1:
        start, until = curriculum.resolution, curriculum.until

        def smaller(images: torch.Tensor, _indices: torch.Tensor, step: Step, _rng: torch.Generator) -> torch.Tensor:
            return resize(images, resolution(step.done, start, until, min(images.shape[2:]), _SIDE_MULTIPLE))

        changes.append(smaller)
    return changes


def _mixing(
    config: TrainerConfig, n_classes: Callable[[], int]
) -> Callable[[torch.Tensor, torch.Tensor, torch.Generator], Batch] | None:
    a, b = config.augment.mixup, config.augment.cutmix
    if not a and not b:
        return None
    n = n_classes()
    if a and b:
        return lambda x, y, rng: mixup_or_cutmix(x, y, a, b, rng, n)
    if a:
        return lambda x, y, rng: mixup(x, y, a, rng, n)
    return lambda x, y, rng: cutmix(x, y, b, rng, n)


def images_of(loaded: LoadedTask) -> torch.Tensor | None:
    """Two training images (N, C, H, W), or None where inputs are anything else, or the task's own step reads them."""
    batch = loaded.train.take(torch.arange(min(2, loaded.train.n)))
    if loaded.task.step is not None or not isinstance(batch, tuple) or len(batch) != 2:
        return None
    return batch[0] if batch[0].ndim == 4 and batch[0].shape[1] <= 4 else None


def takes_smaller(loaded: LoadedTask, model: nn.Module) -> str:
    """Why a model cannot be trained on smaller images; empty if it can."""
    images = images_of(loaded)
    if images is None:
        return "it needs images as inputs"
    side = max(_SIDE_MULTIPLE, min(images.shape[2:]) // 2 // _SIDE_MULTIPLE * _SIDE_MULTIPLE)
    corner = images[:, :, :side, :side]  # for its shape alone; `resize` would import torchvision
    try:
        with torch.no_grad(), in_evaluation(model):
            model(corner)
    except (RuntimeError, AssertionError, ValueError):
        return f"the model takes images of one size only (tried a side of {side} pixels)"
    return ""


def takes_shorter(loaded: LoadedTask, model: nn.Module) -> str:
    """Why a model cannot be trained on shorter sequences; empty if it can."""
    batch = loaded.train.take(torch.arange(min(2, loaded.train.n)))
    is_pair = loaded.task.step is None and isinstance(batch, tuple) and len(batch) == 2
    if not is_pair or any(t.ndim != 2 or t.is_floating_point() for t in batch) or batch[0].shape != batch[1].shape:
        return "it needs sequences: integer inputs and targets of shape (N, T)"
    try:
        with torch.no_grad(), in_evaluation(model):
            model(truncate(batch, max(1, batch[0].shape[1] // 2))[0])
    except (RuntimeError, AssertionError, ValueError, IndexError):
        return "the model takes sequences of one length only"
    return ""
