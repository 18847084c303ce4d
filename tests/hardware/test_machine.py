"""The machine as it can be told without torch: the driver's list of GPUs, and what old runs kept."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoaccel.hardware.machine import Machine, accelerators, driver, machine_of, this_machine

MACHINE = Machine(cpu_model="some CPU", isa=("avx2",), usable_cores=4, memory_bytes=8 * 2**30, torch="2.15.0")
VERSION = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version:  gcc 12.2.0\n"
)


def nvidia(folder: Path, *models: str) -> Path:
    """A fake /proc/driver/nvidia."""
    for n, model in enumerate(models):
        card = folder / "gpus" / f"0000:{n:02x}:00.0"
        card.mkdir(parents=True)
        text = f"Model: \t\t {model}\nIRQ:   \t\t 33\nGPU UUID: \t GPU-{n}a\nBus Location: \t 0000:{n:02x}:00.0\n"
        (card / "information").write_text(text)
    (folder / "version").write_text(VERSION)
    return folder


def test_this_machine_needs_no_torch() -> None:
    code = (
        "import sys; from autoaccel.hardware.machine import this_machine as m; m(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    found = this_machine()
    assert found.usable_cores >= 1 and found.memory_bytes > 0 and found.torch
    assert machine_of({"machine": json.loads(json.dumps(found.to_json()))}, {}) == found


def test_a_machine_without_a_driver_has_neither_accelerators_nor_a_version(tmp_path: Path) -> None:
    assert (accelerators(tmp_path), accelerators(tmp_path, "0"), driver(tmp_path)) == ((), (), "")


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("H200", "H200", "T4")),
        ("", ()),
        ("0", ("H200",)),
        ("2", ("H200",)),
        ("0, 1", ("H200", "T4")),
        ("2,7,1", ("H200",)),
        ("-1", ()),
        ("GPU-1a", ("T4",)),
        ("GPU-1", ("T4",)),
        ("MIG-7", ("MIG-7",)),
    ],
)
def test_cuda_uses_what_is_visible(tmp_path: Path, visible: str | None, expected: tuple[str, ...]) -> None:
    assert accelerators(nvidia(tmp_path, "H200", "T4", "H200"), visible) == expected


def test_the_parts_of_a_gpu_belong_to_the_machine(tmp_path: Path) -> None:
    folder = nvidia(tmp_path, "H200")
    (folder / "capabilities" / "gpu0" / "mig" / "gi3").mkdir(parents=True)
    assert accelerators(folder) == ("H200", "MIG gpu0 gi3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VERSION, "580"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535"),
        ("nothing of the kind\n", ""),
    ],
)
def test_of_the_driver_the_major_version_counts(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "version").write_text(text)
    assert driver(tmp_path) == expected


def test_a_run_from_before_machines_were_kept() -> None:
    devices = [{"kind": "cuda", "name": "H200", "memory_bytes": 1, "capability": "9.0"}] * 2
    old: dict[str, Any] = {"isa": ["avx2"], "cpu_model": "some CPU", "usable_cores": 4, "memory_bytes": 8 * 2**30}
    old |= {"devices": devices, "os": "Linux", "version": 1}
    assert machine_of(old, {"torch": "2.15.0"}) == replace(MACHINE, accelerators=("H200", "H200"))
    cpu = {**old, "devices": [{"kind": "cpu", "name": "some CPU"}]}
    assert machine_of(cpu, {"torch": "2.15.0"}) == MACHINE


def test_the_name_is_that_of_the_machine_and_its_software() -> None:
    others = [
        replace(MACHINE, usable_cores=2),
        replace(MACHINE, torch="2.16.0"),
        replace(MACHINE, accelerators=("T4",)),
        replace(MACHINE, memory_bytes=16 * 2**30),
    ]
    assert len({m.name for m in (MACHINE, *others)}) == 5
    assert replace(MACHINE, memory_bytes=8 * 2**30 + 4096).name == MACHINE.name


def test_it_is_described_in_words() -> None:
    assert str(MACHINE) == "some CPU, 4 cores, 8 GiB"
    assert str(replace(MACHINE, accelerators=("T4", "T4"), usable_cores=1)) == "2 x T4; some CPU, 1 core, 8 GiB"
