"""Tune a small CNN on Fashion-MNIST in three minutes: python examples/fashion_mnist.py fashion_mnist.npz"""

import sys

import numpy as np
from torch import nn

import autoaccel


def model():
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10))


def fashion(path):
    with np.load(path) as file:
        images, labels = file["x_train"][:15_000, None].astype("float32") / 255, file["y_train"][:15_000]
    train, validation = (images[:10_000], labels[:10_000]), (images[10_000:], labels[10_000:])
    return autoaccel.Task(name="fashion", model=model, train=train, validation=validation)


if __name__ == "__main__":
    result = autoaccel.tune(fashion(sys.argv[1]), budget="3m", target=0.8643)
    print(result.config, result.speedup, f"{result.confirmation.hits}/{result.confirmation.attempts} fresh hits")
