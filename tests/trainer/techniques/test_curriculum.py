"""Sizes as functions of progress: they start small, never fall, take few values and end full."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.trainer.techniques.curriculum import batch_size, resize, resolution, sequence_length, truncate

quick = settings(deadline=None, max_examples=100)
PROGRESS = [k / 1000 for k in range(1001)]
shares = st.floats(0.01, 1)
sides = st.integers(1, 600)
multiples = st.sampled_from([1, 4, 8, 32])


# ---------------------------------------------------------------------------------------------------------------- sizes


@quick
@given(st.sampled_from([resolution, sequence_length]), shares, shares, sides, multiples)
def test_a_size_grows_in_few_multiples_to_the_full_one(  # type: ignore[no-untyped-def]
    grown, start: float, until: float, full: int, multiple: int
) -> None:
    course = [grown(progress, start, until, full, multiple) for progress in PROGRESS]
    assert course == sorted(course)
    assert len(set(course)) <= 4
    assert all(size == full or (0 < size < full and size % multiple == 0) for size in course)
    assert all(size == full for size, progress in zip(course, PROGRESS, strict=True) if progress >= until)
    assert abs(course[0] - start * full) <= multiple


@quick
@given(shares, shares)
def test_below_the_full_size_growth_keeps_to_a_line(start: float, until: float) -> None:
    full = 10_000
    for progress in PROGRESS:
        line = full * (start + (1 - start) * min(1, progress / until))
        size = resolution(progress, start, until, full, 1)
        assert line - full * (1 - start) / 3 - 1 <= size <= line + 1


@pytest.mark.parametrize(
    ("progress", "side"), [(0, 16), (0.19, 16), (0.2, 20), (0.39, 20), (0.4, 28), (0.59, 28), (0.6, 32), (1, 32)]
)
def test_known_sides(progress: float, side: int) -> None:
    assert resolution(progress, start=0.5, until=0.6, full=32, multiple=4) == side


def test_no_curriculum_is_full_from_the_first_step() -> None:
    assert resolution(0, start=0.5, until=0, full=32, multiple=4) == 32
    assert sequence_length(0, start=1, until=0.5, full=32, multiple=4) == 32
    assert batch_size(0, ramp=0, full=32) == 32


@quick
@given(st.just(0.0) | st.floats(0.01, 1), st.integers(1, 5000))
def test_a_batch_doubles_twice_at_most_and_ends_full(ramp: float, full: int) -> None:
    course = [batch_size(progress, ramp, full) for progress in PROGRESS]
    assert course == sorted(course)
    assert set(course) <= {max(1, full // 4), max(1, full // 2), full}
    assert course[-1] == full
    if ramp > 0:
        assert course[0] == max(1, full // 4)
    small, half = course.count(full // 4), course.count(full // 2)
    if full >= 4:
        assert abs(small - half) <= 1  # equal parts of the ramp
        assert abs((small + half) / 1000 - ramp) < 0.003


# ---------------------------------------------------------------------------------------------------- images, sequences


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resized_images_keep_type_range_and_mean(photos: torch.Tensor, dtype: torch.dtype) -> None:
    images = photos.to(dtype)
    before = images.clone()
    small = resize(images, 20)
    assert (small.shape, small.dtype) == ((512, 3, 20, 20), dtype)
    assert torch.equal(images, before)
    assert small.min() >= -1e-3
    assert small.max() <= 255 + 1e-3
    assert float(small.float().mean()) == pytest.approx(float(images.float().mean()), abs=0.5)


def test_resizing_averages_what_it_drops() -> None:
    """One white column in four: without antialiasing every fourth is looked at, and the lines are lost."""
    lines = (torch.arange(32) % 4 == 0).mul(255).to(torch.uint8).expand(2, 1, 32, 32)
    assert (resize(lines, 8)[..., 1:-1].float() - 255 / 4).abs().max() < 15


def test_the_shorter_side_is_set_and_proportions_are_kept(photos: torch.Tensor) -> None:
    assert resize(photos[:2, :, :16], 8).shape == (2, 3, 8, 16)
    assert resize(photos[:2, :, :, :16], 8).shape == (2, 3, 16, 8)


def test_images_of_that_side_cost_nothing(photos: torch.Tensor) -> None:
    assert resize(photos, 32) is photos


def test_a_side_of_no_pixels_is_refused(photos: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="0 pixels"):
        resize(photos, 0)


@quick
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 50))
def test_cut_sequences_are_the_beginnings(n: int, n_tokens: int, length: int) -> None:
    inputs = torch.arange(n * (n_tokens + 1)).view(n, n_tokens + 1)
    cut, targets = truncate((inputs[:, :-1], inputs[:, 1:]), length)
    assert cut.shape == targets.shape == (n, min(length, n_tokens))
    assert torch.equal(cut, inputs[:, : cut.shape[1]])
    assert torch.equal(targets, cut + 1)


@pytest.mark.parametrize(
    ("batch", "length"),
    [
        ((torch.zeros(2, 8), torch.zeros(2)), 4),
        ((torch.zeros(2, 8), torch.zeros(2, 7)), 4),
        ((torch.zeros(2), torch.zeros(2)), 4),
        ((torch.zeros(2, 8), torch.zeros(2, 8)), 0),
    ],
    ids=["one target per sequence", "other length", "no tokens", "to nothing"],
)
def test_a_batch_that_cannot_be_cut_is_refused(batch: tuple[torch.Tensor, ...], length: int) -> None:
    with pytest.raises(UsageError, match="a batch of shapes"):
        truncate(batch, length)
