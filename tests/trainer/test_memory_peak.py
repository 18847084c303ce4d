"""Peak memory of steps: which sizes are tried, and that what is read is what a training takes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import nn

from autoaccel.budget import Room
from autoaccel.config import TrainerConfig, with_params
from autoaccel.cost.memory import AVERAGE_COPIES, STATE_COPIES
from autoaccel.hardware.memory import FreeMemory
from autoaccel.sections import Average
from autoaccel.sections.optimization import KERNELS
from autoaccel.trainer import memory_peak
from autoaccel.trainer.build import build, load_data
from autoaccel.trainer.memory_peak import Bounds, Meter, Row, grown, is_plenty, measure_peak, meter_of, next_size
from autoaccel.trainer.parts import LoadedTask

Load = Callable[..., LoadedTask]
MB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


# ------------------------------------------------------------------------------------------------ which sizes are tried


def bounds(largest: int = 1000, allowed: float = math.inf, plenty: float = 0.0, **more: Any) -> Bounds:
    room = Room(more.pop("seconds", math.inf), more.pop("flops", math.inf))
    return Bounds(largest=largest, allowed_bytes=allowed, plenty_bytes=plenty, room=room, **{"known": 0, **more})


def row(micro: int, taken: float = 1.0, seconds: float = 1.0) -> Row:
    return {"micro": micro, "bytes": taken, "seconds": seconds, "flops": float(micro)}


def tried(limits: Bounds, taken: Callable[[int], float], fails_at: float = math.inf) -> list[int]:
    """Sizes of the rows that are measured where a size takes so many bytes."""

    def measure(size: int) -> Row:
        found = row(size, taken(size), 0.01 * size)
        return {**found, "oom": True} if size >= fails_at else found

    return [r["micro"] for r in grown(measure, limits)]


def test_sizes_grow_up_to_the_largest_that_could_be_asked_for() -> None:
    assert tried(bounds(100), lambda n: n) == [4, 16, 64, 100]
    assert tried(bounds(3), lambda n: n) == [3]


def test_two_sizes_are_enough_where_memory_is_plenty() -> None:
    assert tried(bounds(1000, plenty=1000), lambda n: n) == [4, 16]
    assert is_plenty([row(4), row(16, 16.0)], bounds(1000, plenty=1000))
    assert not is_plenty([row(4)], bounds(1000, plenty=1e9)), "one size tells nothing of what is fixed"


def test_what_is_fixed_does_not_pass_for_plenty() -> None:
    """At small sizes a large model hides what its samples take."""
    assert tried(bounds(4096, plenty=2000), lambda n: max(500, 2 * n))[-1] == 4096


def test_the_last_size_is_the_largest_that_is_expected_to_fit() -> None:
    assert tried(bounds(1000, allowed=650), lambda n: 50 + n) == [4, 16, 64, 256, 600]


def test_a_size_that_is_not_expected_to_fit_is_not_tried() -> None:
    sizes = tried(bounds(1000, allowed=100), lambda n: 10 * n)
    assert sizes == [4, 10], "after one size all of it counts as if nothing were fixed"


def test_what_has_run_before_is_tried_whatever_is_expected() -> None:
    assert tried(bounds(1000, allowed=100, known=40), lambda n: 10 * n) == [4, 16, 40]


def test_after_a_failure_nothing_larger_is_tried() -> None:
    assert tried(bounds(1000), lambda n: n, fails_at=64) == [4, 16, 64]


def test_time_and_flops_are_kept_to() -> None:
    assert tried(bounds(1000, seconds=0.9), lambda n: n) == [4, 16, 64]
    assert tried(bounds(1000, flops=90), lambda n: n) == [4, 16, 64]
    assert next_size([], bounds(seconds=0.0)) == 4, "the first size is always measured"


def test_a_variant_that_is_hopelessly_slow_is_measured_once() -> None:
    slow = [row(4, seconds=2.0)]
    assert next_size(slow, bounds(first_s=1.0)) is None and next_size(slow, bounds(first_s=3.0)) == 16


# --------------------------------------------------------------------------------------------------- what a step takes


class Wide(nn.Module):
    """Keeps a row of so many floats for the backward pass of every sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.head = width, nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x.new_ones(len(x), self.width) * self.head.bias[0]
        return self.head(x) + (kept * kept).mean(1, keepdim=True)


def measured(loaded: LoadedTask, **changes: Any) -> dict[str, Any]:
    given = {"largest": 64, "variants": [], "room": Room(60.0, math.inf)}
    config = with_params(TrainerConfig(), {"batch.size": changes.pop("size", 128)})
    return measure_peak(loaded, config, **{**given, **changes})


@linux
def test_samples_and_weights_are_found_in_the_peak(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_peak, "PLENTY", 0.0)
    width, hidden = 2**18, 2**20

    def model() -> nn.Module:
        return nn.Sequential(Wide(width), nn.Linear(3, hidden), nn.Linear(hidden, 3))

    found = measured(load(model=model))
    assert [r["micro"] for r in found["steps"]] == [4, 16, 64] and not found["reason"]
    least = [3 * width * 4 * n for n in (16, 64)]
    small, large = (r["bytes"] for r in found["steps"][1:])
    assert large - small > 0.9 * (least[1] - least[0])
    assert found["trainable_bytes"] == sum(p.nbytes for p in model().parameters())
    assert small > least[0] + 3 * found["trainable_bytes"], "weights and what AdamW keeps"
    assert 60 * hidden * 4 * 0.9 < found["evaluation_bytes"] < large, "60 samples at once, nothing kept"
    assert found["free_bytes"] > 0
    assert found["flops"] == 3 * (4 + 16 + 64) * 10 + 300 + (2 * 64 * 10 + 300), "and an evaluation between two steps"
    assert 0 <= found["pieces_bytes"] <= found["evaluation_bytes"]


def meter(free_bytes: int, peaks: list[int], refuses: bool = True) -> Meter:
    """A device that has so much, and takes these bytes at each look: in an evaluation, then size by size."""
    looks = iter(peaks)
    return Meter(lambda: 100, lambda: 100 + next(looks), lambda: FreeMemory(free_bytes, "a share", refuses), True)


@pytest.mark.parametrize(("refuses", "largest"), [(True, 35), (False, 19)])
def test_a_memory_that_others_use_is_filled_less(
    load: Load, monkeypatch: pytest.MonkeyPatch, refuses: bool, largest: int
) -> None:
    monkeypatch.setattr(
        memory_peak, "meter_of", lambda device: meter(400, [10, 40, 160, 10 * largest, 10 * largest + 4], refuses)
    )
    found = measured(load(), largest=1000, size=4)
    assert [r["micro"] for r in found["steps"]] == [4, 16, largest]
    assert (found["evaluation_bytes"], found["free_bytes"], found["refuses"]) == (10, 400, refuses)
    assert found["pieces_bytes"] == 4, "a step, an evaluation and a step took more than the larger of them"


def test_precisions_are_measured_only_where_memory_is_scarce(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [{"precision.dtype": "bf16"}]
    for free, dtypes in ((10**9, ["fp32"] * 2), (2000, ["fp32", "fp32", "fp32", "bf16", "bf16", "bf16"])):
        looks = meter(free, [10, 80, 320, *([1280] * 2), 80, 320, 1280])
        monkeypatch.setattr(memory_peak, "meter_of", lambda device, looks=looks: looks)
        monkeypatch.setattr(memory_peak, "_HOPELESS", 1e9)
        found = measured(load(), variants=variants)
        assert [r["dtype"] for r in found["steps"]] == dtypes


def test_a_variant_that_the_task_cannot_have_is_left_out(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_peak, "meter_of", lambda device: meter(2000, [10, 80, 320, 1280, 1280]))
    found = measured(load(), variants=[{"memory.checkpointing": "full"}])
    assert [r["checkpointing"] for r in found["steps"]] == ["none"] * 3, "the model has no blocks"


def test_a_variant_that_fails_costs_nothing_of_what_is_known(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fp32Only(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not implemented for 'BFloat16'")
            return super().forward(x)

    monkeypatch.setattr(memory_peak, "meter_of", lambda device: meter(2000, [10, 80, 320, 1280, 1280]))
    found = measured(load(model=lambda: Fp32Only(6, 3)), variants=[{"precision.dtype": "bf16"}])
    assert [(r["dtype"], r["micro"]) for r in found["steps"]] == [("fp32", 4), ("fp32", 16), ("fp32", 64)]


@linux
def test_a_size_that_runs_out_of_memory_is_a_bound(load: Load) -> None:
    class Large(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if len(x) < 16 or not self.training else x + torch.empty(2**55)

    found = measured(load(model=lambda: Large(6, 3)))
    assert [(r["micro"], r.get("oom", False), "bytes" in r) for r in found["steps"]] == [
        (4, False, True),
        (16, True, False),
    ]


def test_an_evaluation_that_does_not_fit_beside_the_largest_size_is_a_bound(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = meter(2000, [10, 80, 320, 1280])
    sizes: list[int] = []

    class Full(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            if not self.training and 64 in sizes:
                raise torch.OutOfMemoryError("no more")
            return super().forward(x)

    monkeypatch.setattr(memory_peak, "meter_of", lambda device: counted)
    found = measured(load(model=lambda: Full(6, 3)))
    assert [(r["micro"], "oom" in r) for r in found["steps"]] == [(4, False), (16, False), (64, False), (64, True)]
    assert found["pieces_bytes"] == found["evaluation_bytes"] == 10


def test_an_evaluation_that_never_fits_is_the_reason(load: Load) -> None:
    class Full(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if self.training else x + torch.empty(2**55)

    assert measured(load(model=lambda: Full(6, 3)))["reason"] == "an evaluation runs out of memory"


@linux
def test_a_failure_is_not_taken_for_exhausted_memory(load: Load) -> None:
    class Broken(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("shapes cannot be multiplied")
            return super().forward(x)

    with pytest.raises(RuntimeError, match="multiplied"):
        measured(load(model=lambda: Broken(6, 3)))


def test_a_device_that_tells_nothing_is_not_measured_and_the_reason_is_said(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert meter_of(torch.device("mps")) == "a mps device does not tell its peak memory"
    monkeypatch.setattr(memory_peak, "forget_peak", lambda: False)
    found = measured(load())
    assert found == {"steps": [], "flops": 0.0, "reason": "this system does not tell the peak memory of a process"}


# ------------------------------------------------------------------------------------------------------ fixed by choice


@pytest.mark.parametrize("name", KERNELS)
def test_an_optimizer_keeps_as_many_copies_as_are_counted(load: Load, name: str) -> None:
    loaded = load(model=lambda: nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 3)))
    parts = build(loaded, with_params(TrainerConfig(), {"optim.name": name}))
    for p in parts.model.parameters():
        p.grad = torch.ones_like(p)
    parts.update()
    states: Any = parts.optimizer.state
    kept = sum(v.nbytes for s in states.values() for v in s.values() if isinstance(v, torch.Tensor) and v.ndim)
    one = sum(p.nbytes for p in parts.model.parameters())
    assert kept <= STATE_COPIES[name] * one
    assert name == "muon" or kept == STATE_COPIES[name] * one


def test_every_average_has_its_copies_counted() -> None:
    assert AVERAGE_COPIES.keys() == set(get_args(get_type_hints(Average)["name"]))


@pytest.mark.parametrize(("share", "free_bytes", "word"), [(0.5, 400, "share"), (1.0, 600, "memory of the device")])
def test_a_gpu_has_what_is_free_of_it_or_of_our_share(
    monkeypatch: pytest.MonkeyPatch, share: float, free_bytes: int, word: str
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
    found = meter_of(torch.device("cuda"))
    assert isinstance(found, Meter) and not found.keeps_pieces
    free = found.free()
    assert (free.n_bytes, free.refuses) == (free_bytes, True) and word in free.limit


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_peaks_are_those_of_its_allocator(make_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_peak, "PLENTY", 0.0)
    width = 2**20
    found = measured(load_data(make_task(model=lambda: Wide(width)), torch.device("cuda")))
    small, large = (r["bytes"] for r in found["steps"][-2:])
    assert large - small > 0.9 * 3 * width * 4 * (64 - 16)
    assert found["refuses"] and not found["pieces_bytes"] and 0 < found["free_bytes"] <= torch.cuda.mem_get_info()[1]
