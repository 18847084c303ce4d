"""Pixels: images decoded once, resized, and kept as compact uint8 arrays.

Loads Pillow and torch when called. Must not know labels, models or where images come from.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoaccel.errors import UsageError, first_line

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
"""(n, C, H, W), 0..255."""
Items = list[Path] | list[bytes] | Pixels
"""Images that are files, encoded bytes, or pixels already."""
Size = tuple[int, int]
"""Height and width."""
LARGEST = 224
"""Images with a longer side become squares of this, unless another size is asked for: what most models are made for."""
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B")
_MEMORY_SHARE = 0.8
"""Of the free memory, what decoded images may take."""


def usual_shape(items: Items) -> tuple[int, Size]:
    """Channels (1 if all images are grey, else 3) and the commonest size of the images.

    A longer side above `LARGEST` makes it a square of at most that. Files that cannot be read are left to `decoded`.
    """
    if isinstance(items, np.ndarray):
        _, n_channels, height, width = items.shape
        size = height, width
    else:
        with ThreadPoolExecutor() as pool:
            looks = [found for found in pool.map(_look, items) if found]
        n_channels = 1 if looks and all(grey for grey, _ in looks) else 3
        size = Counter(size for _, size in looks).most_common(1)[0][0] if looks else (1, 1)
    side = min(LARGEST, *size)
    return n_channels, (size if max(size) <= LARGEST else (side, side))


def decoded(splits: dict[str, Items], n_channels: int, size: Size) -> dict[str, Pixels]:
    """Pixels of each split; each image is resized to cover the size and cut to it around its centre.

    Raises:
        UsageError: more than fits into memory; or images that cannot be read: how many in all splits, and three names.
    """
    _check_memory(sum(map(len, splits.values())), n_channels, size)
    unreadable: list[str] = []
    found = {}
    for split, items in splits.items():
        if isinstance(items, np.ndarray):
            found[split] = _fitted(_with_channels(items, n_channels, split), size)
            continue
        array = np.zeros((len(items), n_channels, *size), dtype=np.uint8)
        with ThreadPoolExecutor() as pool:
            unreadable += filter(None, pool.map(partial(_decode_into, array), range(len(array)), items))
        found[split] = array
    if unreadable:
        raise UsageError(
            f"{len(unreadable)} images cannot be read: {'; '.join(unreadable[:3])}", "Repair or remove them."
        )
    return found


def _with_channels(images: Pixels, n_channels: int, split: str) -> Pixels:
    if images.shape[1] != n_channels:
        raise UsageError(
            f"the {split} images have {images.shape[1]} channels, those of train {n_channels}", "Give all the same."
        )
    return images


def _check_memory(n: int, n_channels: int, size: Size) -> None:
    import psutil

    wanted, free = n * n_channels * size[0] * size[1], psutil.virtual_memory().available
    if wanted > _MEMORY_SHARE * free:
        shape = f"{n_channels} x {size[0]} x {size[1]}"
        raise UsageError(
            f"{n} images of {shape} take {wanted / 2**30:.1f} GiB, {free / 2**30:.1f} are free",
            "Use a smaller --image-size, or a task of your own with a Dataset that reads them one by one.",
        )


def _look(item: Path | bytes) -> tuple[bool, Size] | None:
    """Whether an image is grey, and its size; None if it cannot be told."""
    try:
        with _image(item) as image:
            return image.mode in _GREY_MODES, (image.height, image.width)
    except Exception:  # Pillow raises whatever a broken file makes it stumble over
        return None


def _decode_into(array: Pixels, index: int, item: Path | bytes) -> str:
    """Decode one image into its place; what is wrong with it, or nothing."""
    from PIL import UnidentifiedImageError

    try:
        with _image(item) as image:
            array[index] = _pixels(image, len(array[index]), array.shape[2:])
        return ""
    except Exception as error:  # see `_look`
        name = str(item) if isinstance(item, Path) else f"row {index}"
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else first_line(error)
        return f"{name} ({reason})"


def _image(item: Path | bytes) -> Image.Image:
    from PIL import Image

    return Image.open(BytesIO(item) if isinstance(item, bytes) else item)


def _pixels(image: Image.Image, n_channels: int, size: tuple[int, ...]) -> Pixels:
    """One image as (C, H, W)."""
    from PIL import Image, ImageOps

    height, width = size
    image.draft(None, (2 * width, 2 * height))  # a JPEG far larger than needed is decoded at a fraction of its size
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    elif upright.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {upright.mode} have no known range")
    elif upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA")
    plain = upright.convert("L" if n_channels == 1 else "RGB")
    if plain.size != (width, height):
        plain = ImageOps.fit(plain, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(plain).reshape(height, width, n_channels).transpose(2, 0, 1)


def _fitted(images: Pixels, size: Size) -> Pixels:
    """Arrays of images resized to cover the size and cut to it, as `ImageOps.fit` does, for any number of channels."""
    import torch
    from torch.nn import functional

    if images.shape[2:] == size:
        return images
    scale = max(size[0] / images.shape[2], size[1] / images.shape[3])
    height, width = (max(wanted, round(scale * side)) for wanted, side in zip(size, images.shape[2:], strict=True))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    found = np.empty((len(images), images.shape[1], *size), dtype=np.uint8)
    for at in range(0, len(images), 1024):
        part = torch.tensor(images[at : at + 1024]).float()
        part = functional.interpolate(part, (height, width), mode="bicubic", antialias=True)
        part = part[:, :, top : top + size[0], left : left + size[1]]
        found[at : at + 1024] = part.round().clamp(0, 255).to(torch.uint8).numpy()
    return found


# --------------------------------------------------------------------------------------------------------------- arrays


def from_array(images: npt.NDArray[Any], where: str) -> Pixels:
    """Pixels from an array of 0..255 or of fractions 0..1, of shape (n, H, W), (n, H, W, C) or (n, C, H, W).

    Raises:
        UsageError: numbers or a shape that are no images; `where` begins the message.
    """
    return _channels_first(_as_bytes(images, where), where)


def _as_bytes(images: npt.NDArray[Any], where: str) -> Pixels:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iufb":
        raise UsageError(f"{where} holds {images.dtype}, not pixels", "Save uint8 arrays.")
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(images * 255).astype(np.uint8)
    if not (low >= 0 and high <= 255 and bool((images == np.floor(images)).all())):
        raise UsageError(
            f"{where}: values from {low:g} to {high:g} of type {images.dtype} are no pixels",
            "Save uint8 (0..255), or fractions 0..1: the model normalises them itself.",
        )
    return images.astype(np.uint8)


def _channels_first(images: Pixels, where: str) -> Pixels:
    """(n, C, H, W) from (n, H, W), (n, H, W, C) or (n, C, H, W), with at most four channels."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] <= 4:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim == 4 and images.shape[1] <= 4:
        return images
    raise UsageError(f"{where}: shape {images.shape} is no images", "Use (n, H, W), (n, H, W, C) or (n, C, H, W).")
