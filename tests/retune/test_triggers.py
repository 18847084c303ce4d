"""What counts as another machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoaccel.retune.triggers import change_between, nearest
from tests.kits.finished import MACHINE

GPUS = replace(MACHINE, accelerators=("H200", "H200"), driver="580")


@pytest.mark.parametrize(
    ("changed", "level", "text"),
    [
        ({}, "none", "nothing has changed"),
        ({"memory_bytes": int(8.5 * 2**30)}, "none", "nothing has changed"),
        ({"usable_cores": 2}, "hard", "usable_cores: 4 -> 2"),
        ({"memory_bytes": 16 * 2**30}, "hard", "memory: 8 GiB -> 16 GiB"),
        ({"memory_bytes": 4 * 2**30}, "hard", "memory: 8 GiB -> 4 GiB"),
        ({"cpu_model": "another"}, "hard", "cpu_model: some CPU -> another"),
        ({"isa": ()}, "hard", "isa: avx2 -> none"),
        ({"accelerators": ("H200",)}, "hard", "accelerators: H200, H200 -> H200"),
        ({"torch": "2.16.0"}, "soft", "torch: 2.15.0 -> 2.16.0"),
        ({"driver": "590"}, "soft", "driver: 580 -> 590"),
        ({"driver": ""}, "soft", "driver: 580 -> none"),
        ({"driver": "590", "usable_cores": 2}, "hard", "usable_cores: 4 -> 2; driver: 580 -> 590"),
    ],
)
def test_hard_is_what_it_is_and_soft_what_runs_on_it(changed: dict[str, Any], level: str, text: str) -> None:
    found = change_between(GPUS, replace(GPUS, **changed))
    assert (found.level, str(found)) == (level, text)
    assert [d["name"] for d in found.to_json()["differences"]] == [d.name for d in found.differences]


def test_a_driver_that_was_not_kept_is_no_difference() -> None:
    assert change_between(replace(GPUS, driver=""), GPUS).level == "none"


def test_the_nearest_machine_is_that_with_the_least_change() -> None:
    softer, harder = replace(GPUS, torch="2.16.0"), replace(GPUS, usable_cores=1)
    assert nearest([harder, softer, GPUS], GPUS) == (2, change_between(GPUS, GPUS))
    assert nearest([harder, softer], GPUS)[0] == 1
    assert nearest([softer, replace(softer, driver="1"), harder], GPUS)[0] == 0
    assert nearest([harder, harder], GPUS)[0] == 1, "of equals the last, which is the latest answer"
    with pytest.raises(ValueError, match="empty"):
        nearest([], GPUS)
