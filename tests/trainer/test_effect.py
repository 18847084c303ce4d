"""Blocks of steps with a setting and without: what is measured of it, on a clock that the model turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig
from autoaccel.trainer import effect
from autoaccel.trainer.effect import Blocks, measure_effect
from autoaccel.trainer.parts import LoadedTask

Loader = Callable[..., LoadedTask]


class Clock:
    """Seconds that passed, as models say."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def stopwatch(self, _device: torch.device) -> Clock:
        watch = Clock()
        start = self.now_s
        watch.elapsed_s = lambda **_: self.now_s - start  # type: ignore[method-assign]
        return watch

    def elapsed_s(self, **_: Any) -> float:
        raise NotImplementedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(effect, "Stopwatch", clock.stopwatch)
    return clock


def timed(clock: Clock, seconds: Callable[[int], float]) -> Callable[[], nn.Module]:
    """Models whose forward pass takes time: so many seconds for the n-th pass of a model."""

    class Timed(nn.Linear):
        n = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n += 1
            clock.now_s += seconds(self.n) * len(x)
            return super().forward(x)

    return lambda: Timed(6, 3)


def measured(loaded: LoadedTask, params: dict[str, Any], room: Room | None = None, **blocks: Any) -> dict[str, Any]:
    given = Blocks(**{"sizes": [8, 32], "points": 2, **blocks})
    return measure_effect(loaded, TrainerConfig(), params, blocks=given, room=room or Room(1e9, math.inf))


def test_an_effect_is_the_seconds_of_a_sample_with_and_without_it(load: Loader, clock: Clock) -> None:
    """Sharpness-aware steps go forward twice, and back twice."""
    found = measured(load(model=timed(clock, lambda _: 0.5)), {"optim.sam_rho": 0.05})
    assert found["sizes"] == [8, 32]
    assert found["plain_s"] == pytest.approx([0.5, 0.5]) and found["changed_s"] == pytest.approx([1.0, 1.0])
    assert found["flops_ratio"] == 2.0 and not found["failed"]
    assert found["error"] == [pytest.approx(0.05)] * 2, "two blocks of such long steps are enough, and say so"


def test_it_is_averaged_over_the_horizon(load: Loader, clock: Clock) -> None:
    """Selective backprop looks at twice as many samples, in the second half."""
    params = {"data.sampling": "selective", "data.keep": 0.5, "data.keep_from": 0.5, "data.keep_until": 1.0}
    found = measured(load(model=timed(clock, lambda _: 1.0)), params, points=8)
    assert found["changed_s"] == pytest.approx([2.0, 2.0])
    assert found["flops_ratio"] == pytest.approx(1 + 0.5 * 2 * 5 / 10)


def test_steps_of_several_sizes_count_by_their_samples(load: Loader, clock: Clock) -> None:
    """A pass costs a second whatever its batch, so that a larger batch costs less a sample."""
    sequences = torch.randint(0, 5, (64, 16)), torch.randint(0, 5, (64, 16))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clock.now_s += 1.0
            found: torch.Tensor = self.table(x)
            return found

    loaded = load(model=Tokens, train=sequences, validation=sequences)
    params = {"curriculum.sequence": 0.5, "curriculum.until": 1.0, "curriculum.batch": "larger"}
    found = measured(loaded, params, sizes=[8], points=6)
    assert found["plain_s"] == [pytest.approx(1 / 8)]
    assert 1 / 16 < found["changed_s"][0] < 1 / 8


def test_what_the_first_step_takes_is_told_where_it_is_asked_and_as_later_trainings_have_it(
    load: Loader, clock: Clock
) -> None:
    """The first pass of every model takes long, that of the very first one longest: what it made is kept."""
    firsts = iter([0.0, 1000.0, 10.0, 0.0])
    task = load(model=timed(clock, lambda n: next(firsts) if n == 1 else 0.5))
    assert measured(task, {"optim.clip": 1.0}, sizes=[8], compiles=True)["setup_s"] == pytest.approx(10.0 * 8 - 4.0)
    task = load(model=timed(clock, lambda n: 100.0 if n == 1 else 0.5))
    assert measured(task, {"optim.clip": 1.0}, sizes=[8])["setup_s"] == 0.0


def test_steps_that_warm_up_do_not_count(load: Loader, clock: Clock) -> None:
    """The passes of a block become cheaper: 1 + 3 warm ones first."""
    found = measured(load(model=timed(clock, lambda n: 9.0 if n <= 4 else 1.0)), {"optim.clip": 1.0}, warm=3)
    assert found["plain_s"] == pytest.approx([1.0, 1.0])


def test_a_setting_that_fails_says_so_and_one_without_it_is_an_error(load: Loader, clock: Clock) -> None:
    found = measured(load(), {"augment.flip": "random"})
    assert "it needs images" in found["failed"] and found["sizes"] == []

    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        measured(load(model=lambda: Broken(6, 3)), {"optim.clip": 1.0})


def test_no_memory_without_the_setting_is_not_its_fault(load: Loader, clock: Clock) -> None:
    class Large(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clock.now_s += 1.0
            return super().forward(x) if len(x) < 16 or not self.training else x + torch.empty(2**55)

    found = measured(load(model=lambda: Large(6, 3)), {"optim.clip": 1.0})
    assert found["sizes"] == [8] and found["failed"] == ""


@pytest.mark.parametrize("room", [Room(100.0, math.inf), Room(1e9, 60_000.0), Room(0.0, math.inf), Room(1e9, 1.0)])
def test_it_keeps_to_its_room(load: Loader, clock: Clock, room: Room) -> None:
    """A size that does not fit into what the one before took is not begun."""
    loaded = load(model=timed(clock, lambda _: 1.0))
    found = measured(loaded, {"optim.sam_rho": 0.05}, room, sizes=[4, 512])
    assert found["sizes"] == ([4] if min(room.seconds, room.flops) > 1 else [])
    assert found["flops"] <= room.flops
    assert clock.now_s <= room.seconds
