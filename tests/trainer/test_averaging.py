"""Averages of the weights: the mean that each says it is, evaluated and returned, no trace of it in the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.config import TrainerConfig
from autoaccel.sections import Average
from autoaccel.trainer.build import build
from autoaccel.trainer.evaluate import evaluate
from autoaccel.trainer.loop import optimizer_step
from autoaccel.trainer.parts import LoadedTask, Step
from autoaccel.trainer.techniques.averaging import Averaging, averaged, new_average

Runner = Callable[..., Any]
Loader = Callable[..., LoadedTask]
NAMES = ["ema", "lawa", "swa", "lookahead"]


def batch_norm_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def stop_after(n: int) -> Callable[[], bool]:
    answers = iter([False] * (n - 1) + [True])
    return lambda: next(answers)


class Line(nn.Module):
    """One weight, which a training moves from 0 by 1 a step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def walked(config: Average, n_steps: int) -> tuple[Line, Averaging]:
    """A weight that has been moved by 1 in each of the steps, and the average that followed it."""
    line = Line()
    average = new_average(line, config)
    assert average is not None
    for number in range(n_steps):
        with torch.no_grad():
            line.weight += 1
        average.follow(Step(number, number, number / n_steps, 1))
    return line, average


def value(average: Averaging) -> float:
    values = average.values()
    assert values is not None
    return float(values[0])


def test_none_is_none() -> None:
    assert new_average(Line(), Average()) is None


@pytest.mark.parametrize("half_life", [0.01, 0.05])
def test_an_exponential_average_forgets_by_half_over_its_half_life(half_life: float) -> None:
    n_steps = 2000
    line, average = walked(Average(name="ema", half_life=half_life), n_steps)
    behind, later = value(average), round(half_life * n_steps)
    with torch.no_grad():
        line.weight.fill_(behind + 8)  # a jump, then rest
    for number in range(later):
        average.follow(Step(n_steps + number, 0, (n_steps + number) / n_steps, 1))
    assert value(average) == pytest.approx(behind + 4, rel=0.01)


def test_an_exponential_average_leaves_the_start_behind() -> None:
    """Even one that remembers the whole horizon is most of the way after ten steps."""
    _, average = walked(Average(name="ema", half_life=1.0), 10)
    assert 6 < value(average) < 10


def test_the_latest_average_is_the_mean_of_six_points_across_its_window() -> None:
    """100 steps, a window of 20: a point every 4 steps (with the step that begins there), and the end."""
    _, average = walked(Average(name="lawa", window=0.2), 100)
    points = [81, 85, 89, 93, 97, 100]
    assert value(average) == pytest.approx(sum(points) / 6)


def test_the_latest_average_begins_with_what_there_is() -> None:
    line, average = walked(Average(name="lawa", window=1.0), 5)
    assert value(average) == pytest.approx((2 + 3 + 4 + 5 + 5) / 5)
    assert new_average(line, Average(name="lawa")).values() is None  # type: ignore[union-attr]


def test_the_stochastic_average_is_the_mean_of_the_last_window() -> None:
    _, average = walked(Average(name="swa", window=0.25), 100)
    assert value(average) == pytest.approx(sum(range(76, 101)) / 25)
    _, early = walked(Average(name="swa", window=0.25), 1)
    assert early.values() is None


def test_lookahead_pulls_back_halfway() -> None:
    line, average = walked(Average(name="lookahead", every=4), 10)
    # 4 -> 2, 6 -> (2 + 6) / 2 = 4, then two steps more; a pull now would give the middle of 4 and 6.
    assert float(line.weight.detach()) == 6
    assert value(average) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_training_goes_on_bit_for_bit(run: Runner, load: Loader, tmp_path: Path, name: str) -> None:
    params = {"average.name": name, "average.window": 0.6, "average.every": 3}
    loaded = load(model=batch_norm_net)
    whole = run(params, loaded)
    stopped = run(params, loaded, folder=tmp_path, stopped=stop_after(7))
    assert stopped.ended.outcome == "stopped"
    resumed = run(params, loaded, folder=tmp_path, resume=True)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert [r.value for r in (*stopped.reports, *resumed.reports)] == [r.value for r in whole.reports]


@pytest.mark.parametrize("name", ["ema", "lawa", "swa"])
def test_an_average_that_only_watches_does_not_change_the_training(
    load: Loader, config: Callable[..., TrainerConfig], name: str
) -> None:
    def trained(params: dict[str, Any], looks: bool) -> list[torch.Tensor]:
        loaded = load(model=batch_norm_net)
        torch.manual_seed(0)
        parts = build(loaded, config(params))
        for number in range(8):
            optimizer_step(loaded, parts, Step(number, 24 * number, number / 8, 24))
            if looks:
                evaluate(loaded.task, parts, loaded.validation)
        return list(parts.model.state_dict().values())

    plain = trained({}, looks=False)
    watched = trained({"average.name": name, "average.window": 0.9}, looks=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_model_that_is_returned_is_the_evaluated_one(run: Runner, load: Loader, name: str) -> None:
    loaded = load(model=batch_norm_net)
    done = run({"average.name": name, "average.window": 0.5, "average.half_life": 0.2, "average.every": 7}, loaded)
    inputs, labels = loaded.validation.tensors
    done.model.eval()
    with torch.no_grad():
        found = float((done.model(inputs).argmax(1) == labels).double().mean())
        hidden = done.model[0](loaded.train.tensors[0])
    assert found == done.ended.value
    assert torch.allclose(done.model[1].running_mean, hidden.mean(0), atol=1e-5), "statistics of the average"


def test_the_trained_weights_come_back_when_an_evaluation_fails() -> None:
    line, average = walked(Average(name="swa", window=0.5), 10)
    with pytest.raises(RuntimeError), averaged(line, average):
        assert float(line.weight.detach()) == pytest.approx(8.0)
        raise RuntimeError
    assert float(line.weight.detach()) == 10


def test_an_average_helps_a_noisy_training(run: Runner, load: Loader) -> None:
    """At a constant high rate the weights jump around; the mean of many is nearer to the middle."""
    params = {"optim.name": "sgd", "optim.lr": 0.05, "batch.size": 4}
    params |= {"horizon.samples": 1200, "evaluate.every_samples": 1200}
    mean, loaded = {**params, "average.name": "swa", "average.window": 0.5}, load(metric="loss")
    ratios = [
        run({**mean, "seed": s}, loaded).ended.value / run({**params, "seed": s}, loaded).ended.value for s in range(6)
    ]
    assert sum(ratios) / len(ratios) < 0.95, ratios


def test_a_horizon_in_seconds_can_be_averaged_over(run: Runner) -> None:
    done = run({"average.name": "ema", "horizon.seconds": 0.2, "evaluate.every_samples": 10**6})
    assert done.ended.outcome == "finished" and done.ended.value > 0.3
