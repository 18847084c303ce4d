"""Flips, shifts and holes: what they may change, and what they must leave."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from autoaccel.errors import UsageError
from autoaccel.trainer.techniques.augment import alternating_flip, cutout, flip, translate

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**63 - 1)
shapes = st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(3, 12), st.integers(3, 12))
dtypes = st.sampled_from([torch.uint8, torch.float32, torch.float16])

CHANGES: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "flip": flip,
    "alternating_flip": lambda images, _: alternating_flip(images, torch.arange(len(images)), 1, 5),
    "translate": lambda images, rng: translate(images, 2, rng),
    "cutout": lambda images, rng: cutout(images, 3, rng),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return (torch.rand(shape, generator=seeded(seed)) * 255).to(dtype)


# ---------------------------------------------------------------------------------------------------------- all of them


@quick
@given(st.sampled_from(sorted(CHANGES)), shapes, dtypes, seeds)
def test_shape_and_type_are_kept_the_input_is_untouched_and_equal_generators_agree(
    name: str, shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int
) -> None:
    images = noise(shape, seed, dtype)
    before = images.clone()
    once, again = (CHANGES[name](images, seeded(seed)) for _ in range(2))
    assert (once.shape, once.dtype) == (images.shape, dtype)
    assert torch.equal(images, before)
    assert torch.equal(once, again)


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_memory_order_makes_no_difference(name: str) -> None:
    images = noise((6, 3, 8, 10), 1)
    change = CHANGES[name]
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(change(strided, seeded(2)), change(images, seeded(2)))


@pytest.mark.parametrize("name", ["flip", "translate", "cutout"])
def test_the_generator_decides(name: str) -> None:
    images = noise((32, 1, 9, 9), 1)
    assert not torch.equal(CHANGES[name](images, seeded(1)), CHANGES[name](images, seeded(2)))


# ---------------------------------------------------------------------------------------------------------------- flips


@quick
@given(shapes, dtypes, seeds)
def test_the_same_flip_twice_is_no_flip(shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int) -> None:
    images = noise(shape, seed, dtype)
    assert torch.equal(flip(flip(images, seeded(seed)), seeded(seed)), images)


def test_a_flip_mirrors_half_of_the_images_left_to_right() -> None:
    images = noise((2000, 1, 3, 5), 1, torch.float32)
    flipped = flip(images, seeded(3))
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (kept | mirrored).all()
    assert 0.45 < mirrored.float().mean() < 0.55


@quick
@given(shapes, seeds, st.integers(0, 1000))
def test_two_epochs_in_a_row_show_every_image_both_ways_round(
    shape: tuple[int, int, int, int], seed: int, epoch: int
) -> None:
    images = noise(shape, seed)
    indices = torch.randint(2**32, (shape[0],), generator=seeded(seed))
    one, two, three = (alternating_flip(images, indices, epoch + k, seed) for k in range(3))
    assert torch.equal(two, one.flip(3))
    assert torch.equal(three, one)


def sides(indices: torch.Tensor, epoch: torch.Tensor | int, seed: int) -> torch.Tensor:
    """Whether each sample is flipped; bool, (N,)."""
    arrow = torch.tensor([0, 1]).expand(len(indices), 1, 1, 2)
    return alternating_flip(arrow, indices, epoch, seed)[:, 0, 0, 0] == 1


def test_a_flip_depends_on_the_sample_and_not_on_its_place_in_the_batch() -> None:
    order = torch.randperm(500, generator=seeded(1))
    assert torch.equal(sides(order, 3, 7), sides(torch.arange(500), 3, 7)[order])


def test_samples_of_one_batch_may_be_in_different_epochs() -> None:
    indices, epochs = torch.arange(100), torch.arange(100) // 40
    expected = torch.stack([sides(indices, k, 7) for k in range(3)])[epochs, indices]
    assert torch.equal(sides(indices, epochs, 7), expected)


@pytest.mark.parametrize("seed", [0, 1, 2, -1, 2**31, 2**32, 2**62])
def test_first_flips_look_drawn(seed: int) -> None:
    """Half of the samples; neighbours, samples at a power of two and the next seed agree half of the time."""
    first = sides(torch.arange(20_000), 0, seed)
    shares = [first, first[1:] == first[:-1], first[2:] == first[:-2], first[1024:] == first[:-1024]]
    shares.append(first == sides(torch.arange(20_000), 0, seed + 1))
    for share in shares:
        assert 0.48 < share.float().mean() < 0.52


def test_seeds_that_share_their_low_bits_differ() -> None:
    first = [sides(torch.arange(20_000), 0, seed) for seed in (0, 2**32, 2**62, 5 * 2**32)]
    agree = [float((one == two).float().mean()) for one, two in combinations(first, 2)]
    assert agree == pytest.approx([0.5] * 6, abs=0.02)


# --------------------------------------------------------------------------------------------------------- translations


@quick
@given(shapes, dtypes, seeds, st.data())
def test_a_translated_image_is_a_crop_of_the_padded_one(
    shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    height, width = shape[2:]
    pixels = data.draw(st.integers(1, min(height, width) - 1))
    images = noise(shape, seed, dtype)
    padded = pad(images.float(), [pixels] * 4, mode="reflect").to(dtype)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, places down, places across, H, W)
    moved = translate(images, pixels, seeded(seed))
    for image, candidates in zip(moved, crops.permute(0, 2, 3, 1, 4, 5).flatten(1, 2), strict=True):
        assert (candidates == image).flatten(1).all(1).any()


@quick
@given(shapes, dtypes, seeds)
def test_a_translation_by_no_pixels_is_none(shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int) -> None:
    images = noise(shape, seed, dtype)
    assert torch.equal(translate(images, 0, seeded(seed)), images)


def test_every_shift_is_drawn_equally_often() -> None:
    places = torch.arange(100).view(1, 1, 10, 10).expand(9000, 1, 10, 10)
    moved = translate(places, 1, seeded(1))
    counts = torch.stack([(moved[:, 0, 5, 5] == 55 + 10 * dy + dx).sum() for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    assert counts.sum() == 9000
    assert 880 < counts.min() <= counts.max() < 1120


@pytest.mark.parametrize("pixels", [-1, 8, 100])
def test_a_translation_that_reflection_cannot_fill_is_refused(pixels: int) -> None:
    with pytest.raises(UsageError, match=r"8x9 allow 0 \.\. 7"):
        translate(noise((2, 1, 8, 9), 1), pixels, seeded(1))


# --------------------------------------------------------------------------------------------------------------- cutout


@quick
@given(shapes, st.sampled_from([torch.uint8, torch.float32]), seeds, st.data())
def test_cutout_blanks_one_square_with_the_mean_of_the_image(
    shape: tuple[int, int, int, int], dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, min(shape[2:])))
    images = noise(shape, seed, dtype)
    cut = cutout(images, size, seeded(seed))
    for before, after in zip(images, cut, strict=True):
        changed = (before != after).any(0)
        assert int(changed.sum()) <= size**2
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        if not len(rows):
            continue
        hole = after[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert hole.shape[1] <= size
        assert hole.shape[2] <= size
        assert (hole.flatten(1).float() - before.float().mean((1, 2))[:, None]).abs().max() <= 0.501


def test_squares_lie_anywhere_and_are_cut_off_at_the_edges() -> None:
    images = noise((4000, 1, 8, 8), 1, torch.float32)
    changed = (cutout(images, 3, seeded(1)) != images)[:, 0]
    areas = changed.flatten(1).sum(1)
    assert areas.unique().tolist() == [4, 6, 9]
    assert (areas == 9).float().mean() == pytest.approx(36 / 64, abs=0.03)
    middle = changed[:, 3:5, 3:5].float().mean()
    assert middle == pytest.approx(9 / 64, abs=0.02)


@pytest.mark.parametrize("size", [-1, 9])
def test_a_hole_larger_than_the_image_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="8x9"):
        cutout(noise((2, 1, 8, 9), 1), size, seeded(1))
