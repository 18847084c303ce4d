"""Facts, cgroup limits, the fingerprint, and a cache that never gets in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoaccel.hardware import profile as hw

SOFTWARE = {"torch": "2.15.0", "numpy": "2.0"}
GPU = {"kind": "cuda", "name": "A", "memory_bytes": 80 * 2**30, "capability": "9.0"}
CPU = {"kind": "cpu", "name": "some CPU", "memory_bytes": 8 * 2**30, "capability": ""}
KNOWN: dict[str, Any] = {
    "cpu_model": "some CPU",
    "isa": ["avx2"],
    "usable_cores": 4,
    "memory_bytes": 8 * 2**30,
    "n_cpus": 8,
    "affinity": "0-3",
    "cgroup_cores": None,
    "cgroup_memory_bytes": None,
    "os": "Linux x86_64",
    "python": "3.11.7",
}
MEASURED: dict[str, Any] = {
    "device": "cpu",
    "devices": [CPU],
    "n_threads": 4,
    "rates": {
        "matmul.fp32": {"per_s": 1e11, "per_cpu_s": 2.5e10},
        "disk": {"per_s": 1e9, "per_cpu_s": None},
    },
    "notes": {"disk": "O_DIRECT"},
    "skipped": {"matmul.bf16": "time limit"},
    "load": {"others": 0.02, "average": 1.5},
}


@pytest.fixture
def profile() -> hw.HardwareProfile:
    return hw.assemble(KNOWN, MEASURED, SOFTWARE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOACCEL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def cgroups(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A fake cgroup root and membership file."""
    for name, text in files.items():
        write(folder / "root" / name, text)
    return folder / "root", write(folder / "self", membership)


def test_facts_are_plain_and_need_no_torch() -> None:
    code = "import sys; from autoaccel.hardware import probe, profile; assert not {'psutil', 'torch'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", f"{code}; profile.facts(); assert 'torch' not in sys.modules"], check=True)
    found = json.loads(json.dumps(hw.facts()))
    assert set(found) == set(KNOWN)
    assert found["usable_cores"] >= 1
    assert found["memory_bytes"] > 0
    assert found["cpu_model"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: X\nflags\t: amx_bf16 avx2\n\nmodel name\t: Y\nflags\t: sve\n", ("X", ["avx2", "amx_bf16"])),
        ("processor : 0\nFeatures : fp asimd sve bf16\n", ("", ["bf16", "sve"])),
        ("", ("", [])),
    ],
)
def test_cpu_facts(tmp_path: Path, text: str, expected: tuple[str, list[str]]) -> None:
    assert hw.cpu_facts(write(tmp_path / "cpuinfo", text)) == expected


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "200000 100000"}, 0.5),
        ("0::/not/mounted/here", {"cpu.max": "300000 100000"}, 3.0),
        ("1:cpu,cpuacct:/g", {"cpu/g/cpu.cfs_quota_us": "250000", "cpu/g/cpu.cfs_period_us": "100000"}, 2.5),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpuset:/g\n0::/g", {"unified/g/cpu.max": "100000 100000"}, 1.0),
        ("1:cpuset:/g", {"cpu/g/cpu.cfs_quota_us": "100000", "cpu/g/cpu.cfs_period_us": "100000"}, None),
        ("garbage\n::\n", {"cpu.max": "what is this"}, None),
    ],
)
def test_cgroup_cores(tmp_path: Path, membership: str, files: dict[str, str], cores: float | None) -> None:
    assert hw.cgroup_cores(*cgroups(tmp_path, membership, files)) == cores


@pytest.mark.parametrize(
    ("membership", "files", "limit"),
    [
        ("0::/", {"memory.max": "1073741824\n"}, 2**30),
        ("0::/", {"memory.max": "max\n"}, None),
        ("0::/a/b", {"a/memory.max": "2000", "a/b/memory.max": "max"}, 2000),
        ("4:memory:/g", {"memory/g/memory.limit_in_bytes": "4096", "memory/memory.limit_in_bytes": "8192"}, 4096),
        ("4:memory:/g", {"memory/g/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_cgroup_memory(tmp_path: Path, membership: str, files: dict[str, str], limit: int | None) -> None:
    assert hw.cgroup_memory_bytes(*cgroups(tmp_path, membership, files)) == limit


@pytest.mark.parametrize(
    ("cpus", "text"), [(set(), ""), ({3}, "3"), ({0, 1}, "0-1"), ({8, 2, 0, 1}, "0-2,8"), ({1, 3, 5, 6}, "1,3,5-6")]
)
def test_cpus_are_listed_as_linux_lists_them(cpus: set[int], text: str) -> None:
    assert hw.cpu_list(cpus) == text


@pytest.mark.parametrize(
    ("membership", "files", "left"),
    [
        ("0::/", {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 50\n"}, 350),
        ("0::/", {"memory.max": "1000", "memory.current": "1200"}, 0),
        ("0::/", {"memory.max": "max", "memory.current": "700"}, None),
        (
            "0::/a/b",
            {"a/memory.max": "900", "a/memory.current": "800", "a/b/memory.max": "500", "a/b/memory.current": "100"},
            100,
        ),
        (
            "4:memory:/g",
            {
                "memory/g/memory.limit_in_bytes": "4096",
                "memory/g/memory.usage_in_bytes": "1000",
                "memory/g/memory.stat": "inactive_file 1\ntotal_inactive_file 96",
            },
            3192,
        ),
        ("", {}, None),
    ],
)
def test_what_a_cgroup_leaves(tmp_path: Path, membership: str, files: dict[str, str], left: int | None) -> None:
    assert hw.cgroup_memory_left_bytes(*cgroups(tmp_path, membership, files)) == left


def test_usable_cores_is_a_whole_number_of_at_least_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    missing = tmp_path / "missing"
    assert hw.usable_cores(tmp_path, missing) == 8
    for quota, cores in (("250000", 2), ("30000", 1), ("9900000", 8)):
        write(tmp_path / "cpu.max", f"{quota} 100000")
        assert hw.usable_cores(tmp_path, missing) == cores


def test_fingerprint_ignores_order_and_soft_facts() -> None:
    other = {**GPU, "name": "B"}
    known = {**KNOWN, "devices": [GPU, other]}
    backwards = dict(reversed([*{**known, "devices": [other, dict(reversed(GPU.items()))]}.items()]))
    first = hw.fingerprint(known, SOFTWARE)
    assert hw.fingerprint(backwards, dict(reversed(SOFTWARE.items()))) == first
    soft = {"python": "3.12.0", "memory_bytes": KNOWN["memory_bytes"] + 4096}
    assert hw.fingerprint({**known, **soft}, {**SOFTWARE, "numpy": "2.1"}) == first


@pytest.mark.parametrize(
    "change",
    [
        *({"usable_cores": 2}, {"cpu_model": "another"}, {"isa": []}, {"memory_bytes": 16 * 2**30}),
        *({"devices": []}, {"devices": [GPU, GPU]}, {"devices": [{**GPU, "name": "B"}]}),
        *({"devices": [{**GPU, "memory_bytes": 40 * 2**30}]}, {"devices": [{**GPU, "capability": "8.0"}]}),
    ],
)
def test_fingerprint_changes_with_every_hard_fact(change: dict[str, Any]) -> None:
    known = {**KNOWN, "devices": [GPU]}
    assert hw.fingerprint({**known, **change}, SOFTWARE) != hw.fingerprint(known, SOFTWARE)
    assert hw.fingerprint(known, {"torch": "2.16.0"}) != hw.fingerprint(known, SOFTWARE)


def test_the_fingerprint_is_not_that_of_a_format() -> None:
    """Times that were kept before the profile's JSON changed still hold; this is what the first version gave."""
    assert hw.fingerprint(KNOWN, SOFTWARE) == "8dbb9e849ba5"


def test_profile_knows_both_fingerprints(profile: hw.HardwareProfile) -> None:
    assert profile.host == hw.fingerprint(KNOWN, SOFTWARE)
    assert profile.fingerprint == hw.fingerprint({**KNOWN, "devices": [CPU]}, SOFTWARE)


def test_json_round_trip(profile: hw.HardwareProfile) -> None:
    assert json.loads(json.dumps(profile.to_json())) == profile.to_json()
    assert hw.HardwareProfile.from_json(profile.to_json()) == profile


def test_cache_round_trip(profile: hw.HardwareProfile, cache: Path) -> None:
    assert hw.load_cached(profile.host) is None
    hw.save_cached(profile)
    hw.save_cached(profile)
    assert hw.load_cached(profile.host) == profile
    assert [file.name for file in cache.iterdir()] == [f"hardware-{profile.host}.json"]


DAMAGE: tuple[dict[str, Any], ...] = (
    *({"version": 0}, {"host": "of another machine"}, {"unknown": 1}, {"usable_cores": "4"}),
    *({"devices": []}, {"devices": [{"kind": "cpu"}]}, {"devices": None}),
    *({"rates": "fast"}, {"rates": {"memory": 1e9}}, {"load": None}),
    *({"rates": {name: {"per_s": rate, "per_cpu_s": None}}} for name, rate in (("memory", -1.0), ("speed", 1.0))),
    {"rates": {"memory": {"per_s": 1.0, "per_cpu_s": float("nan")}}},
)


@pytest.mark.parametrize("change", DAMAGE)
def test_damaged_profile_is_absent(profile: hw.HardwareProfile, cache: Path, change: dict[str, Any]) -> None:
    write(cache / f"hardware-{profile.host}.json", json.dumps({**profile.to_json(), **change}))
    assert hw.load_cached(profile.host) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"version": 1}', b'{"version": 2}'])
def test_damaged_file_is_absent_and_replaced(profile: hw.HardwareProfile, cache: Path, content: bytes) -> None:
    write(cache / f"hardware-{profile.host}.json", "").write_bytes(content)
    assert hw.load_cached(profile.host) is None
    hw.save_cached(profile)
    assert hw.load_cached(profile.host) == profile


def test_unwritable_cache_is_no_error(profile: hw.HardwareProfile, cache: Path) -> None:
    write(cache, "a file where the folder should be")
    hw.save_cached(profile)
    assert hw.load_cached(profile.host) is None


def test_failed_write_leaves_nothing_behind(profile: hw.HardwareProfile, cache: Path) -> None:
    (cache / f"hardware-{profile.host}.json").mkdir(parents=True)  # cannot be replaced by a file
    hw.save_cached(profile)
    assert hw.load_cached(profile.host) is None
    assert len(list(cache.iterdir())) == 1
