"""A profile in words: what it says of made-up machines and steps, and what a terminal shows of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoaccel.config import TrainerConfig, to_dict, with_params
from autoaccel.report.bottleneck import verdict
from autoaccel.report.profile import Section, sections
from autoaccel.report.progress import duration, quantity
from autoaccel.report.terminal import print_profile
from tests.golden.compare import check_golden
from tests.report.test_terminal import MALICIOUS, screen, shown

CPU: dict[str, Any] = {
    "cpu_model": "made up [bold]",
    "isa": ["avx2", "avx512f"],
    "usable_cores": 2,
    "memory_bytes": 8 * 2**30,
    "n_cpus": 8,
    "affinity": "0-3",
    "cgroup_cores": 2.5,
    "cgroup_memory_bytes": 8 * 2**30,
    "devices": [{"kind": "cpu", "name": "made up", "memory_bytes": 8 * 2**30, "capability": ""}],
    "device": "cpu",
    "n_threads": 1,
    "rates": {
        "matmul.fp32": {"per_s": 6.5e10, "per_cpu_s": 6.6e10},
        "memory": {"per_s": 1.25e10, "per_cpu_s": 1.25e10},
        "dispatch": {"per_s": 5e5, "per_cpu_s": 5e5},
        "matmul.bf16": {"per_s": 1e9, "per_cpu_s": 1e9},
        "convolution.fp32.contiguous": {"per_s": 6e10, "per_cpu_s": 6e10},
        "convolution.fp32.channels_last": {"per_s": 7.2e10, "per_cpu_s": 7.2e10},
        "disk": {"per_s": 1.5e9, "per_cpu_s": None},
    },
    "notes": {"disk": "O_DIRECT"},
    "skipped": {"loader": "time limit"},
    "load": {"others": 0.02, "average": 1.04},
}
GPU: dict[str, Any] = {
    **CPU,
    "isa": [],
    "affinity": "",
    "cgroup_cores": None,
    "cgroup_memory_bytes": None,
    "devices": [
        {"kind": "cuda", "name": f"made up {name}", "memory_bytes": 80 * 2**30, "capability": "9.0"} for name in "AB"
    ],
    "device": "cuda",
    "rates": {
        "matmul.fp32": {"per_s": 5e13, "per_cpu_s": None},
        "memory": {"per_s": 3e12, "per_cpu_s": None},
        "dispatch": {"per_s": 2e5, "per_cpu_s": None},
        "host_to_device.pinned": {"per_s": 5e10, "per_cpu_s": None},
        "matmul.tf32": {"per_s": 4e14, "per_cpu_s": None},
        "matmul.bf16": {"per_s": 8e14, "per_cpu_s": None},
    },
    "notes": {},
    "skipped": {"host_to_device.pageable": "RuntimeError: no memory"},
    "load": {"others": 0.5, "average": None},
}


def piece(wall_s: float) -> dict[str, float]:
    return {"wall_s": wall_s, "cpu_s": wall_s}


BREAKDOWN: dict[str, Any] = {
    "oom": False,
    "samples": 128,
    "pieces": {
        "data": piece(1e-4),
        "prepare": piece(4e-6),
        "forward": piece(4.5e-3),
        "backward": piece(3.6e-3),
        "optimizer": piece(3e-4),
    },
    "step": piece(8.5e-3),
    "evaluation_s": 0.0114,
    "step_flops": 2.38e8,
    "n_bytes": 2.2e7,
    "n_operations": 33,
    "arithmetic": "fp32",
    "convolves": True,
    "reads_ahead": False,
    "resident": True,
}
ROOFLINE: dict[str, Any] = {
    "intensity": 10.8,
    "ridge": 5.28,
    "peak_flops_per_s": 6.6e10,
    "attainable_flops_per_s": 6.6e10,
    "achieved_flops_per_s": 2.8e10,
    "mfu": 0.424,
    "shares": {"compute": 0.424, "memory": 0.207, "launch": 0.0078, "loader": 0.0118},
    "bound": "compute",
}
STEPS: dict[str, Any] = {
    "micro": [
        {"dtype": "fp32", "micro": 128, "seconds": 0.0081},
        {"dtype": "fp32", "micro": 512, "seconds": 0.0216},
        {"dtype": "fp32", "micro": 4096, "oom": True},
    ],
    "optimizer": {"sgd": 0.0002},
    "evaluation": {"fp32": 0.02},
}


def document(
    hardware: dict[str, Any] = CPU,
    breakdown: dict[str, Any] | None = None,
    roof: dict[str, Any] | None = None,
    **params: Any,
) -> dict[str, Any]:
    """A profile of a step, some of it changed; `params` are dotted paths of the baseline with two underscores."""
    baseline = with_params(TrainerConfig(), {path.replace("__", "."): value for path, value in params.items()})
    found = {
        "hardware": hardware,
        "task": {"task": "made up", "baseline": to_dict(baseline), "n_validation": 360, "resident": True},
        "breakdown": {**BREAKDOWN, **(breakdown or {})},
        "roofline": {**ROOFLINE, **(roof or {})},
        "steps": STEPS,
    }
    return {**found, "verdict": verdict(found)}


def cells(document: dict[str, Any], title: str) -> dict[str, tuple[str, ...]]:
    """Rows of a section by their first cell."""
    found: Section = next(section for section in sections(document) if section.title.startswith(title))
    return {row[0]: row[1:] for row in found.rows}


# --------------------------------------------------------------------------------------------------------------- shown


def test_the_profile() -> None:
    console, out = screen()
    uncounted = {"mfu": None, "intensity": None, "attainable_flops_per_s": None, "achieved_flops_per_s": None}
    oom = {**document(), "breakdown": {"oom": True}, "roofline": None}
    documents = {
        "a CPU": document(),
        "a machine alone": {"hardware": CPU, "task": None},
        "a disturbed machine with two accelerators, and a loader that is too slow": document(
            GPU,
            {
                "pieces": {**BREAKDOWN["pieces"], "data": piece(0.02), "copy": piece(1e-3), "after": piece(1e-3)},
                "step": piece(0.03),
                "resident": False,
                "reads_ahead": True,
            },
            {"bound": "loader", "shares": {"compute": 1e-4, "launch": 0.005, "loader": 0.69}, "mfu": 1e-4},
        ),
        "FLOPs that were not counted": document(breakdown={"step_flops": 0.0}, roof={**uncounted, "bound": "memory"}),
        "no memory": {**oom, "verdict": verdict(oom)},
    }
    for name, found in documents.items():
        console.print(f"# {name}")
        print_profile(console, found)
    check_golden("profile.txt", shown(out.getvalue()))


def test_no_name_can_drive_the_terminal() -> None:
    console, out = screen()
    hostile = {**CPU, "cpu_model": MALICIOUS, "skipped": {"loader": MALICIOUS}, "notes": {"disk": MALICIOUS}}
    found = document(hostile)
    print_profile(console, {**found, "task": {**found["task"], "task": MALICIOUS}})
    assert "a[/b]<script>?[2J" in out.getvalue() and not {"\x1b", "\x07", "\u202e", "\r"} & set(out.getvalue())


def test_every_row_has_as_many_cells_as_the_others() -> None:
    for hardware in (CPU, GPU):
        for section in sections(document(hardware, {"pieces": {**BREAKDOWN["pieces"], "copy": piece(1e-3)}})):
            assert len({len(row) for row in [*section.rows, *([section.header] if section.header else [])]}) == 1


def test_what_was_not_measured_says_why() -> None:
    assert cells(document(), "what it can do")["loader, one process"] == ("-", "-", "not measured: time limit")
    assert cells(document(), "what it can do")["disk read here"] == ("1.50 GB/s", "", "O_DIRECT")


def test_pieces_that_take_nothing_are_left_out_and_main_ones_are_not() -> None:
    rows = cells(document(breakdown={"pieces": {**BREAKDOWN["pieces"], "data": piece(0.0)}}), "where a step")
    assert list(rows)[:5] == ["data wait", "copy to device", "forward", "backward", "optimizer"]
    assert rows["data wait"][0] == "0.00 ns" and rows["copy to device"][-1] == "the device is the CPU"


# -------------------------------------------------------------------------------------------------------------- verdict


@pytest.mark.parametrize(
    ("changes", "beginning", "could"),
    [
        (
            {},
            "Compute bounds the step: its FLOPs alone would take 42% of its 8.50 ms of CPU time",
            "512 samples at once, which pass 1.5x as fast",
        ),
        ({}, "Compute", "memory.format channels_last, in which convolutions are 1.2x as fast here"),
        ({"roof": {"bound": "memory"}}, "Memory bandwidth bounds the step: the bytes that its", "compile.mode"),
        (
            {"roof": {"bound": "launch"}},
            "Launching bounds the step: launching its 33 operations takes",
            "(compile.mode)",
        ),
        (
            {"roof": {"bound": "launch"}, "hardware": GPU},
            "Launching bounds the step: launching its 33 operations takes at least 1% of its 8.50 ms, and no",
            "CUDA graphs",
        ),
        ({"roof": {"bound": "loader"}}, "The loader bounds the step: it waits 1% of its 8.50 ms", "data.sampling"),
        (
            {"roof": {"bound": "loader"}, "breakdown": {"resident": False}},
            "The loader",
            "processes that read ahead (loader.workers)",
        ),
        ({"hardware": GPU}, "Compute", "precision.matmul high, in which products are 8.0x as fast here"),
        (
            {"hardware": GPU, "breakdown": {"arithmetic": "tf32"}},
            "Compute",
            "precision.dtype bf16, in which products are 2.0x",
        ),
        ({"roof": {"bound": None}}, "What bounds the step is not known: no ceiling was measured.", ""),
    ],
)
def test_the_verdict(changes: dict[str, Any], beginning: str, could: str) -> None:
    said = document(**changes)["verdict"]
    assert said.startswith(beginning) and could in said and said.endswith(".")


def test_nothing_is_advised_that_is_on_already_or_no_faster_here() -> None:
    assert "channels_last" not in document(memory__format="channels_last")["verdict"]
    assert "channels_last" not in document(breakdown={"convolves": False})["verdict"]
    assert "bf16" not in document()["verdict"], "it is slower here"
    for bound in ("compute", "memory", "launch"):
        compiled = document(roof={"bound": bound}, compile__mode="default")["verdict"]
        assert "compile.mode" not in compiled and "optim.kernel" not in compiled
        assert "compile.mode" in document(roof={"bound": bound})["verdict"]
    assert "optim.kernel" in document(roof={"bound": "memory"}, optim__kernel="foreach")["verdict"]
    assert "at once" not in document(breakdown={"pieces": {**BREAKDOWN["pieces"], "forward": piece(1e-3)}})["verdict"]


def test_a_ceiling_that_explains_little_is_not_said_to_explain_much() -> None:
    assert "no ceiling explains most of it" in document(roof={"shares": {"compute": 0.1}})["verdict"]
    assert "no ceiling explains most of it" not in document()["verdict"]


# -------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 B"), (9.994, "9.99 B"), (9.996, "10.0 B"), (999.4, "999 B"), (999.6, "1.00 kB"), (1.25e10, "12.5 GB")],
)
def test_quantities(value: float, text: str) -> None:
    assert quantity(value, "B") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-9, "2.00 ns"), (2.93e-6, "2.93 us"), (8.55e-3, "8.55 ms"), (0.9999, "1.00 s"), (75.0, "75.0 s")],
)
def test_durations(value: float, text: str) -> None:
    assert duration(value) == text


@given(st.floats(min_value=1e-9, max_value=1e20))
def test_a_quantity_is_the_number_to_three_digits(value: float) -> None:
    number, unit = quantity(value, "B").split(" ")
    factor = 1000.0 ** ["B", "kB", "MB", "GB", "TB", "PB", "EB"].index(unit)
    assert float(number) * factor == pytest.approx(value, rel=0.0051, abs=0.0051)
