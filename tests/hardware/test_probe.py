"""The probe measures what it says, within its limit, and never makes a number up. No speed is asserted here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autoaccel.hardware import probe, rates, stopwatch
from autoaccel.hardware.profile import HardwareProfile, assemble, facts

KEYS = {"device", "devices", "n_threads", "rates", "notes", "skipped", "load"}
ON_CPU = [
    *("matmul.fp32", "memory", "dispatch", "matmul.bf16"),
    *("convolution.fp32.contiguous", "convolution.fp32.channels_last"),
    *("convolution.bf16.contiguous", "convolution.bf16.channels_last"),
    "loader",
]


@pytest.fixture(scope="module", autouse=True)
def few_repeats() -> Iterator[None]:
    """As short as measuring can be: what is measured is looked at here, not how well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "LONGEST_SLICE_S", 0.0)
        patch.setattr(rates, "FILE_BYTES", 2 * rates.BLOCK_BYTES)
        yield


@pytest.fixture(scope="module")
def measured(few_repeats: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    before = torch.get_rng_state()
    found = probe.measure(60.0, None, str(tmp_path_factory.mktemp("folder")))
    assert torch.equal(torch.get_rng_state(), before), "random numbers belong to the trials"
    return found


def test_result_is_plain_and_fits_the_profile(measured: dict[str, Any]) -> None:
    assert set(measured) == KEYS
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    profile = assemble(facts(), measured, {"torch": str(torch.__version__)})
    assert HardwareProfile.from_json(profile.to_json()) == profile


def test_every_rate_is_measured(measured: dict[str, Any]) -> None:
    assert measured["skipped"] == {}
    if measured["device"] == "cpu":
        assert list(measured["rates"]) == [*ON_CPU, "disk"]
        assert [name for name, rate in measured["rates"].items() if rate["per_cpu_s"] is None] == ["disk"]
    assert measured["notes"]["disk"] in ("O_DIRECT", "cached")


def test_an_accelerator_has_copies_from_the_host_too() -> None:
    """The names alone: there may be none here."""
    wanted = probe.measures_of("cuda", None)
    assert list(wanted)[:5] == [*ON_CPU[:3], "host_to_device.pinned", "host_to_device.pageable"]
    short = [f"convolution.{dtype}.{layout}" for dtype in ("bf16", "fp16") for layout in probe.FORMATS]
    assert wanted.keys() >= {"matmul.tf32", "matmul.bf16", "matmul.fp16", *short}
    assert "matmul.tf32" not in probe.measures_of("mps", None)


def test_device_is_there(measured: dict[str, Any]) -> None:
    assert measured["n_threads"] == torch.get_num_threads()
    assert {device["kind"] for device in measured["devices"]} == {measured["device"]}
    assert all(device["name"] and device["memory_bytes"] > 0 for device in measured["devices"])
    if not torch.accelerator.is_available():
        assert measured["device"] == "cpu"
        assert len(measured["devices"]) == 1


@pytest.mark.parametrize("limit_s", [0.0, -1.0, 1e-9, math.nan])
def test_tiny_limit_skips_every_rate_with_a_reason(limit_s: float, tmp_path: Path) -> None:
    result = probe.measure(limit_s, None, str(tmp_path))
    assert set(result) == KEYS
    assert result["devices"]
    assert result["rates"] == {} and result["notes"] == {}
    assert set(result["skipped"]) == set(probe.measures_of(result["device"], str(tmp_path)))
    assert set(result["skipped"].values()) == {"time limit"}


# --------------------------------------------------------------------------------------------------------------- cached


def test_what_was_measured_before_is_not_measured_again(measured: dict[str, Any]) -> None:
    made_up = {"matmul.fp32": {"per_s": 123.0, "per_cpu_s": None}}
    cached = {**measured, "rates": {**measured["rates"], **made_up}}
    again = probe.measure(0.0, cached)
    assert again["rates"] == {name: rate for name, rate in cached["rates"].items() if name != "disk"}
    assert again["skipped"] == {} and again["load"] == measured["load"]


def test_what_the_time_did_not_suffice_for_is_measured_now(measured: dict[str, Any]) -> None:
    """And only that; what the device refused is not tried again."""
    known = {"rates": {"memory": {"per_s": 1.0, "per_cpu_s": 1.0}}, "notes": {}}
    why = {name: "no such thing" for name in measured["rates"] if name not in ("memory", "dispatch", "disk")}
    again = probe.measure(60.0, {**measured, **known, "skipped": {**why, "dispatch": "time limit"}})
    assert list(again["rates"]) == ["memory", "dispatch"]
    assert again["rates"]["memory"] == known["rates"]["memory"] and again["rates"]["dispatch"]["per_s"] > 1
    assert again["skipped"] == why


def test_the_disk_of_a_folder_is_never_that_of_another(measured: dict[str, Any], tmp_path: Path) -> None:
    assert "disk" in measured["rates"]
    assert "disk" not in probe.measure(0.0, measured)["rates"]
    made_up = {**measured, "rates": {**measured["rates"], "disk": {"per_s": 123.0, "per_cpu_s": None}}}
    assert probe.measure(60.0, made_up, str(tmp_path))["rates"]["disk"]["per_s"] > 123.0


@pytest.mark.parametrize("change", [{"n_threads": 999}, {"devices": []}, {"device": "none"}])
def test_other_devices_reuse_nothing(measured: dict[str, Any], change: dict[str, Any]) -> None:
    assert probe.measure(0.0, {**measured, **change})["rates"] == {}


def test_unusable_cache_is_ignored() -> None:
    assert probe.measure(0.0, {})["rates"] == {}
    assert probe.measure(0.0, {"skipped": {}})["rates"] == {}


# -------------------------------------------------------------------------------------------------------------- refused


def test_refused_measure_is_skipped_with_its_reason(
    measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(kind: str, dtype: str, allowed: stopwatch.Allowance) -> float:
        raise TypeError(f"{kind} has no {dtype}\nand more")

    monkeypatch.setattr(rates, "matmul", refuse)
    known = {
        name: rate for name, rate in measured["rates"].items() if name.partition(".")[0] in ("convolution", "loader")
    }
    result = probe.measure(60.0, {**measured, "rates": known}, str(tmp_path / "not there"))
    assert set(result["rates"]) == {*known, "memory", "dispatch"}
    assert result["skipped"]["matmul.bf16"] == f"TypeError: {result['device']} has no bf16"
    assert result["skipped"]["disk"].startswith("FileNotFoundError: ")


def test_build_with_cuda_but_no_device_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert probe.chosen_device() == "cpu"
