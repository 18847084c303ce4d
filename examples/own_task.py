"""A task of your own with its current config as the baseline: autoaccel tune examples/own_task.py:task --budget 45s"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

from autoaccel import Batch, Evaluate, Horizon, Optim, Task, TrainerConfig


def model():
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 2))


def step(model, batch):
    """Batches are dicts here; the loss is the task's own, on what this returns."""
    return {"outputs": model(batch["measurements"]), "targets": batch["labels"]}


def task():
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
    today = TrainerConfig(
        batch=Batch(size=32),
        optim=Optim(name="sgd", lr=0.01),
        horizon=Horizon(samples=30 * len(x_train)),
        evaluate=Evaluate(every_samples=len(x_train)),
    )
    return Task(
        name="tumours",
        model=model,
        train={"measurements": x_train, "labels": y_train},
        validation={"measurements": x_val, "labels": y_val},
        metric="f1",
        target=0.96,
        baseline=today,
        step=step,
    )
