"""Batches in which every sample is mixed with another one: images and soft targets.

Card
    What: mixup (a weighted sum of two images), cutmix (a box of one image pasted into another), or one of both a batch.
    When it pays: long trainings of large classifiers, with label noise or strong overfitting. In short trainings it
        slows the fit: use a small alpha or none.
    Cost: one pass over the batch: about 6 ms for mixup and 3.5 ms for cutmix, for 512 uint8 images of 3x32x32 on one
        core of an AMD EPYC. No wait for the device. Accuracy on mixed batches says little.
    Source: arXiv 1710.09412; arXiv 1905.04899; both with probability one half each, arXiv 2110.00476.
    Order: last before normalisation and the model; the loss takes soft targets (cross-entropy or binary cross-entropy).
        Label smoothing is applied by the loss, on top.
    Conflicts: losses per sample (pruning, selective backprop, importance sampling), because a loss then belongs to two
        samples; targets that are not classes.

Images have shape (N, C, H, W), targets are int64 classes (N,); out come images of the same shape and float32 targets
(N, n_classes) whose rows sum to 1. One weight is drawn per batch, and each sample has one partner in a random order of
the batch, as in the papers. Inputs are never written to. `rng` lives on the device of the images. Must not know models,
losses or the config.
"""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from autoaccel.errors import UsageError

Mixed = tuple[torch.Tensor, torch.Tensor]
"""Images and soft targets."""


def mixup(images: torch.Tensor, targets: torch.Tensor, alpha: float, rng: torch.Generator, n_classes: int) -> Mixed:
    """Add to each image its partner's, with weights w and 1 - w, w ~ Beta(alpha, alpha) (arXiv 1710.09412).

    Args:
        images: (N, C, H, W); float images keep their type, others become float32 on the same scale.
        targets: int64, (N,), below n_classes.
        alpha: above 0; small means mostly one image, 1 means any weight. 0.1 - 0.4 are usual.
        rng: on the device of the images.
        n_classes: of the task.

    Raises:
        UsageError: alpha not above 0, or targets that are not one class each.
    """
    _check(targets, alpha)
    partners = _partners(images, rng)
    return _blend(images, targets, _drawn_share(alpha, rng), partners, n_classes)


def cutmix(images: torch.Tensor, targets: torch.Tensor, alpha: float, rng: torch.Generator, n_classes: int) -> Mixed:
    """Paste into each image the same box of its partner; targets weigh what each image shows (arXiv 1905.04899).

    The box covers a share ~ Beta(alpha, alpha) of the image, is centred on any of its pixels, and is cut off at the
    edges; targets weigh by what is left of it. Images keep their type.

    Args:
        images: (N, C, H, W), any type.
        targets: int64, (N,), below n_classes.
        alpha: above 0; 1 is usual.
        rng: on the device of the images.
        n_classes: of the task.

    Raises:
        UsageError: alpha not above 0, or targets that are not one class each.
    """
    _check(targets, alpha)
    partners = _partners(images, rng)
    box = _drawn_box(images, alpha, rng)
    return torch.where(box, images[partners], images), _soft_targets(targets, box, partners, n_classes)


def mixup_or_cutmix(
    images: torch.Tensor,
    targets: torch.Tensor,
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: torch.Generator,
    n_classes: int,
) -> Mixed:
    """One of both for the whole batch, with probability one half each (arXiv 2110.00476); arguments as theirs.

    Images that are not float become float32 either way, so that the type does not change from batch to batch. Both
    weights are drawn and one is used: an if would wait for the device.
    """
    _check(targets, mixup_alpha)
    _check(targets, cutmix_alpha)
    partners = _partners(images, rng)
    share, box = _drawn_share(mixup_alpha, rng), _drawn_box(images, cutmix_alpha, rng)
    heads = torch.rand((), generator=rng, device=images.device) < 0.5
    return _blend(images, targets, torch.where(heads, share, box.to(share.dtype)), partners, n_classes)


def _check(targets: torch.Tensor, alpha: float) -> None:
    if not alpha > 0:
        raise UsageError(f"mixing with alpha {alpha}: has to be above 0", "Leave mixing out, or use 0.1 to 1.")
    if targets.ndim != 1 or targets.is_floating_point():
        raise UsageError(
            f"mixing needs one integer class per sample; these targets are {targets.dtype} of {tuple(targets.shape)}",
            "Leave mixing out for this task.",
        )


def _partners(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return torch.randperm(len(images), generator=rng, device=images.device)


def _drawn_share(alpha: float, rng: torch.Generator) -> torch.Tensor:
    """The partner's share, ~ Beta(alpha, alpha); a scalar.

    Gamma(alpha) / (Gamma(alpha) + Gamma(alpha)), by the function under torch.distributions, which takes no generator.
    float64, because small alphas give numbers too small for float32.
    """
    rates = torch.full((2,), alpha, dtype=torch.float64, device=rng.device)
    drawn = torch._standard_gamma(rates, generator=rng)
    return drawn[0] / drawn.sum()


def _drawn_box(images: torch.Tensor, alpha: float, rng: torch.Generator) -> torch.Tensor:
    """Which pixels are the partner's; bool, (H, W)."""
    side_share = _drawn_share(alpha, rng).sqrt()
    inside = []
    for side in images.shape[2:]:
        length = (side * side_share).long()
        start = torch.randint(side, (), generator=rng, device=images.device) - length // 2
        places = torch.arange(side, device=images.device)
        inside.append((places >= start) & (places < start + length))
    return inside[0][:, None] & inside[1]


def _blend(
    images: torch.Tensor, targets: torch.Tensor, share: torch.Tensor, partners: torch.Tensor, n_classes: int
) -> Mixed:
    """Images and targets with a share of their partners', a scalar or one per pixel (H, W)."""
    images = images if images.is_floating_point() else images.float()
    mixed = torch.lerp(images, images[partners], share.to(images.dtype))
    return mixed, _soft_targets(targets, share, partners, n_classes)


def _soft_targets(targets: torch.Tensor, share: torch.Tensor, partners: torch.Tensor, n_classes: int) -> torch.Tensor:
    own = one_hot(targets.long(), n_classes).float()
    return torch.lerp(own, own[partners], share.double().mean().float())
