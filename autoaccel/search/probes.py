"""Probes: the task tried, the machine and a step measured, each in a worker through the executor.

What an earlier session of the run measured is not measured again. Must not decide anything by what was measured.
"""

from __future__ import annotations

from typing import Any

from autoaccel.config import TrainerConfig, to_dict
from autoaccel.errors import EnvironmentFaultError
from autoaccel.fingerprint import software
from autoaccel.hardware.profile import HardwareProfile, assemble, facts, fingerprint, load_cached, save_cached
from autoaccel.search.trials import Driver, run_trial
from autoaccel.trial import TrialSpec

PROBE_LIMIT_S = 600.0
"""A probe that takes longer hangs: loading a task's data is the longest thing one does."""
_MICRO_SIZES = (16, 32, 64, 128, 256, 512, 1024)


def run_preflight(driver: Driver) -> dict[str, Any]:
    """Check the task in a worker; UsageError with everything that is wrong."""
    return _probe(driver, "preflight", {})


def measure_hardware(
    driver: Driver, limit_s: float = 2.0, use_cache: bool = True, folder: str | None = None
) -> HardwareProfile:
    """This machine's profile; with `use_cache` only the rates are measured that the cache has not.

    Args:
        driver: what to measure with.
        limit_s: seconds to spend.
        use_cache: whether rates measured before are taken.
        folder: whose disk is read, each time anew; None: no disk's.
    """
    known, versions = facts(), software()
    cached = load_cached(fingerprint(known, versions)) if use_cache else None
    if cached is not None and _measured_before(driver, "hardware") is not None:
        return cached
    probe = {"limit_s": limit_s, "cached": cached.to_json() if cached else None, "folder": folder}
    measured = _probe(driver, "hardware", probe)
    profile = assemble(known, measured, versions)
    save_cached(profile)
    return profile


def measure_step_cost(
    driver: Driver,
    task: dict[str, Any],
    baseline: TrainerConfig,
    limit_s: float,
    limit_flops: float,
    dtypes: tuple[str, ...] = ("fp32", "bf16"),
) -> dict[str, Any]:
    """Measured seconds of the pieces of a step; see `trainer.measure.measure_steps`."""
    sizes = {size for size in _MICRO_SIZES if size <= task["n_train"]} | {baseline.batch.micro}
    probe = {
        "config": to_dict(baseline),
        "micro": sorted(sizes),
        "dtypes": list(dtypes),
        "limit_s": limit_s,
        "limit_flops": min(limit_flops, 1e300),
    }
    return _probe(driver, "step_cost", probe)


def measure_breakdown(driver: Driver, baseline: TrainerConfig, limit_s: float) -> dict[str, Any]:
    """Where a step of the baseline goes; see `trainer.breakdown.measure_breakdown`."""
    return _probe(driver, "breakdown", {"config": to_dict(baseline), "limit_s": limit_s})


def _probe(driver: Driver, purpose: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a worker measures; what an earlier session of this run measured is not measured again."""
    before = _measured_before(driver, purpose)
    if before is not None and purpose != "hardware":
        return before
    number = 1 + max((r.spec.trial for r in driver.ledger.records), default=0)
    record = run_trial(driver, TrialSpec(number, purpose, probe=arguments), PROBE_LIMIT_S)
    if record.ended.outcome != "done":
        if driver.interrupted():
            raise KeyboardInterrupt
        raise EnvironmentFaultError(
            f"the worker process failed while running {purpose}: {record.ended.message}",
            "The run directory's worker.log has what it printed.",
        )
    return record.ended.facts


def _measured_before(driver: Driver, purpose: str) -> dict[str, Any] | None:
    done = (r for r in driver.ledger.records if r.spec.purpose == purpose and r.ended.outcome == "done")
    return next((r.ended.facts for r in done), None)
