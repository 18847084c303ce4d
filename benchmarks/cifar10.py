"""CIFAR-10 from one npz file, for the benchmarks that train on it. Must not know who asks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_cifar10(file: Path, part: str = "train") -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Images (n, 3, 32, 32) and classes of an npz: plain arrays (n, 32, 32, 3), or encoded mosaics of them.

    `part` is train or test.

    A mosaic is one encoded picture per block of samples, `tile` = (height, width, channels, columns).
    """
    with np.load(file) as found:
        labels = found[f"y_{part}"]
        if f"x_{part}" in found.files:
            images = found[f"x_{part}"]
        else:
            from PIL import Image

            height, width, channels, columns = (int(v) for v in found["tile"])
            blocks = []
            for key in sorted(k for k in found.files if k.startswith(f"{part}_")):
                picture = np.asarray(Image.open(io.BytesIO(found[key].tobytes())))
                tiles = picture.reshape(-1, height, columns, width, channels)
                blocks.append(tiles.swapaxes(1, 2).reshape(-1, height, width, channels))
            images = np.concatenate(blocks)[: len(labels)]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels
