"""Mixup and cutmix: what an image shows is what its target says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.trainer.techniques.mixing import Mixed, cutmix, mixup, mixup_or_cutmix

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**63 - 1)
shapes = st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12))
alphas = st.floats(0.01, 5)

Mix = Callable[[torch.Tensor, torch.Tensor, float, torch.Generator, int], Mixed]
MIXES: dict[str, Mix] = {
    "mixup": mixup,
    "cutmix": cutmix,
    "either": lambda images, targets, alpha, rng, n: mixup_or_cutmix(images, targets, alpha, alpha, rng, n),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(n: int, height: int, width: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """n images, image k all of value k and alone of class k: what is mixed into it can be read off."""
    images = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, channels, height, width)
    return images, torch.arange(n)


@quick
@given(st.sampled_from(sorted(MIXES)), shapes, alphas, seeds, st.sampled_from([torch.uint8, torch.float32]))
def test_mixing_keeps_shapes_and_inputs_weights_sum_to_one_and_equal_generators_agree(
    name: str, shape: tuple[int, int, int, int], alpha: float, seed: int, dtype: torch.dtype
) -> None:
    images = (torch.rand(shape, generator=seeded(seed)) * 255).to(dtype)
    targets = torch.randint(4, (shape[0],), generator=seeded(seed))
    before = images.clone(), targets.clone()
    mixed, soft = MIXES[name](images, targets, alpha, seeded(seed), 4)
    again = MIXES[name](images, targets, alpha, seeded(seed), 4)
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])
    assert torch.equal(mixed, again[0])
    assert torch.equal(soft, again[1])
    assert mixed.shape == images.shape
    assert mixed.dtype == (torch.uint8 if name == "cutmix" and dtype == torch.uint8 else torch.float32)
    assert mixed.min() >= images.min()
    assert mixed.max() <= images.max()
    assert (soft.shape, soft.dtype) == ((shape[0], 4), torch.float32)
    assert (soft >= 0).all()
    torch.testing.assert_close(soft.sum(1), torch.ones(shape[0]))


@quick
@given(st.sampled_from(sorted(MIXES)), st.integers(2, 9), st.integers(1, 12), st.integers(1, 12), alphas, seeds)
def test_a_target_weighs_each_class_by_how_much_of_it_the_image_shows(
    name: str, n: int, height: int, width: int, alpha: float, seed: int
) -> None:
    images, targets = plain(n, height, width, channels=3)
    mixed, soft = MIXES[name](images, targets, alpha, seeded(seed), n)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(n, dtype=torch.float32), rtol=1e-4, atol=1e-4)
    assert ((soft > 0).sum(1) <= 2).all()


@quick
@given(st.integers(2, 9), alphas, seeds)
def test_every_sample_of_a_batch_has_one_partner_and_all_have_the_same_weight(n: int, alpha: float, seed: int) -> None:
    images, targets = plain(n, 8, 8)
    for mix in MIXES.values():
        _, soft = mix(images, targets, alpha, seeded(seed), n)
        torch.testing.assert_close(soft.sum(0), torch.ones(n))  # a permutation uses each sample once as partner
        own = soft.diagonal()
        mixed_own = own[own < 1 - 1e-6]
        assert len(mixed_own) == 0 or float(mixed_own.max() - mixed_own.min()) < 1e-6


def test_cutmix_pastes_the_same_box_at_the_same_place() -> None:
    images, targets = plain(8, 12, 16)
    shown, areas = [], []
    for seed in range(200):
        mixed, _ = cutmix(images, targets, 1.0, seeded(seed), 8)
        foreign = (mixed != images)[:, 0]
        boxes = foreign[foreign.flatten(1).any(1)]
        if not len(boxes):
            continue
        assert (boxes == boxes[0]).all()
        rows, columns = boxes[0].any(1).nonzero(), boxes[0].any(0).nonzero()
        box = boxes[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all()
        shown.append(boxes[0])
        areas.append(float(boxes[0].float().mean()))
    assert torch.stack(shown).any(0).all()  # every pixel is in some box
    assert min(areas) < 0.1
    assert max(areas) > 0.6


def test_a_box_covers_the_drawn_share_unless_an_edge_cuts_it_off() -> None:
    images, targets = plain(8, 32, 32)
    foreign = torch.stack([cutmix(images, targets, 2000.0, seeded(seed), 8)[0] != images for seed in range(300)])
    boxes = foreign[:, :, 0].any(1)  # (batches, H, W)
    assert float(boxes.float().mean((1, 2)).max()) == pytest.approx(0.5, abs=0.07)
    edges = [boxes[:, 0], boxes[:, -1], boxes[:, :, 0], boxes[:, :, -1]]
    assert [float(edge.any(1).float().mean()) for edge in edges] == pytest.approx([0.35] * 4, abs=0.08)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_mixup_weights_follow_the_beta_distribution(alpha: float) -> None:
    images, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    rng = seeded(1)
    draws = [mixup(images, targets, alpha, rng, 2)[0].flatten() for _ in range(4000)]
    # a sample that is its own partner shows nothing
    shares = torch.stack([pair[0] for pair in draws if not torch.equal(pair, images.flatten())])
    if alpha >= 1:
        assert 0.45 < len(shares) / len(draws) < 0.55
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    else:
        assert ((shares < 0.1) | (shares > 0.9)).float().mean() > 0.5
        assert (shares > 0).all()
    assert shares.isfinite().all()


def test_one_of_both_is_drawn_per_batch_each_half_of_the_time() -> None:
    images, targets = plain(16, 16, 16)
    n_mixup = 0
    for seed in range(400):
        mixed, _ = mixup_or_cutmix(images, targets, 1.0, 1.0, seeded(seed), 16)
        is_pasted = (mixed == mixed.round()).all()
        is_blended = (mixed.amax((1, 2, 3)) - mixed.amin((1, 2, 3))).max() == 0
        assert is_pasted or is_blended
        n_mixup += not is_pasted
    assert 160 < n_mixup < 240


def test_the_weights_of_both_keep_their_own_alphas() -> None:
    """A large alpha blends evenly; a tiny one would take one image whole."""
    images, targets = plain(16, 16, 16)
    draws = [mixup_or_cutmix(images, targets, 500.0, 1e-3, seeded(seed), 16) for seed in range(100)]
    blended = [float(soft.diagonal().min()) for mixed, soft in draws if not torch.equal(mixed, mixed.round())]
    assert len(blended) > 30
    assert blended == pytest.approx([0.5] * len(blended), abs=0.1)


def test_half_precision_images_stay_so() -> None:
    images, targets = plain(4, 3, 3)
    for mix in MIXES.values():
        assert mix(images.to(torch.bfloat16), targets, 1.0, seeded(1), 4)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", sorted(MIXES))
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_an_alpha_that_is_not_above_zero_is_refused(name: str, alpha: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        MIXES[name](*plain(4, 3, 3), alpha, seeded(1), 4)


@pytest.mark.parametrize("name", sorted(MIXES))
@pytest.mark.parametrize("targets", [torch.rand(4), torch.zeros(4, 2, dtype=torch.long)], ids=["float", "per token"])
def test_targets_that_are_not_classes_are_refused(name: str, targets: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="one integer class per sample"):
        MIXES[name](plain(4, 3, 3)[0], targets, 1.0, seeded(1), 4)
