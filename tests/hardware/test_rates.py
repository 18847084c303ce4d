"""Single rates: what they count, what they leave behind, what they do when time is short."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from autoaccel.hardware import rates
from autoaccel.hardware.stopwatch import Allowance, Took, allow
from autoaccel.trainer.traffic import Traffic


@pytest.fixture
def allowed() -> Allowance:
    return replace(allow(60.0, 1), slice_s=0.0)


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every call takes two seconds on the wall and one of a processor; what was called is noted."""
    called: list[Any] = []

    def best(call: Any, *_: Any) -> Took:
        called.append(call())
        return Took(2.0, 1.0)

    monkeypatch.setattr(rates, "best", best)
    return called


def test_products_and_convolutions_are_counted_by_hand(clockwork: list[Any], allowed: Allowance) -> None:
    """The smallest size is long enough here."""
    product = rates.matmul("cpu", "fp32", allowed)
    assert (product.per_s, product.per_cpu_s) == (64**3, 2 * 64**3)
    assert clockwork[-1].shape == (64, 64)
    for layout, is_last in (("contiguous", False), ("channels_last", True)):
        rate, note = rates.convolution("cpu", "bf16", layout, allowed)
        assert rate.per_s == 32 * 32 * 64 * (64 * 9) and note == ""
        assert clockwork[-1].shape == (1, 64, 32, 32) and clockwork[-1].dtype == torch.bfloat16
        assert clockwork[-1].is_contiguous(memory_format=torch.channels_last) == is_last


def test_a_copy_counts_what_it_reads_and_what_it_writes(clockwork: list[Any], allowed: Allowance) -> None:
    assert rates.memory("cpu", allowed).per_s == rates.CPU_COPY_BYTES
    assert clockwork[-1].nbytes == rates.CPU_COPY_BYTES


def test_operations_are_launched_as_often_as_they_are_counted(clockwork: list[Any], allowed: Allowance) -> None:
    """Beside them the gradient that backward begins with."""
    with Traffic() as counted:
        assert rates.dispatch("cpu", allowed).per_s == rates.N_LAUNCHES / 2
    assert rates.N_LAUNCHES <= counted.n_operations <= rates.N_LAUNCHES + 2


def test_fewer_bits_are_asked_for_during_the_measurement_alone(allowed: Allowance) -> None:
    seen = []
    before = torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            rates, "_long_enough", lambda *_: seen.append(torch.get_float32_matmul_precision()) or (1, Took(1, 1))
        )
        rates.matmul("cpu", "tf32", allowed)
        rates.matmul("cpu", "fp32", allowed)
    assert seen == ["high", "highest"] and torch.get_float32_matmul_precision() == before


def test_the_loader_leaves_no_process(allowed: Allowance) -> None:
    before = {child.pid for child in psutil.Process().children()}
    rate = rates.loader(allowed)
    assert rate.per_s > 0 and rate.per_cpu_s is not None
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_loader_that_cannot_be_started_in_time_is_not(allowed: Allowance) -> None:
    with pytest.raises(TimeoutError):
        rates.loader(allow(0.1, 1))


# ----------------------------------------------------------------------------------------------------------------- disk


def test_the_disk_keeps_nothing(tmp_path: Path, allowed: Allowance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "FILE_BYTES", rates.BLOCK_BYTES)
    rate, how = rates.disk(tmp_path, allowed)
    assert rate.per_s > 0 and rate.per_cpu_s is None and how in ("O_DIRECT", "cached")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_read_directly_says_so(
    tmp_path: Path, allowed: Allowance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "FILE_BYTES", rates.BLOCK_BYTES)
    real = fcntl.fcntl

    def refuse(file: Any, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(file, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert rates.disk(tmp_path, allowed)[1] == "cached"


def test_a_disk_too_slow_for_the_time_is_left(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        rates.disk(tmp_path, allow(1e-3, 1))
    assert list(tmp_path.iterdir()) == []
