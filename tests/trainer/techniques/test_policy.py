"""Augmentation policies: each operation is torchvision's, the draw is the papers', and a batch costs few calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as peer

from autoaccel.errors import UsageError
from autoaccel.trainer.techniques import policy
from autoaccel.trainer.techniques.policy import rand_augment, trivial_augment


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def affine(image: torch.Tensor, **changes: Any) -> torch.Tensor:
    fields = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **changes}
    return peer.affine(image, **fields)  # type: ignore[no-any-return]


def slope(magnitude: float) -> float:
    return math.degrees(math.atan(magnitude))


PEERS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "identity": lambda image, _: image,
    "shear_x": lambda image, m: affine(image, shear=[slope(m), 0.0], center=[0, 0]),
    "shear_y": lambda image, m: affine(image, shear=[0.0, slope(m)], center=[0, 0]),
    "translate_x": lambda image, m: affine(image, translate=[int(m), 0]),
    "translate_y": lambda image, m: affine(image, translate=[0, int(m)]),
    "rotate": lambda image, m: peer.rotate(image, m),
    "brightness": lambda image, m: peer.adjust_brightness(image, 1 + m),
    "color": lambda image, m: peer.adjust_saturation(image, 1 + m),
    "contrast": lambda image, m: peer.adjust_contrast(image, 1 + m),
    "sharpness": lambda image, m: peer.adjust_sharpness(image, 1 + m),
    "posterize": lambda image, m: peer.posterize(image, 8 - round(abs(m))),
    "solarize": lambda image, m: peer.solarize(image, 255 * (1 - abs(m))),
    "autocontrast": lambda image, _: peer.autocontrast(image),
    "equalize": lambda image, _: peer.equalize(image),
}
"""What each operation does to one image, in torchvision."""

POLICIES: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "trivial": trivial_augment,
    "rand": lambda images, rng: rand_augment(images, 2, 9, rng),
}


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 20, 32), (1, 32, 24)], ids=["square", "wide", "grey, tall"])
@pytest.mark.parametrize("name", sorted(policy._OPERATIONS))
def test_an_operation_on_a_batch_is_torchvisions_on_each_image(
    photos: torch.Tensor, name: str, shape: tuple[int, int, int]
) -> None:
    channels, height, width = shape
    images = photos[:62, :channels, :height, :width]
    magnitudes = torch.linspace(-1, 1, 62) * policy._WIDE[name]
    ours = policy._OPERATIONS[name](images, magnitudes)
    theirs = torch.stack([PEERS[name](image, float(m)) for image, m in zip(images, magnitudes, strict=True)])
    assert ours.dtype == torch.uint8
    away = (ours.int() - theirs.int()).abs()
    # A place exactly between two pixels may go either way; a blend that is almost whole may be cut to the number below.
    assert (away > 1).float().mean() < (1e-3 if name in ("shear_x", "shear_y", "rotate") else 1e-9)
    assert (away > 0).float().mean() < (3e-2 if name == "color" else 1e-3)


def test_the_reach_of_every_operation_is_torchvisions() -> None:
    spaces = [
        (v2.TrivialAugmentWide._AUGMENTATION_SPACE, policy._WIDE, (32, 32)),
        (v2.RandAugment._AUGMENTATION_SPACE, policy._rand_reach(20, 30), (20, 30)),
    ]
    for theirs, ours, (height, width) in spaces:
        names = {name.lower().replace("_", ""): name for name in ours}
        assert {name.lower() for name in theirs} == names.keys()
        for name, (bins, _) in theirs.items():
            values = bins(31, height, width)
            top = 0.0 if values is None else abs(float(values[-1]) - float(values[0]))
            assert ours[names[name.lower()]] == pytest.approx(top), name


def changes(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Mean absolute change of each image."""
    return (before.float() - after.float()).abs().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (trivial_augment, v2.TrivialAugmentWide()),
        (lambda images, rng: rand_augment(images, 1, 9, rng), v2.RandAugment(1, 9)),
        (lambda images, rng: rand_augment(images, 2, 20, rng), v2.RandAugment(2, 20)),
    ],
    ids=["trivial", "rand 1 of 9", "rand 2 of 20"],
)
def test_images_change_as_much_as_with_torchvisions_classes(
    photos: torch.Tensor, ours: Callable[[torch.Tensor, torch.Generator], torch.Tensor], theirs: Any
) -> None:
    torch.manual_seed(1)
    peers = changes(photos, torch.stack([theirs(image) for image in photos]))
    rng = seeded(1)
    mine = torch.cat([changes(photos, ours(photos, rng)) for _ in range(8)])
    assert float(mine.mean()) == pytest.approx(float(peers.mean()), rel=0.15)
    assert ks_2samp(mine.numpy(), peers.numpy()).pvalue > 0.01


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """The strengths of every call, by operation."""
    calls: dict[str, list[torch.Tensor]] = {name: [] for name in policy._OPERATIONS}

    def watched(name: str, operation: policy.Operation) -> policy.Operation:
        def call(images: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
            calls[name].append(strengths)
            assert len(images) == len(strengths)
            return operation(images, strengths)

        return call

    monkeypatch.setattr(policy, "_OPERATIONS", {name: watched(name, each) for name, each in policy._OPERATIONS.items()})
    return calls


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_batch_costs_a_call_per_operation_and_every_operation_is_drawn(
    photos: torch.Tensor, name: str, drawn: dict[str, list[torch.Tensor]]
) -> None:
    POLICIES[name](photos, seeded(1))
    rounds = 2 if name == "rand" else 1
    assert all(len(calls) == rounds for calls in drawn.values())
    sizes = [len(torch.cat(calls)) / rounds for calls in drawn.values()]
    assert sum(sizes) == 512
    assert 15 < min(sizes) <= max(sizes) < 65  # 512 / 14 = 37 images


def test_levels_and_directions_are_drawn_equally_often(
    photos: torch.Tensor, drawn: dict[str, list[torch.Tensor]]
) -> None:
    for seed in range(20):
        trivial_augment(photos, seeded(seed))
        rand_augment(photos, 1, 12, seeded(seed))
    rotations = drawn["rotate"]
    levels, counts = (torch.cat(rotations[::2]).abs() / 135 * 30).round().unique(return_counts=True)
    assert levels.tolist() == list(range(31))
    assert 5 < counts.min() <= counts.max() < 50  # 20 * 512 / 14 / 31 = 24
    given, counts = torch.cat(rotations[1::2]).unique(return_counts=True)
    assert given.tolist() == pytest.approx([-12, 12])
    assert 0.42 < float(counts[0] / counts.sum()) < 0.58


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_keeps_shape_and_type_leaves_its_input_and_follows_its_generator(
    photos: torch.Tensor, name: str, n: int, channels: int
) -> None:
    images = photos[:n, :channels]
    before = images.clone()
    once, again = (POLICIES[name](images, seeded(3)) for _ in range(2))
    assert (once.shape, once.dtype) == (images.shape, torch.uint8)
    assert torch.equal(images, before)
    assert torch.equal(once, again)
    assert n < 40 or not torch.equal(once, POLICIES[name](images, seeded(4)))


def test_a_higher_level_changes_more_and_so_do_two_operations(photos: torch.Tensor) -> None:
    def mean(n_operations: int, level: int) -> float:
        return float(changes(photos, rand_augment(photos, n_operations, level, seeded(1))).mean())

    assert mean(1, 0) < mean(1, 5) < mean(1, 15) < mean(1, 30)
    assert mean(1, 9) < mean(2, 9)


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize(
    "images",
    [torch.rand(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)],
    ids=["float", "four channels", "one image"],
)
def test_what_is_not_a_batch_of_uint8_images_is_refused_with_a_hint(name: str, images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="not a batch of uint8 images") as error:
        POLICIES[name](images, seeded(1))
    assert "leave the policy out" in error.value.hint


@pytest.mark.parametrize(("n_operations", "level"), [(0, 9), (1, 31), (1, -1)])
def test_a_strength_off_the_scale_is_refused(photos: torch.Tensor, n_operations: int, level: int) -> None:
    with pytest.raises(UsageError, match=r"level 0 \.\. 30"):
        rand_augment(photos, n_operations, level, seeded(1))
