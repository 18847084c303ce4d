"""The probe measures what it says, within its limit, and never makes a number up. No speed is asserted here."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from autoaccel.hardware import probe
from autoaccel.hardware.profile import HardwareProfile, assemble, facts

KEYS = {
    *("device", "devices", "n_threads", "skipped"),
    *("matmul_flops", "memory_bytes_per_s", "host_to_device_bytes_per_s"),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return probe.measure(60.0, None)


def test_result_is_plain_and_fits_the_profile(measured: dict[str, Any]) -> None:
    assert set(measured) == KEYS
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    profile = assemble(facts(), measured, {"torch": str(torch.__version__)})
    assert HardwareProfile.from_json(profile.to_json()) == profile


def test_rates_are_finite_and_positive(measured: dict[str, Any]) -> None:
    assert measured["skipped"] == {}
    assert list(measured["matmul_flops"])[:2] == ["fp32", "bf16"]
    rates = [*measured["matmul_flops"].values(), measured["memory_bytes_per_s"]]
    if measured["device"] != "cpu":
        rates.append(measured["host_to_device_bytes_per_s"])
    assert all(isinstance(rate, float) and 0 < rate < math.inf for rate in rates)


def test_device_is_there(measured: dict[str, Any]) -> None:
    assert measured["n_threads"] == torch.get_num_threads()
    assert {device["kind"] for device in measured["devices"]} == {measured["device"]}
    assert all(device["name"] and device["memory_bytes"] > 0 for device in measured["devices"])
    if not torch.accelerator.is_available():
        assert measured["device"] == "cpu"
        assert len(measured["devices"]) == 1
        assert measured["host_to_device_bytes_per_s"] is None
        assert set(measured["matmul_flops"]) == {"fp32", "bf16"}


@pytest.mark.parametrize("limit_s", [0.0, -1.0, 1e-9, math.nan])
def test_tiny_limit_skips_every_rate_with_a_reason(limit_s: float) -> None:
    result = probe.measure(limit_s, None)
    assert set(result) == KEYS
    assert result["devices"]
    assert result["matmul_flops"] == {}
    assert result["memory_bytes_per_s"] is None
    assert result["host_to_device_bytes_per_s"] is None
    assert {"fp32", "bf16", "memory"} <= set(result["skipped"])
    assert set(result["skipped"].values()) == {"time limit"}


def test_equal_devices_reuse_the_rates(measured: dict[str, Any]) -> None:
    cached = {**measured, "matmul_flops": {"fp32": 123.0}}
    assert probe.measure(0.0, cached) == cached


@pytest.mark.parametrize(
    "change", [{"n_threads": 999}, {"devices": []}, {"device": "none"}, {"skipped": {"bf16": "time limit"}}]
)
def test_other_devices_do_not(measured: dict[str, Any], change: dict[str, Any]) -> None:
    assert probe.measure(0.0, {**measured, **change})["matmul_flops"] == {}


def test_unusable_cache_is_ignored() -> None:
    assert probe.measure(0.0, {})["matmul_flops"] == {}
    assert probe.measure(0.0, {"skipped": {}})["matmul_flops"] == {}


def test_refused_measure_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: str, dtype: str, deadline: float) -> float:
        raise TypeError(f"{kind} has no {dtype}\nand more")

    monkeypatch.setattr(probe, "_matmul_flops", refuse)
    result = probe.measure(60.0, None)
    assert result["matmul_flops"] == {}
    assert result["skipped"]["bf16"] == f"TypeError: {result['device']} has no bf16"
    assert result["memory_bytes_per_s"] > 0


def test_random_state_of_the_trials_is_untouched() -> None:
    before = torch.get_rng_state()
    probe.measure(60.0, None)
    assert torch.equal(torch.get_rng_state(), before)


def test_build_with_cuda_but_no_device_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert probe.chosen_device() == "cpu"
