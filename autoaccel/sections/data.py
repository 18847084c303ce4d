"""Settings of the data: which samples, how they are read, what is done to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from autoaccel.sections.checks import check, one_of, positive_int


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which samples a batch is made of."""

    sampling: Literal["uniform", "class_balanced", "importance", "infobatch", "selective"] = "uniform"
    """uniform: every sample once per epoch. class_balanced: every class equally often, with replacement. importance:
    from the second epoch on by the last loss, weighted so that the mean gradient stays (arXiv 1803.00942). infobatch:
    every epoch leaves out some of the samples whose last loss is below the mean (arXiv 2303.04947). selective: a step
    looks at more samples than it trains on and takes those with the largest losses (arXiv 1910.00762)."""
    prune: float = 0.5
    """infobatch: share of the samples with a loss below the mean that is left out; the others weigh more for it."""
    prune_until: float = 0.875
    """infobatch: share of the horizon from which nothing is left out any more."""
    keep: float = 0.5
    """selective: share of the samples looked at that is trained on."""
    keep_from: float = 0.5
    """selective: share of the horizon at which choosing begins."""
    keep_until: float = 0.9
    """selective: share of the horizon at which it ends."""
    order: Literal["shuffled", "easy_to_hard"] = "shuffled"
    """easy_to_hard: from the second epoch on, a growing part of the samples, by their last loss (arXiv 1904.03626)."""
    order_until: float = 0.5
    """easy_to_hard: share of the horizon from which all samples are drawn again."""

    repeats: int = 1
    """How often each sample that is drawn occurs in its batch; only augmentation tells the copies apart (arXiv
    1901.09335)."""
    echo: int = 1
    """Consecutive steps that use a batch once it was read (arXiv 1907.05550)."""

    def __post_init__(self) -> None:
        names = ("uniform", "class_balanced", "importance", "infobatch", "selective")
        one_of(names, "data.sampling", self.sampling)
        check(0 < self.prune <= 0.9, "data.prune", self.prune, "above 0 and at most 0.9")
        check(0 < self.prune_until <= 1, "data.prune_until", self.prune_until, "above 0 and at most 1")
        check(0.1 <= self.keep < 1, "data.keep", self.keep, "at least 0.1 and below 1")
        check(0 <= self.keep_from < 1, "data.keep_from", self.keep_from, "between 0 and 1, 1 excluded")
        ok = self.keep_from < self.keep_until <= 1
        check(ok, "data.keep_until", self.keep_until, f"above data.keep_from ({self.keep_from:g}) and at most 1")
        one_of(("shuffled", "easy_to_hard"), "data.order", self.order)
        check(0 < self.order_until <= 1, "data.order_until", self.order_until, "above 0 and at most 1")
        check(positive_int(self.repeats), "data.repeats", self.repeats, "a whole number >= 1")
        check(positive_int(self.echo), "data.echo", self.echo, "a whole number >= 1")

    @property
    def known_ahead(self) -> bool:
        """Whether the samples of all steps follow from the seed alone, not from what the training finds."""
        return self.sampling in ("uniform", "class_balanced") and self.order == "shuffled"


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How samples that do not fit on the device, or are augmented when they are read, get there."""

    workers: int = 0
    """Processes that read samples ahead of the training; 0: it reads them itself."""
    prefetch: int = 2
    """Batches that every worker is ahead."""
    pin: bool = False
    """Workers put batches into page-locked memory, from where they are copied while the device computes."""

    def __post_init__(self) -> None:
        workers_ok = self.workers == 0 or positive_int(self.workers)
        check(workers_ok, "loader.workers", self.workers, "a whole number >= 0")
        check(positive_int(self.prefetch), "loader.prefetch", self.prefetch, "a whole number >= 1")


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is changed in the images of a batch, on the device, before the model sees them."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirrored left to right: at random, or every other epoch (arXiv 2404.00498)."""
    translate: int = 0
    """Shifted by up to so many pixels, the edges mirrored."""
    cutout: int = 0
    """Side in pixels of one square that is blanked (arXiv 1708.04552)."""
    policy: Literal["none", "trivial", "rand"] = "none"
    """Random operations: TrivialAugment (arXiv 2103.10158) or RandAugment with two of them (arXiv 1909.13719)."""
    level: int = 9
    """Strength of RandAugment's operations, 1 to 30."""
    mixup: float = 0.0
    """Alpha of the weights with which pairs are mixed (arXiv 1710.09412); 0: not."""
    cutmix: float = 0.0
    """Alpha of the share that is pasted in from another image (arXiv 1905.04899); 0: not. With both, one a batch."""

    def __post_init__(self) -> None:
        flips, policies = ("none", "random", "alternating"), ("none", "trivial", "rand")
        check(self.flip in flips, "augment.flip", self.flip, "'none', 'random' or 'alternating'")
        for name in ("translate", "cutout"):
            value = getattr(self, name)
            check(value == 0 or positive_int(value), f"augment.{name}", value, "a whole number of pixels >= 0")
        check(self.policy in policies, "augment.policy", self.policy, "'none', 'trivial' or 'rand'")
        check(positive_int(self.level) and self.level <= 30, "augment.level", self.level, "a whole number from 1 to 30")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            check(0 <= value < math.inf, f"augment.{name}", value, "a finite number >= 0")


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Samples that are smaller early in the training."""

    resolution: float = 1.0
    """Side of the first images as a share of the full one (progressive resizing, arXiv 2104.00298); 1: always full."""
    sequence: float = 1.0
    """Length of the first sequences as a share of the full one (arXiv 2108.06084); 1: full throughout."""
    until: float = 0.6
    """Share of the horizon from which samples are full."""
    batch: Literal["same", "larger"] = "same"
    """larger: a step takes as many more samples as these have fewer pixels or tokens, so that it fills the device."""

    def __post_init__(self) -> None:
        for name in ("resolution", "sequence"):
            value = getattr(self, name)
            check(0.1 <= value <= 1, f"curriculum.{name}", value, "between 0.1 and 1")
        one_of(("same", "larger"), "curriculum.batch", self.batch)
        check(0 < self.until <= 1, "curriculum.until", self.until, "between 0 and 1, 0 excluded")
