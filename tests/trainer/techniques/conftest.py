"""Real photographs, cut into small images."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def photos() -> torch.Tensor:
    """512 different images of 3x32x32, uint8, from a photograph of a temple and one of a flower."""
    from sklearn.datasets import load_sample_images

    pair = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    tiles = pair.permute(0, 3, 1, 2)[:, :, :416, :640].unfold(2, 32, 32).unfold(3, 32, 32)
    images = tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 32, 32)
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:512]].contiguous()
