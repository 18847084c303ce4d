"""Where a training ends: at the hit, the horizon, a cap, when asked, or when it fails; and what it repeats."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoaccel.errors import UsageError
from autoaccel.hardware.memory import FreeMemory
from autoaccel.tasks.base import Task
from autoaccel.trainer.loop import follow_progress
from autoaccel.trainer.parts import LoadedTask, Parts, Step
from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.randomness import seeded

Runner = Callable[..., Any]
Loader = Callable[..., LoadedTask]


class FakeStopwatch:
    """A second passes whenever it is looked at closely."""

    def __init__(self, device: torch.device, already_s: float = 0.0, already_cpu_s: float | None = 0.0) -> None:
        self.now = already_s

    def elapsed_s(self, *, drained: bool = True) -> float:
        self.now += drained
        return self.now

    def cpu_s(self) -> float | None:
        return self.now / 2


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop looks at the clock once per step and once more per evaluation."""
    monkeypatch.setattr("autoaccel.trainer.loop.Stopwatch", FakeStopwatch)


# ------------------------------------------------------------------------------------------------------- where it ends


def test_it_stops_at_the_first_evaluation_that_reaches_the_target(run: Runner) -> None:
    free = run()
    values = [r.value for r in free.reports]
    assert free.ended.outcome == "finished"
    assert values[0] < values[1], "the toy task should learn between its first two evaluations"
    hit = run(target=values[1])
    assert (hit.ended.outcome, hit.ended.steps, hit.ended.value) == ("hit", 8, values[1])
    assert hit.seen == free.seen[:2]
    assert hit.ended.elapsed_s == hit.reports[-1].elapsed_s


def test_it_ends_at_the_horizon_without_a_hit(run: Runner) -> None:
    missed = run(target=1.0).ended
    assert (missed.outcome, missed.steps, missed.samples) == ("missed", 12, 288)


@pytest.mark.parametrize("cap", [1.0, 240.0, 240.5, 1259.9, 1260.0, 1499.0, 3780.0, 1e9])
def test_flops_are_counted_exactly_and_never_exceed_their_cap(run: Runner, cap: float) -> None:
    """A step costs 24 x 10 FLOPs, an evaluation 300; one is due every fourth step."""
    done = run(cap_flops=cap)
    costs = ([240.0] * 4 + [300.0]) * 3
    affordable = [i for i in range(len(costs) + 1) if sum(costs[:i]) <= cap]
    assert done.ended.flops == sum(costs[: affordable[-1]])
    assert done.ended.outcome == ("finished" if cap >= sum(costs) else "capped")
    assert done.ended.steps * 240 + len(done.reports) * 300 == done.ended.flops


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize(
    ("cap", "steps", "n_reports"), [(0.5, 1, 0), (1.0, 1, 0), (2.5, 3, 0), (4.0, 4, 0), (4.5, 4, 1), (7.0, 6, 1)]
)
def test_it_is_cut_at_the_cap(run: Runner, cap: float, steps: int, n_reports: int) -> None:
    """Looks at seconds 1, 2, 3, 4, after the evaluation at 5, then 6, 7, ... No evaluation begins beyond the cap."""
    done = run(cap_s=cap)
    assert (done.ended.outcome, done.ended.steps, len(done.reports)) == ("capped", steps, n_reports)
    assert done.ended.elapsed_s >= cap


@pytest.mark.usefixtures("seconds")
def test_a_cap_that_is_not_reached_changes_nothing(run: Runner) -> None:
    done = run(cap_s=100.0).ended
    assert (done.outcome, done.elapsed_s) == ("finished", 15.0)  # twelve steps, three evaluations


@pytest.mark.usefixtures("seconds")
@pytest.mark.parametrize(
    ("unit", "amount", "steps"),
    [("steps", 7, 7), ("seconds", 6.0, 5), ("flops", 1500.0, 5), ("flops", 1501.0, 6), ("flops", 1.0, 1)],
)
def test_a_horizon_may_be_in_steps_seconds_or_flops(run: Runner, unit: str, amount: float, steps: int) -> None:
    """A step takes a second and 240 FLOPs, an evaluation (after the fourth step, and at the end) one more and 300."""
    done = run({f"horizon.{unit}": amount})
    assert (done.ended.outcome, done.ended.steps) == ("finished", steps)
    assert done.reports[-1].steps == steps, "the end of the horizon is evaluated"


def test_a_horizon_in_flops_is_refused_where_they_cannot_be_counted(run: Runner, load: Loader) -> None:
    with pytest.raises(UsageError, match="cannot be counted"):
        run({"horizon.flops": 1000.0}, replace(load(), flops_per_sample=0.0))


@pytest.mark.usefixtures("seconds")
def test_the_learning_rate_follows_elapsed_time_where_the_horizon_is_in_seconds(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def noting(parts: Parts, step: Step) -> None:
        follow_progress(parts, step)
        rates.append(parts.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr("autoaccel.trainer.loop.follow_progress", noting)
    run({"horizon.seconds": 8.0, "schedule.name": "linear", "optim.lr": 1.0, "evaluate.every_samples": 10**6})
    assert rates == pytest.approx([1 - t / 8 for t in range(8)])


def test_it_stops_when_asked(run: Runner) -> None:
    answers = iter([False] * 5 + [True])
    done = run(stopped=lambda: next(answers)).ended
    assert (done.outcome, done.steps) == ("stopped", 6)


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("params", [{"optim.name": "sgd", "optim.lr": 1e6}, {"optim.name": "adamw", "optim.lr": 1e38}])
def test_a_rate_far_too_high_diverges(run: Runner, params: dict[str, Any]) -> None:
    done = run({**params, "horizon.samples": 24_000}).ended
    assert done.outcome == "diverged"
    assert done.steps < 100
    assert "not finite" in done.message


class Failing(nn.Module):
    """Fails in the third training step in a given way."""

    def __init__(self, fail: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.fail, self.n_calls = nn.Linear(6, 3), fail, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_calls += self.training
        out: torch.Tensor = self.layer(x)
        return self.fail(out) if self.n_calls == 3 else out


def failing(error: Exception) -> Callable[[torch.Tensor], torch.Tensor]:
    def fail(out: torch.Tensor) -> torch.Tensor:
        raise error

    return fail


def test_a_loss_that_becomes_nan_diverges(run: Runner, load: Loader) -> None:
    done = run(loaded=load(model=lambda: Failing(lambda out: out * float("nan")))).ended
    assert (done.outcome, done.steps) == ("diverged", 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_diverges_and_is_no_hit(run: Runner, load: Loader, value: float) -> None:
    done = run(loaded=load(metric=lambda outputs, targets: value, direction="max"), target=0.5)
    assert (done.ended.outcome, done.ended.value, done.reports) == ("diverged", None, [])


def test_outputs_that_are_nan_are_not_taken_for_class_zero(run: Runner, load: Loader) -> None:
    class BlindWhenTested(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if self.training else super().forward(x) * float("nan")

    assert run(loaded=load(model=lambda: BlindWhenTested(6, 3)), target=0.1).ended.outcome == "diverged"


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB, max allowed: 9.07 GB)"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000 bytes."),
    OSError(12, "Cannot allocate memory"),
    MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000, 1000000) and data type float64"),
    MemoryError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: str(e)[:30])
def test_exhausted_memory_is_an_outcome(run: Runner, load: Loader, error: Exception) -> None:
    done = run(loaded=load(model=lambda: Failing(failing(error)))).ended
    assert done.outcome == "oom"
    assert "\n" not in done.message
    assert type(error).__name__ in done.message


@pytest.mark.parametrize(("free_mb", "outcome"), [(10, "oom"), (4096, "crashed")])
def test_what_onednn_could_not_create_is_a_matter_of_memory_where_little_is_left(
    run: Runner, load: Loader, monkeypatch: pytest.MonkeyPatch, free_mb: int, outcome: str
) -> None:
    monkeypatch.setattr(
        "autoaccel.trainer.run.free_main_memory", lambda: FreeMemory(free_mb * 2**20, "a limit", refuses=True)
    )
    monkeypatch.setattr("autoaccel.trainer.run.resident_bytes", lambda: 1000 * 2**20)
    error = RuntimeError("could not create a primitive")
    assert run(loaded=load(model=lambda: Failing(failing(error)))).ended.outcome == outcome


def test_really_exhausted_memory_is_an_outcome(run: Runner, load: Loader) -> None:
    net = lambda: Failing(lambda out: out + torch.empty(2**55))  # noqa: E731
    assert run(loaded=load(model=net)).ended.outcome == "oom"


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), ValueError()], ids=repr
)
def test_a_crash_names_the_line_of_the_users_code(run: Runner, load: Loader, error: Exception) -> None:
    done = run({"evaluate.every_samples": 24}, load(model=lambda: Failing(failing(error)))).ended
    line = failing.__code__.co_firstlineno + 2
    assert done.outcome == "crashed"
    assert done.message.startswith(type(error).__name__)
    assert done.message.endswith(f" (test_loop.py:{line})")
    assert (done.steps, done.flops, done.elapsed_s > 0) == (2, 1080.0, True)  # where its last report was


def test_a_model_that_cannot_be_built_is_a_crash_without_a_model(run: Runner, load: Loader) -> None:
    done = run(loaded=load(model=lambda: 1 / 0))
    assert (done.ended.outcome, done.model) == ("crashed", None)
    assert done.ended.message.startswith("ZeroDivisionError: division by zero (test_loop.py:")


# ---------------------------------------------------------------------------------------------------------------- test


def test_the_test_set_is_looked_at_only_when_asked_for(
    run: Runner, load: Loader, make_task: Callable[..., Task]
) -> None:
    loaded = load(test=make_task().validation)
    assert run(loaded=loaded).ended.facts == {}
    done = run(loaded=loaded, test=True)
    assert done.ended.facts == {"test_value": done.ended.value}
    assert done.ended.elapsed_s == done.reports[-1].elapsed_s


def test_a_test_set_that_fails_does_not_undo_the_training(run: Runner, load: Loader) -> None:
    done = run(loaded=load(test=(torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64))), test=True).ended
    assert done.outcome == "finished"
    assert "RuntimeError" in done.facts["test_error"]


# ---------------------------------------------------------------------------------------------------------- randomness


def test_a_seed_decides_everything(run: Runner) -> None:
    first, second, other = run({"seed": 5}), run({"seed": 5}), run({"seed": 6})
    assert first.seen == second.seen != other.seen
    assert torch.equal(first.weights, second.weights)


def random_numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_users_random_numbers_are_not_disturbed(run: Runner, make_task: Callable[..., Task]) -> None:
    """Also when the data draws from the global generators, and when the training fails."""

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 0.1 * random.random() + 0.1 * np.random.rand())

    class Noisy(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 96

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return noisy(torch.rand(6)), i % 3

    with seeded(11):
        expected = [random_numbers() for _ in range(3)]
    with seeded(11):
        found = [random_numbers()]
        loaded, _ = preflight(make_task(train=Noisy()))
        found.append(random_numbers())
        assert run(loaded=loaded).ended.outcome == "finished"
        assert run({"optim.name": "sgd", "optim.lr": 1e30}, loaded=loaded).ended.outcome == "diverged"
        found.append(random_numbers())
    assert found == expected
