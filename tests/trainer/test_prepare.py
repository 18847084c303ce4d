"""Augmentation, curricula and mixing through the real loop: each setting changes the training, alone and repeatably."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.errors import UsageError
from autoaccel.trainer.applicability import unavailable
from autoaccel.trainer.build import build
from autoaccel.trainer.flops import step_flops
from autoaccel.trainer.parts import LoadedTask, Step
from autoaccel.trainer.prepare import step_size
from tests.kits.toys import LENGTH, SIDE, N, Pixels, Words, photos

Runner = Callable[..., Any]
Loader = Callable[..., LoadedTask]


@pytest.fixture
def images(load: Loader) -> LoadedTask:
    return load(model=Pixels, train=photos(N, 1), validation=photos(30, 2))


CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"augment.flip": "random"}, {}),
    ({"augment.flip": "alternating"}, {}),
    ({"augment.flip": "alternating"}, {"augment.flip": "random"}),
    ({"augment.translate": 3}, {}),
    ({"augment.cutout": 6}, {}),
    ({"augment.policy": "trivial"}, {}),
    ({"augment.policy": "rand"}, {}),
    ({"augment.level": 20}, {"augment.policy": "rand"}),
    ({"augment.mixup": 0.4}, {}),
    ({"augment.cutmix": 1.0}, {}),
    ({"augment.cutmix": 1.0}, {"augment.mixup": 0.4}),
    ({"curriculum.resolution": 0.5}, {}),
    ({"curriculum.until": 0.3}, {"curriculum.resolution": 0.5}),
    ({"curriculum.batch": "larger"}, {"curriculum.resolution": 0.5}),
]


@pytest.mark.parametrize(
    ("change", "others"), CHANGES, ids=lambda params: ",".join(f"{k}={v}" for k, v in params.items())
)
def test_a_setting_changes_the_weights_and_repeats_itself(
    run: Runner, images: LoadedTask, change: dict[str, Any], others: dict[str, Any]
) -> None:
    before, once, again = run(others, images), run({**others, **change}, images), run({**others, **change}, images)
    assert before.ended.outcome == once.ended.outcome == "finished"
    assert torch.equal(once.weights, again.weights)
    assert not torch.equal(before.weights, once.weights)


EVERYTHING: dict[str, Any] = {
    "augment.flip": "alternating",
    "augment.translate": 2,
    "augment.policy": "trivial",
    "augment.cutout": 4,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
    "curriculum.resolution": 0.5,
    "batch.accumulation": 2,
    "batch.ramp": 0.5,
}


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_with_everything_on_a_stopped_training_goes_on_bit_for_bit(
    run: Runner, images: LoadedTask, tmp_path: Path, steps: int
) -> None:
    answers = iter([False] * (steps - 1) + [True])
    whole = run(EVERYTHING, images)
    stopped = run(EVERYTHING, images, folder=tmp_path, stopped=lambda: next(answers))
    assert stopped.ended.outcome == "stopped" and stopped.ended.steps == steps
    resumed = run(EVERYTHING, images, folder=tmp_path, resume=True)
    assert torch.equal(resumed.weights, whole.weights)
    assert resumed.ended.flops == whole.ended.flops


def test_pieces_of_a_batch_are_augmented_differently_and_a_repeated_step_the_same(
    images: LoadedTask, config: Callable[..., Any]
) -> None:
    parts = build(images, config({"augment.translate": 5, "batch.size": 24, "batch.accumulation": 2}))
    same = (images.train.tensors[0][:1].repeat(12, 1, 1, 1), torch.zeros(12, dtype=torch.int64))
    indices, step = torch.zeros(12, dtype=torch.int64), Step(5, 120, 0.4, 24)
    first, second = (parts.prepare(same, indices, step)[0] for _ in range(2))
    assert not torch.equal(first, second), "two pieces of one step"
    assert torch.equal(parts.prepare(same, indices, step)[0], first), "the step computed again"
    later = Step(6, 144, 0.5, 24)
    assert not torch.equal(parts.prepare(same, indices, later)[0], first)


def test_images_grow_to_their_full_size_and_evaluations_see_it(run: Runner, load: Loader) -> None:
    seen: list[tuple[int, torch.dtype]] = []
    loaded = load(model=lambda: Pixels(seen), train=photos(N, 1), validation=photos(30, 2))
    run({"curriculum.resolution": 0.5, "curriculum.until": 0.5}, loaded)
    sides = [side for side, _ in seen]
    assert sides == sorted(sides) and sides[0] == 8 and set(sides[6:]) == {SIDE} and len(sides) == 12
    assert {dtype for _, dtype in seen} == {torch.uint8}, "uint8 stays uint8 until the model"


def test_sequences_grow_to_their_full_length(run: Runner, load: Loader) -> None:
    seen: list[int] = []
    tokens = torch.arange(N * LENGTH).reshape(N, LENGTH) % 7
    loaded = load(model=lambda: Words(seen), train=(tokens, tokens), validation=(tokens[:8], tokens[:8]))
    full = run({}, loaded)
    seen.clear()
    short = run({"curriculum.sequence": 0.25, "curriculum.until": 0.5}, loaded)
    assert seen[0] == 8 and seen == sorted(seen) and set(seen[6:]) == {LENGTH}
    assert short.ended.flops < full.ended.flops and not torch.equal(short.weights, full.weights)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("resolution", [0.3, 0.5, 0.75])
def test_smaller_images_come_in_larger_steps_of_as_many_pixels(
    run: Runner, load: Loader, accumulation: int, resolution: float
) -> None:
    seen: list[tuple[int, int]] = []

    class Counting(Pixels):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append((len(x), x.shape[-1]))
            return super().forward(x)

    loaded = load(model=Counting, train=photos(N, 1), validation=photos(30, 2))
    params = {"curriculum.resolution": resolution, "curriculum.until": 0.9, "batch.accumulation": accumulation}
    done = run({**params, "curriculum.batch": "larger", "horizon.samples": 2400}, loaded)
    assert 2400 <= done.ended.samples < 2400 + 24
    size = 24 // accumulation
    assert len({side for _, side in seen}) > 1 and seen[-1] == (size, SIDE)
    assert all(n * side**2 <= 1.05 * size * SIDE**2 for n, side in seen), "no more than a step of full images"
    assert seen[0][0] > size


def test_a_short_training_with_larger_steps_sees_all_sizes(run: Runner, load: Loader) -> None:
    seen: list[tuple[int, torch.dtype]] = []
    loaded = load(model=lambda: Pixels(seen), train=photos(N, 1), validation=photos(30, 2))
    params = {"curriculum.resolution": 0.25, "curriculum.until": 0.6, "curriculum.batch": "larger"}
    run({**params, "horizon.samples": 240}, loaded)
    assert [side for side, _ in seen][-4:] == [SIDE] * 4 and seen[0][0] < SIDE


def test_larger_steps_of_smaller_samples_need_smaller_samples(run: Runner, images: LoadedTask) -> None:
    with pytest.raises(UsageError, match="nothing to follow"):
        run({"curriculum.batch": "larger"}, images)
    with pytest.raises(UsageError, match="different sizes"):
        run({"curriculum.batch": "larger", "curriculum.resolution": 0.5, "data.echo": 2}, images)


def test_flops_follow_pixels_and_batch(images: LoadedTask, config: Callable[..., Any]) -> None:
    small = config({"curriculum.resolution": 0.5, "batch.ramp": 1.0})
    first = Step(0, 0, 0.0, step_size(images, small, 0.0))
    assert first.size == 24 // 4
    assert step_flops(images, small, first) == pytest.approx(10.0 * 6 * 0.25)
    assert step_flops(images, small, Step(9, 200, 1.0, 24)) == pytest.approx(10.0 * 24)


def test_a_ramp_takes_smaller_steps_first_and_the_same_number_of_samples(run: Runner) -> None:
    plain, ramp = run(), run({"batch.ramp": 0.5})
    assert plain.ended.samples == ramp.ended.samples == 288
    assert plain.ended.steps == 12 and ramp.ended.steps == 12 + 12 + 6 - 6


NOT_HERE = {"augment.flip": "random", "augment.mixup": 0.2, "curriculum.resolution": 0.5, "curriculum.sequence": 0.5}


@pytest.mark.parametrize(("path", "value"), NOT_HERE.items())
def test_what_needs_images_or_sequences_is_refused_elsewhere(run: Runner, path: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{path} .*it needs"):
        run({path: value})


def tried(loaded: LoadedTask) -> tuple[LoadedTask, nn.Module]:
    return loaded, loaded.task.model()


def test_a_table_of_numbers_can_use_none_of_it_and_images_all_but_sequences(load: Loader, images: LoadedTask) -> None:
    ours = {"augment", "curriculum"}
    for_table = {row["path"] for row in unavailable(*tried(load())) if row["path"].partition(".")[0] in ours}
    for_images = {row["path"] for row in unavailable(*tried(images)) if row["path"].partition(".")[0] in ours}
    assert for_table >= {"augment.flip", "augment.policy", "augment.mixup", "curriculum.resolution"}
    assert for_images == {"curriculum.sequence"}


def test_a_model_of_one_image_size_is_not_given_smaller_ones(run: Runner, load: Loader) -> None:
    fixed = lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))  # noqa: E731
    floats = [(x.float() / 255, y) for x, y in (photos(N, 1), photos(30, 2))]
    with pytest.raises(UsageError, match="one size only"):
        run({"curriculum.resolution": 0.5}, load(model=fixed, train=floats[0], validation=floats[1]))
    with pytest.raises(UsageError, match="uint8"):
        run({"augment.policy": "trivial"}, load(model=Pixels, train=floats[0], validation=floats[1]))


def test_trying_a_model_leaves_it_as_it_was(images: LoadedTask) -> None:
    model = Pixels().train()
    model.head.eval()
    unavailable(images, model)
    assert model.training and model.body.training and not model.head.training
