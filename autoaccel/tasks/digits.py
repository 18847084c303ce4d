"""The built-in task: scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels and a small convolutional net.

Fixed split 1077/360/360. The net is the one of Keras' documented starter (keras.io, examples/vision/mnist_convnet)
with padding, so that two poolings fit 8 pixels. The target was measured by `python -m benchmarks.demo --protocol`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoaccel.tasks.base import Task

if TYPE_CHECKING:
    import torch

TARGET = 0.9361
"""10th percentile of the default recipe's final validation accuracy; see benchmarks/demo/protocol.json."""


def small_cnn() -> torch.nn.Module:
    """32 and 64 3x3 filters, each followed by 2x2 max pooling; dropout 0.5; 21,386 parameters."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(256, 10),
    )


def digits() -> Task:
    """The digits task, ready to tune."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    rest, test, rest_y, test_y = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    train, val, train_y, val_y = train_test_split(rest, rest_y, test_size=360, random_state=0, stratify=rest_y)
    return Task(
        name="digits",
        model=small_cnn,
        train=(train, train_y),
        validation=(val, val_y),
        test=(test, test_y),
        target=TARGET,
    )
