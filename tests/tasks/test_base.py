"""What a Task refuses when it is made, and what it knows of its metric."""

from __future__ import annotations

from typing import Any

import pytest

from autoaccel.errors import UsageError
from autoaccel.tasks.base import METRICS, Task


def score(outputs: object, targets: object) -> float:
    return 0.0


def make(**changes: Any) -> Task:
    return Task(**{"name": "mine", "model": dict, "train": None, "validation": None, **changes})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "Task name '': empty"),
    ({"name": "  "}, "empty"),
    ({"name": None}, "empty"),
    ({"model": "resnet"}, "model 'resnet' is not callable"),
    ({"model": None}, "model None is not callable"),
    ({"step": 3}, "step 3 is not callable"),
    ({"loss": "crossentropy"}, "unknown loss 'crossentropy'\n  Did you mean 'cross_entropy'?"),
    ({"loss": None}, "loss None is no name and no function"),
    ({"metric": "acuracy"}, "unknown metric 'acuracy'\n  Did you mean 'accuracy'?"),
    ({"metric": 1}, "metric 1 is no name and no function"),
    ({"metric": score}, "a metric of your own needs a direction\n  Add direction='max'."),
    ({"metric": score, "direction": "up"}, "direction 'up'\n  Use 'max' or 'min'."),
    ({"metric": "loss", "direction": "max"}, "loss is better towards 'min'"),
    ({"loss": "mse"}, "metric 'accuracy' needs classes, the mse loss has none\n  Use metric='loss'"),
    ({"baseline": {"optim.lr": 1}}, "baseline {'optim.lr': 1}\n  Pass a TrainerConfig."),
]


@pytest.mark.parametrize(("changes", "fragment"), WRONG, ids=[fragment.splitlines()[0] for _, fragment in WRONG])
def test_a_wrong_task_is_refused(changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(**changes)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(("metric", "direction"), METRICS.items())
def test_known_metrics_know_their_direction(metric: str, direction: str) -> None:
    assert (make(metric=metric).metric_name, make(metric=metric).metric_direction) == (metric, direction)


def test_a_function_has_its_name_and_the_direction_it_is_given() -> None:
    task = make(metric=score, direction="min", loss="mse")
    assert (task.metric_name, task.metric_direction) == ("score", "min")
