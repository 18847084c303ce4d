"""Devices of this machine are shared out evenly among trials."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoaccel.errors import UsageError
from autoaccel.execution import slots
from autoaccel.execution.slots import VISIBLE, Slot, device_slots, visible_gpus


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")


@pytest.fixture
def six_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_affinity", lambda: {1, 3, 5, 7, 9, 11, 13})
    monkeypatch.setattr(slots, "usable_cores", lambda: 6)


def test_one_device_is_everything_there_is() -> None:
    assert device_slots(1, 3) == (Slot(), Slot(), Slot())


def test_cores_are_shared_out(six_cores: None) -> None:
    assert [sorted(s.cores or ()) for s in device_slots(3, 3)] == [[1, 3], [5, 7], [9, 11]]
    assert [sorted(s.cores or ()) for s in device_slots(2, 4)] == [[1, 3, 5], [7, 9, 11]] * 2


def test_gpus_are_shared_out_as_the_user_named_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "3, GPU-8f2a")
    assert [dict(s.environment) for s in device_slots(2, 4)] == [{VISIBLE: "3"}, {VISIBLE: "GPU-8f2a"}] * 2
    assert all(s.cores is None for s in device_slots(2, 2))


def test_more_devices_than_there_are(six_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="devices 7: this machine has 6 cores for trials"):
        device_slots(7, 7)
    monkeypatch.setenv(VISIBLE, "0")
    with pytest.raises(UsageError, match="devices 2: this machine has 1 GPU for trials"):
        device_slots(2, 2)


@pytest.mark.parametrize(("given", "found"), [("", []), ("-1", []), ("0", ["0"]), ("2,1", ["2", "1"]), ("0,-1", [])])
def test_the_users_choice_of_gpus_rules(monkeypatch: pytest.MonkeyPatch, given: str, found: list[str]) -> None:
    monkeypatch.setenv(VISIBLE, given)
    assert visible_gpus() == found


def test_gpus_are_counted_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE)
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus(tmp_path) == ["0", "1"], "CUDA numbers what a container shows from zero"
    assert os.environ.get(VISIBLE) is None
