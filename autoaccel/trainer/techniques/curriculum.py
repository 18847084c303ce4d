"""Small first: image side, sequence length and batch size as functions of progress, and the cuts that go with them.

Card
    What: progressive resizing (small images early), sequence-length warm-up (short sequences early), batch-size ramp
        (small batches early).
    When it pays: where a step's time follows its size: a half-sized image costs a quarter of the convolutions. Not
        where the loader or the launch of kernels is the bottleneck, which small images make worse. The ramp pays where
        small batches learn as much per sample early as large ones do late.
    Cost: another compilation, cuDNN choice or CUDA graph per size, so no quantity takes more than 4 values (3 for
        the batch). Truncated tokens are not seen. Resizing 512 uint8 images from 3x32x32 to 16 takes 2.5 ms on one CPU
        core.
        Steps on smaller samples may take as many more of them (a batch per size): they then fill the device as before.
    Source: progressive resizing, Composer's card (half the side for half of the run, full from 0.8 on) and arXiv
        2104.00298; sequence length, Composer's card (ramp 0.3, about 1.5x on GPT-2 125M) and arXiv 2108.06084; batch
        ramp, record 46 of the modded-nanogpt speed run (2.248 to 2.203 min) and arXiv 2604.26687. Growth here is in
        steps from the start, for the sake of compilers.
    Order: sizes are asked once per step, before the batch is taken; images are resized after augmentation and before
        mixing; sequences are cut when the batch is on the device.
    Conflicts: models of fixed input size (vision transformers without dynamic size, positions tied to a length);
        torch.compile modes that record CUDA graphs; evaluation always runs at full size.

Progress is the share of the horizon that is done, 0 to 1. Sizes never fall as it grows. Must not know models, data
sets or the config.
"""

from __future__ import annotations

import torch

from autoaccel.errors import UsageError

_N_SIZES = 4
"""Values a size takes at most, the full one included."""


def resolution(progress: float, start: float, until: float, full: int, multiple: int) -> int:
    """Side of the images, in pixels, at this progress.

    Args:
        progress: share of the horizon done, 0 to 1.
        start: first side as a share of the full one, above 0 to 1.
        until: share of the horizon from which images are full; 0 is from the beginning.
        full: the data's own side, in pixels.
        multiple: sides below the full one are multiples of it, which models with strides or patches need.

    Returns:
        `full` from `until` on. Before, one of up to three sides that grow in even steps from start * full, each for the
        same share of the horizon.
    """
    return _grown(progress, start, until, full, multiple)


def sequence_length(progress: float, start: float, until: float, full: int, multiple: int) -> int:
    """Tokens of a sequence at this progress; arguments and result as of `resolution`, in tokens instead of pixels."""
    return _grown(progress, start, until, full, multiple)


def batch_size(progress: float, ramp: float, full: int) -> int:
    """Samples of an optimizer step at this progress: a quarter, half, and all of `full`.

    Args:
        progress: share of the horizon done, 0 to 1.
        ramp: share of the horizon that is ramp, half of it for each of the smaller sizes; 0 is no ramp.
        full: the batch size after it.
    """
    if progress >= ramp:
        return full
    return max(1, full // 4 if progress < ramp / 2 else full // 2)


def resize(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images whose shorter side has `side` pixels, their proportions kept; bilinear with antialiasing.

    uint8 stays uint8 (on a CPU without a detour through floats). Images that have this side already are returned as
    they are.

    Args:
        images: (N, C, H, W), uint8 or float.
        side: of the shorter side, at least 1.

    Raises:
        UsageError: a side below 1.
    """
    if side < 1:
        raise UsageError(f"images of {side} pixels", "Start at a larger share, or use a smaller multiple.")
    if min(images.shape[2:]) == side:
        return images
    from torchvision.transforms.v2.functional import resize as resized  # type: ignore[import-untyped]

    return resized(images, [side], antialias=True)


def truncate(batch: tuple[torch.Tensor, ...], length: int) -> tuple[torch.Tensor, ...]:
    """The first `length` tokens of every sequence, copied: compiled models expect rows without gaps.

    Args:
        batch: tensors of shape (N, T, ...), the inputs and the targets of every token.
        length: tokens to keep, at least 1; sequences that are no longer stay.

    Raises:
        UsageError: a tensor without a second dimension, or of another length: these targets are not one per token.
    """
    lengths = {tensor.shape[1] if tensor.ndim > 1 else 0 for tensor in batch}
    if length < 1 or lengths == {0} or len(lengths) > 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in batch)
        raise UsageError(
            f"cutting sequences to {length} tokens: a batch of shapes {shapes}",
            "Inputs and targets both need shape (N, T, ...) with the same T, and the length is at least 1.",
        )
    return tuple(tensor[:, :length].contiguous() for tensor in batch)


def stage_end(progress: float, until: float) -> float:
    """Share of the horizon at which samples grow next, or 1."""
    return (_stage(progress, until) + 1) / (_N_SIZES - 1) * until if progress < until else 1.0


def _grown(progress: float, start: float, until: float, full: int, multiple: int) -> int:
    if progress >= until:
        return full
    share = start + (1 - start) * _stage(progress, until) / (_N_SIZES - 1)
    return min(full, max(multiple, round(share * full / multiple) * multiple))


def _stage(progress: float, until: float) -> int:
    n_small = _N_SIZES - 1
    return min(n_small - 1, int(progress / until * n_small))
