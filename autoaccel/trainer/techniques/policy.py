"""Augmentation policies: each image of a batch gets operations drawn for it, from a list of 14 on shape and colour.

Card
    What: TrivialAugmentWide (one operation of random strength per image, nothing to tune) and RandAugment (one or two
        operations of one given strength).
    When it pays: many epochs, large models, 224-pixel images; RandAugment +0.7 % on ResNet-50 and +1.4 % on ResNet-101
        (Composer's card). Short trainings want none or a weak one.
    Cost: about 14 ms for 512 images of 3x32x32 on one core of an AMD EPYC (88 ms image by image through torchvision);
        two operations cost twice that. Up to 14 groups a batch, each with a few kernels, and one wait for the device,
        to learn how many images drew which operation.
    Source: arXiv 2103.10158; arXiv 1909.13719. Operations, ranges and rounding are those of torchvision's classes,
        which draw one operation for a whole batch.
    Order: after flip and translation, before cutout, resizing and mixing; the images still uint8.
    Conflicts: float images (their scale is not known); other than 1 or 3 channels; one policy, not both.

Images are uint8 of shape (N, C, H, W) with C = 1 or 3; the same comes out, and the input is never written to. They are
grouped by the operation they drew, and each is changed by its own strength, so a batch costs 14 calls and not N. `rng`
lives on the device of the images. Must not know models, labels or the config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import affine_grid, grid_sample

from autoaccel.errors import UsageError

Operation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Images (n, C, H, W) uint8 and a strength for each, float (n,); changed images."""

TOP_LEVEL = 30
"""Levels of strength are 0 .. 30, as in the papers and in torchvision (31 bins)."""


def trivial_augment(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """TrivialAugmentWide (arXiv 2103.10158): one operation per image, both it and its strength drawn uniformly.

    Raises:
        UsageError: images that are not uint8, or have other than 1 or 3 channels.
    """
    _check(images)
    levels = torch.randint(TOP_LEVEL + 1, (len(images),), generator=rng, device=images.device)
    return _apply_drawn(images, levels / TOP_LEVEL, _WIDE, rng)


def rand_augment(images: torch.Tensor, n_operations: int, level: int, rng: torch.Generator) -> torch.Tensor:
    """RandAugment (arXiv 1909.13719): operations drawn uniformly, one after the other, all of the same strength.

    Args:
        images: uint8, (N, C, H, W).
        n_operations: applied to each image; 1 or 2 are usual.
        level: strength of every operation, 0 .. 30; 9 is usual.
        rng: on the device of the images.

    Raises:
        UsageError: images that are not uint8, have other than 1 or 3 channels, or a level off its scale.
    """
    _check(images)
    if n_operations < 1 or not 0 <= level <= TOP_LEVEL:
        raise UsageError(
            f"RandAugment: {n_operations} operations of level {level}; at least 1, of level 0 .. {TOP_LEVEL}",
            "1 or 2 operations of level 9 are usual. Leave the policy out for none.",
        )
    strength = torch.full((len(images),), level / TOP_LEVEL, device=images.device)
    for _ in range(n_operations):
        images = _apply_drawn(images, strength, _rand_reach(*images.shape[2:]), rng)
    return images


def _check(images: torch.Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(
            f"augmentation policy: {images.dtype} of shape {tuple(images.shape)} is not a batch of uint8 images",
            "Give uint8 images of 0..255, shape (N, C, H, W) with 1 or 3 channels, or leave the policy out.",
        )


def _apply_drawn(
    images: torch.Tensor, strength: torch.Tensor, reach: dict[str, float], rng: torch.Generator
) -> torch.Tensor:
    """One drawn operation per image, in a drawn direction; strength (N,) in 0..1 is the share of its reach."""
    n = len(images)
    drawn = torch.randint(len(_OPERATIONS), (n,), generator=rng, device=images.device)
    towards = torch.randint(2, (n,), generator=rng, device=images.device) * 2 - 1
    sizes = drawn.bincount(minlength=len(_OPERATIONS)).tolist()
    changed = images.clone()
    for (name, operation), members in zip(_OPERATIONS.items(), drawn.argsort().split(sizes), strict=True):
        if len(members):
            changed[members] = operation(images[members], (strength * towards)[members] * reach[name])
    return changed


# -------------------------------------------------------------------------------------------------------------- shape
# What moves out of sight is lost, what comes into sight is black; nearest pixel. Matrices map a place of the result to
# its place in the image, both from -1 to 1 across the image.


def _shear_x(images: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Each row moves sideways by `slope` times its distance from the top."""
    slope = slope * images.shape[2] / images.shape[3]
    return _warp(images, xy=slope, x0=slope)


def _shear_y(images: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Each column moves up or down by `slope` times its distance from the left."""
    slope = slope * images.shape[3] / images.shape[2]
    return _warp(images, yx=slope, y0=slope)


def _translate_x(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return _warp(images, x0=-2 * pixels.trunc() / images.shape[3])


def _translate_y(images: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return _warp(images, y0=-2 * pixels.trunc() / images.shape[2])


def _rotate(images: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:
    sine, cosine = degrees.deg2rad().sin(), degrees.deg2rad().cos()
    ratio = images.shape[2] / images.shape[3]
    return _warp(images, xx=cosine, xy=-sine * ratio, yx=sine / ratio, yy=cosine)


def _warp(images: torch.Tensor, **entries: torch.Tensor) -> torch.Tensor:
    """Images moved by one matrix each: the identity but for these entries, (n,) each; x0 and y0 are the shift."""
    matrix = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for name, values in entries.items():
        matrix[:, "xy".index(name[0]), "xy0".index(name[1])] = values
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    moved = grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.to(torch.uint8)


# ------------------------------------------------------------------------------------------------------------- colour


def _brightness(images: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return _away_from(torch.zeros_like(images), images, change)


def _color(images: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return images if images.shape[1] == 1 else _away_from(_grey(images), images, change)


def _contrast(images: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return _away_from(_grey(images).float().mean((1, 2, 3), keepdim=True), images, change)


def _sharpness(images: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return _away_from(_library().adjust_sharpness(images, 0.0), images, change)


def _away_from(other: torch.Tensor, images: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Images moved away from `other` (a change above 0) or towards it (below 0; at -1 they are `other`)."""
    away = images.float() - other
    return away.mul_(change[:, None, None, None]).add_(images).clamp_(0, 255).to(torch.uint8)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """One channel of luminance, uint8."""
    return _library().rgb_to_grayscale(images)


def _posterize(images: torch.Tensor, n_bits: torch.Tensor) -> torch.Tensor:
    """Clear the lowest bits."""
    step = 2 ** n_bits.abs().round().long()[:, None, None, None]
    return (images // step * step).to(torch.uint8)


def _solarize(images: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Invert the brightest share of the scale."""
    threshold = 255 * (1 - share.abs())[:, None, None, None]
    return torch.where(images >= threshold, 255 - images, images)


def _autocontrast(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return _library().autocontrast(images)


def _equalize(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return _library().equalize(images)


def _identity(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return images


def _library() -> Any:
    """torchvision's functions on batches, loaded by the first policy; it takes seconds."""
    from torchvision.transforms.v2 import functional  # type: ignore[import-untyped]

    return functional


_OPERATIONS: dict[str, Operation] = {
    "identity": _identity,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
    "brightness": _brightness,
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}

_WIDE: dict[str, float] = {
    "identity": 0.0,
    "shear_x": 0.99,
    "shear_y": 0.99,
    "translate_x": 32.0,
    "translate_y": 32.0,
    "rotate": 135.0,
    "brightness": 0.99,
    "color": 0.99,
    "contrast": 0.99,
    "sharpness": 0.99,
    "posterize": 6.0,
    "solarize": 1.0,
    "autocontrast": 0.0,
    "equalize": 0.0,
}
"""The strongest change of TrivialAugmentWide: slope, pixels, degrees, factor, bits, share."""


def _rand_reach(height: int, width: int) -> dict[str, float]:
    """The strongest change of RandAugment, in the same units."""
    return {
        "identity": 0.0,
        "shear_x": 0.3,
        "shear_y": 0.3,
        "translate_x": 150 / 331 * width,
        "translate_y": 150 / 331 * height,
        "rotate": 30.0,
        "brightness": 0.9,
        "color": 0.9,
        "contrast": 0.9,
        "sharpness": 0.9,
        "posterize": 4.0,
        "solarize": 1.0,
        "autocontrast": 0.0,
        "equalize": 0.0,
    }
