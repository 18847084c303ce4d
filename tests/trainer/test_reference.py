"""Reference steps: the same work every time, whatever the baseline is; and the CPU seconds of a training."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from autoaccel.config import TrainerConfig
from autoaccel.trainer.parts import LoadedTask
from autoaccel.trainer.reference import reference_steps
from autoaccel.trainer.timing import Stopwatch

Loader = Callable[..., LoadedTask]
Configs = Callable[..., TrainerConfig]
Runner = Callable[..., Any]


def test_pieces_are_timed_by_both_clocks(load: Loader, config: Configs) -> None:
    found = reference_steps(load(), config(), limit_s=10.0)
    assert len(found["wall_s"]) == len(found["cpu_s"]) == 6
    assert all(0 < s < math.inf for s in found["wall_s"] + found["cpu_s"])
    assert (found["threads"], found["resident"]) == (torch.get_num_threads(), True)
    more = reference_steps(load(), config({"system.threads": found["threads"] + 1}), limit_s=0.0)
    assert (more["threads"], more["default_threads"]) == (found["threads"] + 1, found["threads"])
    n_steps = found["flops"] / (10.0 * 24)
    assert n_steps == int(n_steps) and n_steps >= 7, "the step that warms up costs FLOPs too"


def test_every_step_learns_from_the_same_batch(load: Loader, config: Configs) -> None:
    seen: list[torch.Tensor] = []

    class Seeing(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.training and torch.is_grad_enabled()
            seen.append(x.detach().clone())
            return super().forward(x)

    loaded = load(model=lambda: Seeing(6, 3))
    for _ in range(2):
        reference_steps(loaded, config({"batch.accumulation": 2}), limit_s=0.0)
    assert len(seen) % 2 == 0 and len(seen) >= 8 and {len(x) for x in seen} == {12}
    assert all(torch.equal(x, seen[n % 2]) for n, x in enumerate(seen))


def test_a_step_that_waits_by_itself_is_told_from_one_that_computes(load: Loader, config: Configs) -> None:
    class Waiting(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.001)
            return super().forward(x)

    one_thread = config({"system.threads": 1})
    computing = [reference_steps(load(), one_thread, limit_s=0.1, n_pieces=50)["waits"] for _ in range(3)]
    assert min(computing) < 0.5
    found = reference_steps(load(model=lambda: Waiting(6, 3)), one_thread, limit_s=0.1)
    assert found["waits"] >= 1 or not sys.platform.startswith("linux")


def test_without_time_there_is_one_piece(load: Loader, config: Configs) -> None:
    assert len(reference_steps(load(), config(), limit_s=0.0)["wall_s"]) == 1


def test_flops_never_exceed_their_limit_but_for_the_fewest_steps(load: Loader, config: Configs) -> None:
    found = reference_steps(load(), config(), limit_s=10.0, limit_flops=10.0 * 24 * 20)
    assert 2 <= found["flops"] / (10.0 * 24) <= 20
    assert reference_steps(load(), config(), limit_s=10.0, limit_flops=1.0)["flops"] == 2 * 10.0 * 24
    uncounted = replace(load(), flops_per_sample=0.0)
    assert reference_steps(uncounted, config(), limit_s=10.0, limit_flops=1.0)["flops"] == 0


@pytest.mark.parametrize(
    "params",
    [
        {"loader.workers": 2, "loader.pin": True},
        {"compile.mode": "default", "memory.budget": 0.5},
        {"data.sampling": "selective", "data.keep_from": 0.0},
        {"data.sampling": "importance"},
        {"optim.sam_rho": 0.05, "average.name": "ema"},
        {"system.threads": 1},
    ],
    ids=lambda params: next(iter(params)),
)
def test_they_are_of_any_baseline_without_its_processes_and_generated_code(
    load: Loader, config: Configs, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("autoaccel.trainer.build.compile_model", "autoaccel.trainer.build._reading_ahead"):
        monkeypatch.setattr(name, lambda *_: pytest.fail("that takes longer than the steps"))
    assert reference_steps(load(), config(params), limit_s=0.0)["wall_s"][0] > 0


def test_they_leave_no_trace(load: Loader, config: Configs, run: Runner) -> None:
    loaded = load()
    plain = run(loaded=loaded)
    state = torch.get_rng_state()
    reference_steps(loaded, config({"system.threads": 1}), limit_s=0.0)
    assert torch.equal(torch.get_rng_state(), state)
    again = run(loaded=loaded)
    assert again.seen == plain.seen and torch.equal(again.weights, plain.weights)


class Read(Dataset[Any]):
    """Data that is read sample by sample, and counts how often."""

    def __init__(self) -> None:
        self.n_reads = 0

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        self.n_reads += 1
        return torch.rand(6), index % 3


def test_data_that_is_read_while_training_is_read_once(load: Loader, config: Configs) -> None:
    data = Read()
    loaded = load(train=data)
    before = data.n_reads
    found = reference_steps(loaded, config({"data.echo": 2}), limit_s=0.0)
    assert found["resident"] is False
    assert data.n_reads - before == 24


# ---------------------------------------------------------------------------------------------------------- CPU seconds


def test_reports_and_the_end_have_cpu_seconds_that_only_rise(run: Runner) -> None:
    done = run()
    cpu_s = [r.cpu_s for r in done.reports]
    assert cpu_s == sorted(cpu_s) and cpu_s[0] > 0
    assert done.ended.cpu_s == cpu_s[-1]


def test_a_training_that_goes_on_counts_the_cpu_seconds_before(run: Runner, tmp_path: Any) -> None:
    steps = iter([False] * 7)
    first = run(stopped=lambda: next(steps, True), folder=tmp_path)
    assert first.ended.outcome == "stopped"
    second = run(folder=tmp_path, resume=True)
    assert second.ended.outcome == "finished" and second.reports[-1].cpu_s > first.ended.cpu_s


def test_a_training_that_fails_does_not_know_its_cpu_seconds(run: Runner, load: Loader) -> None:
    class Breaking(nn.Linear):
        n = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            type(self).n += 1
            if self.n > 7:
                raise RuntimeError("no more")
            return super().forward(x)

    ended = run(loaded=load(model=lambda: Breaking(6, 3))).ended
    assert (ended.outcome, ended.cpu_s) == ("crashed", None)


def test_where_another_device_computes_there_are_none() -> None:
    assert Stopwatch(torch.device("cuda")).cpu_s() is None
    assert Stopwatch(torch.device("cpu"), 1.0, None).cpu_s() is None


def test_an_accelerator_has_no_cpu_seconds_in_its_reference_steps(
    load: Loader, config: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stopwatch, "cpu_s", lambda _: None)
    assert reference_steps(replace(load()), config(), limit_s=0.0)["cpu_s"] is None
