"""The Ray executor keeps the contract on a private Ray, and outlives its workers, actors and nodes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoaccel.errors import EnvironmentFaultError, UsageError
from autoaccel.execution.base import Executor
from autoaccel.execution.local import TaskSource
from autoaccel.execution.ray_cluster import RayCluster, connect, disconnect, options_of, shipped
from tests.kits.executor_contract import (
    EASY,
    EVALUATE_EVERY,
    ExecutorContract,
    endless,
    ends,
    first_report,
    run,
    training,
    until,
)
from tests.kits.faulty_task import PRINT, RAISE, copied_to
from tests.kits.patience import eventually
from tests.kits.processes import alive, trainers

pytest.importorskip("ray", reason="needs ray")

ROOT = Path(__file__).resolve().parents[2]
SMALL = RayCluster(resources={"CPU": 0.25})
"""Several executors fit on one core."""


@pytest.fixture(scope="module")
def private_ray() -> Iterator[None]:
    """One Ray for this module: it takes seconds to start. Executors use the one that is there."""
    connection = connect(RayCluster(), None)
    yield
    disconnect(connection)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_to(tmp_path_factory.mktemp("ray")).parent


@pytest.fixture(scope="module")
def make(private_ray: None, folder: Path) -> Callable[..., Executor]:
    from autoaccel.execution.ray import RayExecutor

    source = TaskSource(f"{folder / 'faulty_task.py'}:toy")
    return lambda n_slots=1, cluster=SMALL: RayExecutor(source, folder / "worker.log", n_slots, cluster=cluster)


class TestRay(ExecutorContract):
    def test_what_goes_wrong_and_what_is_printed_is_told(self, executor: Executor, folder: Path) -> None:
        _, ended = run(executor, training(EASY, seed=RAISE))
        assert ended.outcome == "crashed" and "ValueError: no such layer" in ended.message
        assert run(executor, training(EASY, seed=PRINT))[1].outcome == "hit"
        log = (folder / "worker.log").read_text()
        assert "ValueError: no such layer" in log and "not JSON" in log

    def test_an_actor_killed_in_mid_trial_is_a_loss_and_the_next_trial_has_a_new_one(self, executor: Executor) -> None:
        assert run(executor, training(EASY))[1].outcome == "hit"
        spec = endless()
        executor.start(spec)
        first_report(executor)
        before = trainers()
        assert eventually(lambda: len(actors()) == 1), "those of tests before may still be ending"
        (actor,) = actors()
        actor.kill()
        events = until(executor, ends)
        (ended,) = ends(events)
        assert ended.outcome == "lost" and "went away" in ended.message
        assert ended.samples >= EVALUATE_EVERY, "what it was last heard to have done is kept"
        assert run(executor, training(EASY))[1].outcome == "hit"
        assert eventually(lambda: not trainers() & before), "its training process outlived it"

    def test_a_training_process_killed_from_outside_is_a_loss_too(self, executor: Executor) -> None:
        spec = endless()
        executor.start(spec)
        first_report(executor)
        assert eventually(lambda: len(trainers()) == 1)
        (process,) = trainers()
        process.send_signal(signal.SIGKILL)
        (ended,) = ends(until(executor, ends))
        assert (ended.outcome, ended.message) == ("lost", "the worker process died: signal SIGKILL")
        assert run(executor, training(EASY))[1].outcome == "hit"

    def test_no_process_is_left_after_close(self, make: Callable[..., Executor]) -> None:
        before = actors() | trainers()
        executor = make(n_slots=2)
        executor.start(endless())
        executor.start(endless())
        assert eventually(lambda: len(trainers() - before) == 2)
        executor.close()
        assert eventually(lambda: not (actors() | trainers()) - before)


def actors() -> set[psutil.Process]:
    """Ray's processes that hold our actors."""
    return {process for process, command in alive() if command.startswith("ray::Host")}


def named(process: psutil.Process) -> str:
    """Its name, if it is still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def test_no_room_on_ray_is_told_at_once(make: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    from autoaccel.execution import ray as module

    monkeypatch.setattr(module, "PLACEMENT_S", 2.0)
    with pytest.raises(EnvironmentFaultError) as caught:
        make(n_slots=1, cluster=RayCluster(resources={"CPU": 0.25, "licence": 1.0}))
    assert "Ray has room for 0 of 1 trials at once, each with CPU 0.25, licence 1; it has" in caught.value.message
    assert "--devices" in caught.value.hint


def driven(folder: Path, script: str, **environment: str) -> str:
    """What a script prints that knows nothing of a Ray of ours."""
    (folder / "driver.py").write_text(script)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = {**clean, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment}
    driver = [sys.executable, "driver.py"]
    done = subprocess.run(driver, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------- a private Ray of its own

PRIVATE = """
import contextlib, json, os, signal, sys
import psutil
from autoaccel.execution.local import TaskSource
from autoaccel.execution.ray import RayExecutor
from tests.kits.executor_contract import EASY, run, training

before = signal.getsignal(signal.SIGTERM)
executor = RayExecutor(TaskSource("faulty_task.py:toy"), n_slots=1)
while_open = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")}
processes = psutil.Process().children(recursive=True)
addresses = set()
for process in [psutil.Process(), *processes]:
    with contextlib.suppress(psutil.NoSuchProcess):  # what Ray needs for a moment only
        addresses |= {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}
outcome = run(executor, training(EASY))[1].outcome
executor.close()
gone, alive = psutil.wait_procs(processes, timeout=60)
print(json.dumps({
    "addresses": sorted(addresses), "outcome": outcome, "left": [p.name() for p in alive],
    "mode": while_open["RAY_AUTH_MODE"], "statistics": while_open["RAY_USAGE_STATS_ENABLED"],
    "kept": sorted(name for name in os.environ if name.startswith("RAY_")),
    "sigterm": signal.getsignal(signal.SIGTERM) is before, "home": os.listdir(os.path.expanduser("~")),
}))
"""


def test_a_private_ray_listens_here_only_asks_for_its_token_and_leaves_nothing_behind(tmp_path: Path) -> None:
    copied_to(tmp_path)
    (tmp_path / "home").mkdir()
    found = json.loads(driven(tmp_path, PRIVATE, HOME=str(tmp_path / "home")).splitlines()[-1])
    assert found["addresses"] and {a.removeprefix("::ffff:") for a in found["addresses"]} <= {"127.0.0.1", "::1"}
    assert (found["outcome"], found["left"], found["mode"], found["statistics"]) == ("hit", [], "token", "0")
    assert found["sigterm"], "Ray took SIGTERM for itself"
    assert ".ray" not in found["home"], "the token was written into the user's home"
    assert found["kept"] == ["RAY_AUTH_MODE", "RAY_CLIENT_MODE"], "only what Ray sets itself when it is imported"


TWICE = """
import os
from autoaccel.execution.ray_cluster import RayCluster, connect, disconnect
for _ in range(2):
    connection = connect(RayCluster(), None)
    import ray
    print(os.environ["RAY_AUTH_TOKEN"], ray.get(ray.remote(lambda: 1 + 1).remote()))
    disconnect(connection)
"""


def test_every_private_ray_has_a_token_of_its_own(tmp_path: Path) -> None:
    """Ray remembers the first one, and would refuse the second."""
    first, second = driven(tmp_path, TWICE, HOME=str(tmp_path)).splitlines()[-2:]
    assert first.split()[1] == second.split()[1] == "2" and first != second


WAITING = """
import sys
import psutil
from autoaccel.execution.ray_cluster import RayCluster, connect
connect(RayCluster(), None)
print(*(p.pid for p in psutil.Process().children(recursive=True)), flush=True)
sys.stdin.read()
"""


def test_a_private_ray_is_gone_when_its_driver_was_killed(tmp_path: Path) -> None:
    """Its agents would look for the others for a minute."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    pipe = subprocess.PIPE
    driver = subprocess.Popen([sys.executable, "-c", WAITING], cwd=tmp_path, env=env, stdin=pipe, stdout=pipe)
    with driver:
        assert driver.stdout is not None
        pids = map(int, driver.stdout.readline().split())
        processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        assert any("Agent" in name for name in map(named, processes))
        driver.kill()
    assert psutil.wait_procs(processes, timeout=45)[1] == []


# -------------------------------------------------------------------------------------------------------- two machines


NODES = """
import json, os, sys, time
import ray
from ray.cluster_utils import Cluster
from autoaccel.execution.local import TaskSource
from autoaccel.execution.ray import RayExecutor
from autoaccel.execution.ray_cluster import RayCluster
from tests.kits.executor_contract import EASY, endless, ends, run, training, until
from autoaccel.trial import Report

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
source = TaskSource(os.environ["TASK"] + ":toy")
executor = RayExecutor(source, n_slots=2, n_devices=2, cluster=RayCluster(cluster.address))
specs = [endless(), endless()]
for spec in specs:
    executor.start(spec)
wanted = {spec.trial for spec in specs}
until(executor, lambda events: {e.trial for e in events if isinstance(e, Report)} == wanted)
places = {ray.get(place.placed)[0] for place in executor._busy.values()}
cluster.remove_node(second, allow_graceful=False)
(lost,) = ends(until(executor, ends))
(other,) = wanted - {lost.trial}
until(executor, lambda events: any(isinstance(e, Report) and e.trial == other for e in events))
executor.kill(other)
until(executor, ends)
outcome = run(executor, training(EASY))[1].outcome
executor.close()
cluster.shutdown()
print(json.dumps({"places": len(places), "lost": lost.outcome, "after": outcome}))
"""


@pytest.mark.full
def test_trials_spread_over_nodes_and_the_loss_of_one_costs_its_trial_only(tmp_path: Path) -> None:
    """In a driver of its own; the task's files reach the nodes by Ray."""
    (tmp_path / "mine").mkdir()
    out = driven(tmp_path, NODES, TASK=str(copied_to(tmp_path / "mine")))
    assert json.loads(out.splitlines()[-1]) == {"places": 2, "lost": "lost", "after": "hit"}


NOWHERE = """
import os
from autoaccel.errors import EnvironmentFaultError
from autoaccel.execution.ray_cluster import RayCluster, connect
ours = ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_AUTO_CONNECT", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
try:
    connect(RayCluster(os.environ["ADDRESS"]), None)
except EnvironmentFaultError as error:
    print(error)
assert not any(name in os.environ for name in ours), "the environment is as it was"
"""


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9", "127.0.0.1:ray", "auto"])
def test_a_cluster_that_is_not_there_is_told(address: str, tmp_path: Path) -> None:
    out = driven(tmp_path, NOWHERE, ADDRESS=address)
    assert out.startswith(f"no Ray at {address!r}: ") and "RAY_AUTH_TOKEN" in out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "ray://head:10001"}, "Ray's client protocol is not supported"),
        ({"resources": {"CPU": -1.0}}, "Ray resource 'CPU': -1.0 is no amount"),
        ({"resources": {"GPU": float("inf")}}, "Ray resource 'GPU': inf is no amount"),
    ],
)
def test_a_wrong_request_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RayCluster(**settings)
    assert message in caught.value.message


def test_resources_in_the_words_of_ray() -> None:
    assert options_of({"CPU": 0.0, "GPU": 0.5}) == {"num_cpus": 0.0, "num_gpus": 0.5, "resources": {}}
    assert options_of({"CPU": 4.0, "memory": 1e9, "licence": 1.0}) == {
        "num_cpus": 4.0,
        "memory": 1e9,
        "resources": {"licence": 1.0},
    }


# --------------------------------------------------------------------------------------------------- what is sent along


def names(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as stream:
        return set(stream.namelist())


def test_a_tasks_modules_and_settings_are_sent_and_nothing_else(tmp_path: Path) -> None:
    skipped = ("data.npz", ".venv/x.py", "runs/old.py", "parts/__pycache__/net.py")
    for name in ("train.py", "parts/net.py", "parts/net.yaml", "labels.json", *skipped):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("x = 1\n")
    (tmp_path / "mine" / "labels.json").write_text("0" * 200_000)
    archive, source = shipped(TaskSource(f"{tmp_path}/mine/train.py:task"), tmp_path)
    own = {name for name in names(archive) if not name.startswith("autoaccel/")}
    assert own == {"train.py", "parts/net.py", "parts/net.yaml"}
    assert {"autoaccel/execution/worker.py", "autoaccel/trainer/loop.py"} <= names(archive)
    assert source == TaskSource("train.py:task"), "it is found in the folder that was sent"
    first = archive.read_bytes()
    assert shipped(TaskSource(f"{tmp_path}/mine/train.py:task"), tmp_path)[0].read_bytes() == first


def test_data_tasks_need_no_files_and_objects_those_of_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text("x = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for reference, sent in (("digits", False), ("mlp?table=/data/a.csv&label=y", False), ("nets:task", True)):
        archive, source = shipped(TaskSource(reference), tmp_path)
        assert ("nets.py" in names(archive), source) == (sent, TaskSource(reference))
    assert "nets.py" in names(shipped(TaskSource(pickled=b"..."), tmp_path)[0])
    assert shipped(None, tmp_path)[1] is None


def test_a_folder_full_of_programs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoaccel.execution import ray_cluster

    monkeypatch.setattr(ray_cluster, "_MOST_BYTES", 1000)
    (tmp_path / "task.py").write_text("x = 1\n")
    with pytest.raises(UsageError, match="modules and settings are too much to send to the cluster"):
        shipped(TaskSource(f"{tmp_path}/task.py:task"), tmp_path)
