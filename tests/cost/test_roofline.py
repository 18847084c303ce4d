"""The roofline by hand: where a step lies and what bounds it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoaccel.cost.roofline import WAITS, WAITS_AHEAD, Ceilings, Roofline, Work, roofline, step_roofline
from autoaccel.hardware.profile import Device, HardwareProfile, Load, Rate

CEILINGS = Ceilings(flops_per_s=100e9, bytes_per_s=20e9, operations_per_s=1e6)
POSITIVE = st.floats(min_value=1e-6, max_value=1e15)


def work(**changes: Any) -> Work:
    """A step of 10 ms: 4 ms of FLOPs, 1 ms of bytes, 0.1 ms of launches, a tenth of a percent of waiting."""
    fields = {"flops": 4e8, "n_bytes": 2e7, "n_operations": 100, "seconds": 0.01, "waiting": 0.001}
    return Work(**{**fields, "reads_ahead": False, **changes})


def test_a_step_by_hand() -> None:
    found = roofline(work(), CEILINGS)
    assert found == Roofline(
        intensity=20.0,
        ridge=5.0,
        peak_flops_per_s=100e9,
        attainable_flops_per_s=100e9,
        achieved_flops_per_s=pytest.approx(40e9),
        mfu=pytest.approx(0.4),
        shares=pytest.approx({"compute": 0.4, "memory": 0.1, "launch": 0.01, "loader": 0.001}),
        bound="compute",
    )


def test_below_the_ridge_the_bandwidth_is_the_roof() -> None:
    found = roofline(work(n_bytes=2e8), CEILINGS)
    assert found.intensity == 2.0 and found.attainable_flops_per_s == 40e9
    assert found.bound == "memory" and found.shares["memory"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({}, "compute"),
        ({"n_operations": 5000}, "launch"),
        ({"n_bytes": 9e7}, "memory"),
        ({"waiting": WAITS}, "compute"),
        ({"waiting": WAITS + 0.01}, "loader"),
        ({"waiting": WAITS_AHEAD, "reads_ahead": True}, "compute"),
        ({"waiting": WAITS_AHEAD + 0.01, "reads_ahead": True}, "loader"),
        ({"waiting": WAITS_AHEAD + 0.01, "reads_ahead": False}, "compute"),
        ({"n_bytes": 1e9}, "memory"),  # more than the step took: caches hold some of it, moving is still its most
        ({"flops": 0.0}, "memory"),
        ({"flops": 0.0, "n_bytes": 0.0}, "launch"),
    ],
)
def test_what_takes_longest_at_its_ceiling_bounds_the_step(changes: dict[str, Any], bound: str) -> None:
    assert roofline(work(**changes), CEILINGS).bound == bound


def test_what_was_not_measured_or_counted_is_not_made_up() -> None:
    nothing = Ceilings(flops_per_s=None, bytes_per_s=None, operations_per_s=None)
    found = roofline(work(), nothing)
    assert found.bound is None and found.shares == {"loader": 0.001}
    assert (found.mfu, found.ridge, found.attainable_flops_per_s) == (None, None, None)
    assert found.achieved_flops_per_s == pytest.approx(40e9) and found.intensity == 20.0
    assert roofline(work(waiting=0.9), nothing).bound == "loader"
    uncounted = roofline(work(flops=0.0), CEILINGS)
    assert (uncounted.intensity, uncounted.achieved_flops_per_s, uncounted.mfu) == (None, None, None)
    assert "compute" not in uncounted.shares and uncounted.ridge == 5.0


@given(POSITIVE, POSITIVE, POSITIVE, POSITIVE)
def test_the_roof_is_never_above_either_of_its_sides(flops: float, n_bytes: float, peak: float, rate: float) -> None:
    ceilings = Ceilings(flops_per_s=peak, bytes_per_s=rate, operations_per_s=None)
    found = roofline(work(flops=flops, n_bytes=n_bytes), ceilings)
    assert found.attainable_flops_per_s is not None and found.intensity is not None and found.ridge is not None
    assert found.attainable_flops_per_s <= min(peak, found.intensity * rate)
    if found.intensity > 1.001 * found.ridge:
        assert found.attainable_flops_per_s == peak


# --------------------------------------------------------------------------------------------------- a measured machine


def machine(device: Any, **rates: Rate) -> HardwareProfile:
    return HardwareProfile(
        cpu_model="made up",
        isa=(),
        usable_cores=2,
        memory_bytes=2**30,
        n_cpus=2,
        affinity="",
        cgroup_cores=None,
        cgroup_memory_bytes=None,
        os="",
        python="",
        devices=(Device(device, "made up", 2**30, ""),),
        device=device,
        n_threads=2,
        rates={name.replace("__", "."): rate for name, rate in rates.items()},
        notes={},
        skipped={},
        load=Load(None, None),
        host="h",
        fingerprint="f",
    )


BREAKDOWN: dict[str, Any] = {
    "pieces": {
        "data": {"wall_s": 0.002, "cpu_s": 0.001},
        "copy": {"wall_s": 0.001, "cpu_s": 0.0},
        "forward": {"wall_s": 0.003, "cpu_s": 0.006},
        "backward": {"wall_s": 0.004, "cpu_s": 0.008},
    },
    "step": {"wall_s": 0.01, "cpu_s": 0.016},
    "step_flops": 1.6e8,
    "n_bytes": 1e6,
    "n_operations": 10,
    "arithmetic": "bf16",
    "reads_ahead": True,
}


def test_a_cpu_is_compared_in_processor_seconds_and_waits_in_those_of_the_wall() -> None:
    rates = {"matmul__bf16": Rate(4e10, 2e10), "matmul__fp32": Rate(1e10, 1e10), "memory": Rate(1e10, 5e9)}
    found = step_roofline(BREAKDOWN, machine("cpu", **rates))
    assert found.peak_flops_per_s == 2e10 and found.mfu == pytest.approx(0.5)
    assert found.shares["memory"] == pytest.approx(1e6 / 5e9 / 0.016)
    assert "launch" not in found.shares
    assert found.shares["loader"] == pytest.approx(0.3) and found.bound == "loader"


def test_an_accelerator_is_compared_on_the_wall() -> None:
    found = step_roofline(BREAKDOWN, machine("cuda", matmul__bf16=Rate(4e10, None), dispatch=Rate(1e5, None)))
    assert found.mfu == pytest.approx(1.6e8 / 0.01 / 4e10)
    assert found.shares["launch"] == pytest.approx(1e-4 / 0.01)


def test_another_precision_is_no_ceiling() -> None:
    found = step_roofline({**BREAKDOWN, "arithmetic": "float8"}, machine("cuda", matmul__bf16=Rate(4e10, None)))
    assert found.mfu is None and found.peak_flops_per_s is None
