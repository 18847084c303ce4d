"""The profile of the machine and the built-in task, measured by a worker as the command line does it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from autoaccel import inspection
from autoaccel.hardware.profile import HardwareProfile
from autoaccel.report.profile import sections


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Once, in a folder of its own, with little time; then from what was measured."""
    folder = tmp_path_factory.mktemp("here")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOACCEL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        for name, limit_s in (("HARDWARE_S", 2.0), ("BREAKDOWN_S", 0.5), ("STEPS_S", 0.5)):
            patch.setattr(inspection, name, limit_s)
        os.chdir(folder)
        try:
            first = inspection.profile("digits")
            patch.setattr(inspection, "HARDWARE_S", 0.0)
            return {"first": first, "cached": inspection.profile(cached=True), "folder": folder}
        finally:
            os.chdir(before)


def test_the_profile_of_a_task_is_plain_and_whole(found: dict[str, Any]) -> None:
    document = found["first"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document) == ["hardware", "task", "breakdown", "steps", "roofline", "verdict"]
    assert HardwareProfile.from_json(document["hardware"]).to_json() == document["hardware"]
    assert document["task"]["task"] == "digits" and document["breakdown"]["samples"] == 128
    assert document["breakdown"]["step_flops"] == 128 * document["task"]["flops_per_sample"] > 0
    assert 0 < document["roofline"]["mfu"] < 2 and document["roofline"]["bound"] in document["roofline"]["shares"]
    assert " bounds the step: " in document["verdict"]
    assert [section.title.split()[0] for section in sections(document)] == [
        *("this", "what", "where", "what", "FLOPs", "forward")
    ]


def test_measuring_leaves_nothing_in_the_folder(found: dict[str, Any]) -> None:
    assert list(found["folder"].iterdir()) == []


def test_rates_measured_before_are_taken_where_that_is_asked_for(found: dict[str, Any]) -> None:
    first, cached = found["first"]["hardware"], found["cached"]["hardware"]
    assert cached["rates"] == {name: rate for name, rate in first["rates"].items() if name != "disk"} != {}
    assert cached["skipped"]["disk"] == "time limit", "a disk is that of a folder: read anew, if there is time"
    assert found["cached"]["task"] is None and "breakdown" not in found["cached"]
