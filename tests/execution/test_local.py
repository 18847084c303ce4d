"""The local executor keeps the contract, and its driver survives whatever user code and the system do to a worker."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from autoaccel.config import TrainerConfig, to_dict
from autoaccel.errors import EnvironmentFaultError
from autoaccel.execution import local, worker
from autoaccel.execution.base import Executor
from autoaccel.execution.local import LocalExecutor, TaskSource, oom_kills
from autoaccel.execution.slots import Slot
from autoaccel.sections import Batch
from autoaccel.trial import REFERENCE, Ended, Report, TrialSpec
from tests.kits.executor_contract import (
    EASY,
    EVALUATE_EVERY,
    IMPOSSIBLE,
    ExecutorContract,
    endless,
    ends,
    first_report,
    run,
    training,
    until,
)
from tests.kits.faulty_task import CALL_EXIT, EXIT, LOOP, PRINT, RAISE, SEGFAULT, copied_to
from tests.kits.patience import eventually

ROOT = Path(__file__).resolve().parents[2]
ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="relies on Linux")


def workers() -> set[psutil.Process]:
    """The worker processes of this process, dead ones not counted."""
    found = psutil.Process().children()
    return {p for p in found if p.status() != psutil.STATUS_ZOMBIE and "autoaccel.execution.worker" in str(p.cmdline())}


def gone(pid: int) -> bool:
    """Whether a process is dead, buried or not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class TestLocal(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Executor]]:
        folder = tmp_path_factory.mktemp("local")
        source = TaskSource(f"{copied_to(folder)}:toy")
        yield lambda n_slots=1: LocalExecutor(source, folder / "worker.log", [Slot()] * n_slots)

    def test_a_healthy_worker_is_used_again(self, executor: Executor) -> None:
        run(executor, training(EASY))
        before = workers()
        run(executor, training(IMPOSSIBLE))
        run(executor, training(EASY))
        assert workers() == before

    def test_no_process_is_left_after_close(self, make: Callable[..., Executor]) -> None:
        before = workers()
        executor = make(n_slots=2)
        executor.start(endless())
        executor.start(endless())
        new = workers() - before
        assert len(new) == 2
        assert {os.getpgid(p.pid) for p in new} == {p.pid for p in new}  # each leads a group of its own
        executor.close()
        assert eventually(lambda: workers() == before)
        assert eventually(lambda: all(gone(p.pid) for p in new))

    def test_no_process_at_all_is_left_behind(self, make: Callable[..., Executor]) -> None:
        before = set(psutil.Process().children(recursive=True))
        executor = make()
        run(executor, training(EASY))
        executor.start(endless())
        executor.close()
        assert eventually(lambda: set(psutil.Process().children(recursive=True)) <= before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[LocalExecutor]:
    """One executor for all faults: each has to leave it fit for the next."""
    executor = LocalExecutor(TaskSource(f"{copied_to(folder)}:toy"), folder / "worker.log")
    yield executor
    executor.close()


def child_of(folder: Path) -> int:
    """The process that the faulty task left behind."""
    return int((folder / "child.pid").read_text())


def test_reference_steps_are_run_between_trainings(shared: LocalExecutor) -> None:
    first, second = training(EASY), training(EASY)
    run(shared, first)
    probe = {"config": to_dict(TrainerConfig(batch=Batch(size=8))), "limit_s": 5.0}
    _, ended = run(shared, replace(training(), purpose=REFERENCE, config=None, target=None, probe=probe))
    assert (ended.outcome, ended.steps, len(ended.facts["wall_s"])) == ("done", 0, 6)
    assert ended.flops == ended.facts["flops"] > 0
    reports, after = run(shared, second)
    assert after.outcome == "hit" and after.cpu_s == reports[-1].cpu_s is not None


# ------------------------------------------------------------------------------------------------ faults of user code


def test_what_a_task_prints_and_reads_is_not_the_protocol(shared: LocalExecutor, folder: Path) -> None:
    reports, ended = run(shared, training(EASY, seed=PRINT))
    assert (ended.outcome, len(reports)) == ("hit", 1)
    log = (folder / "worker.log").read_text()
    assert all(text in log for text in ('"outcome": "hit"', "not JSON", "from a child"))


def test_an_exception_is_a_crash_that_says_where(shared: LocalExecutor) -> None:
    _, ended = run(shared, training(EASY, seed=RAISE))
    assert ended.outcome == "crashed"
    assert "ValueError: no such layer" in ended.message


def test_a_call_of_exit_is_a_crash(shared: LocalExecutor, folder: Path) -> None:
    _, ended = run(shared, training(EASY, seed=CALL_EXIT))
    assert (ended.outcome, ended.message) == ("crashed", "SystemExit: enough")
    assert "Traceback" in (folder / "worker.log").read_text()


def test_a_process_that_ends_itself_is_a_crash_and_takes_its_children_along(
    shared: LocalExecutor, folder: Path
) -> None:
    """The forked child holds a copy of the pipe: without the kill of the group the driver would wait for it."""
    _, ended = run(shared, training(EASY, seed=EXIT))
    assert (ended.outcome, ended.message) == ("crashed", "the worker process died: exit code 3")
    assert eventually(lambda: gone(child_of(folder)))


def test_a_native_crash_is_named_and_its_stack_logged(shared: LocalExecutor, folder: Path) -> None:
    _, ended = run(shared, training(EASY, seed=SEGFAULT))
    assert (ended.outcome, ended.message) == ("crashed", "the worker process died: signal SIGSEGV")
    assert ended.facts == {"signal": signal.SIGSEGV}
    assert "Fatal Python error: Segmentation fault" in (folder / "worker.log").read_text()


def test_an_endless_loop_is_killed_with_its_children(shared: LocalExecutor, folder: Path) -> None:
    spec = training(EASY, seed=LOOP)
    shared.start(spec)
    assert eventually((folder / "looping").exists)
    shared.stop(spec.trial)  # asking does not help
    assert shared.wait(0.2) == []
    shared.kill(spec.trial)
    assert until(shared, bool) == [Ended(spec.trial, "timeout", message="killed by the driver at its deadline")]
    assert eventually(lambda: gone(child_of(folder)))


def test_a_task_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "at_import.py"
    path.write_text("import torch\n\nraise RuntimeError('no licence server')\n")
    executor = LocalExecutor(TaskSource(f"{path}:toy"))
    _, ended = run(executor, TrialSpec(1, "preflight"))
    assert ended.outcome == "refused"
    assert ended.message == f"task '{path}:toy': import failed: RuntimeError: no licence server (at_import.py:3)"
    assert ended.facts["hint"]
    path.write_text(copied_to(tmp_path).read_text())
    _, ended = run(executor, TrialSpec(2, "preflight"))  # the same worker, the file mended
    assert (ended.outcome, ended.message) == ("done", "")
    assert run(executor, TrialSpec(3, "preflight"))[1].facts["n_train"] == 64
    executor.close()


# ------------------------------------------------------------------------------------------------ faults of the system


@ON_LINUX
def test_a_worker_killed_in_a_trial_is_a_crash_and_the_next_trial_has_a_new_one(shared: LocalExecutor) -> None:
    assert run(shared, training(EASY))[1].outcome == "hit"
    (process,) = workers()
    spec = endless()
    shared.start(spec)
    first_report(shared)
    # What a terminal or a batch system sends to all is for the driver.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        process.send_signal(number)
    events = until(shared, bool)  # several may come at once
    process.kill()
    events += until(shared, ends)
    last = [e for e in events if isinstance(e, Report)][-1]
    (ended,) = ends(events)
    assert (ended.outcome, ended.message) == ("crashed", "the worker process died: signal SIGKILL")
    assert (ended.elapsed_s, ended.samples, ended.flops) == (last.elapsed_s, last.samples, last.flops)  # is charged
    assert ended.samples >= EVALUATE_EVERY
    assert run(shared, training(EASY))[1].outcome == "hit"
    assert not workers() & {process}


@ON_LINUX
def test_a_worker_that_dies_between_trials_costs_no_trial(shared: LocalExecutor) -> None:
    assert run(shared, training(EASY))[1].outcome == "hit"
    (process,) = workers()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and left for the executor to find
    assert run(shared, training(EASY))[1].outcome == "hit"


@ON_LINUX
def test_a_stopped_worker_is_killed(shared: LocalExecutor) -> None:
    spec = endless()
    shared.start(spec)
    first_report(shared)
    (process,) = workers()
    process.suspend()
    shared.kill(spec.trial)
    assert ends(until(shared, ends))[0].outcome == "timeout"
    assert eventually(lambda: gone(process.pid))


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ("low 0\nhigh 0\nmax 31\noom 1\noom_kill 3\noom_group_kill 0\n", "oom"),
        ("low 0\nhigh 0\nmax 31\noom 1\noom_kill 2\noom_group_kill 0\n", "crashed"),
        (None, "crashed"),
    ],
    ids=["the kernel killed one more", "it did not", "nobody counts"],
)
def test_a_kill_by_the_kernel_for_lack_of_memory_is_told_apart(
    tmp_path: Path, events: str | None, outcome: str
) -> None:
    counts = tmp_path / "memory.events"
    if events:
        counts.write_text("low 0\nhigh 0\nmax 7\noom 0\noom_kill 2\noom_group_kill 0\n")
    executor = LocalExecutor(None, memory_events=counts)
    before = workers()
    spec = training(EASY)
    executor.start(spec)
    (process,) = workers() - before
    if events:
        counts.write_text(events)
    process.kill()
    (ended,) = until(executor, ends)
    assert isinstance(ended, Ended)
    assert (ended.trial, ended.outcome, ended.elapsed_s) == (spec.trial, outcome, 0.0)
    executor.close()


def test_kills_for_lack_of_memory_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "memory.events"
    path.write_text("oom 4\noom_kill 12\noom_group_kill 1\n")
    assert (oom_kills(path), oom_kills(tmp_path / "absent"), oom_kills(None)) == (12, 0, 0)


@ON_LINUX
def test_each_slot_keeps_its_cores_and_environment(folder: Path) -> None:
    core = min(os.sched_getaffinity(0))
    slots = [Slot({"AUTOACCEL_SLOT": "first"}, frozenset({core})), Slot({"AUTOACCEL_SLOT": "second"})]
    before = workers()
    executor = LocalExecutor(TaskSource(f"{copied_to(folder)}:toy"), slots=slots)
    a, b, c = endless(), endless(), endless()
    executor.start(a)
    executor.start(b)
    place = {p.environ()["AUTOACCEL_SLOT"]: p for p in workers() - before}
    assert set(place["first"].cpu_affinity()) == {core}
    assert set(place["second"].cpu_affinity()) == os.sched_getaffinity(0)
    executor.kill(a.trial)
    until(executor, ends)
    executor.start(c)  # in the slot that is free
    new = workers() - before - {place["second"]}
    assert [(p.environ()["AUTOACCEL_SLOT"], set(p.cpu_affinity())) for p in new] == [("first", {core})]
    executor.close()


def test_a_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOG_LIMIT_BYTES", 1000)
    monkeypatch.setattr(local, "LOG_KEPT_BYTES", 100)
    log = tmp_path / "worker.log"
    log.write_text("x" * 990 + "the end")
    executor = LocalExecutor(TaskSource("nonsense:nowhere"), log)
    log.write_text("x" * 1000 + "the end")
    assert run(executor, training(EASY))[1].outcome == "refused"  # the worker is there, and has the log open
    assert log.read_text() == "x" * 93 + "the end"
    log.write_text("y" * 2000)
    executor.start(training(EASY))
    assert log.stat().st_size <= 1000
    executor.close()


def test_no_process_no_worker(tmp_path: Path) -> None:
    executor = LocalExecutor(None, tmp_path / "no folder" / "worker.log")
    with pytest.raises(EnvironmentFaultError, match=r"no worker process could be started .*no folder"):
        executor.start(endless())
    executor.close()


def test_only_numbers_are_reported() -> None:
    out = io.StringIO()
    for value, loss in ((float("nan"), 1.0), (float("inf"), 1.0), (0.5, float("nan")), (0.5, 0.25)):
        worker._send_report(out, Report(1, 2.0, 3, 4, 5.0, value, loss))
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"report": Report(1, 2.0, 3, 4, 5.0, 0.5, 0.25).to_json()}
    ]


# ------------------------------------------------------------------------------------------------- faults of the driver


def script(folder: Path, text: str) -> subprocess.Popen[str]:
    """A driver of its own."""
    path = folder / "driver.py"
    path.write_text(text)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen([sys.executable, str(path)], cwd=folder, env=env, stdout=subprocess.PIPE, text=True)


INLINE = """
import cloudpickle, torch
import autoaccel
from autoaccel.execution.local import LocalExecutor, TaskSource
from autoaccel.trial import Target, TrialSpec

print("a script without a guard")

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(SIZE, 2)

    def forward(self, x):
        return self.linear(x)

SIZE = 4
data = torch.rand(64, SIZE), torch.arange(64) % 2
task = autoaccel.Task(name="inline", model=Net, train=data, validation=data)
executor = LocalExecutor(TaskSource(pickled=cloudpickle.dumps(task)))
executor.start(TrialSpec(1, "race", autoaccel.TrainerConfig(), Target.at_least(0.01)))
events = []
while len(events) < 2:
    events += executor.wait(1.0)
print([type(e).__name__ for e in events], events[-1].outcome)
executor.close()
"""


def test_a_task_of_a_script_goes_to_the_worker_and_the_script_runs_once(tmp_path: Path) -> None:
    out, _ = script(tmp_path, INLINE).communicate(timeout=240)
    assert out.splitlines() == ["a script without a guard", "['Report', 'Ended'] hit"]


DRIVER = """
import sys
from autoaccel.execution.local import LocalExecutor, TaskSource
from tests.kits.executor_contract import training
executor = LocalExecutor(TaskSource("faulty_task.py:toy"))
executor.start(training(seed=12))  # LOOP
print("started", flush=True)
while True:
    executor.wait(1.0)
"""


@ON_LINUX
def test_a_worker_and_its_children_die_with_a_killed_driver_even_in_an_endless_loop(tmp_path: Path) -> None:
    copied_to(tmp_path)
    with script(tmp_path, DRIVER) as driver:
        assert eventually((tmp_path / "looping").exists)
        started = psutil.Process(driver.pid).children(recursive=True)
        assert child_of(tmp_path) in {p.pid for p in started}
        driver.kill()
    assert eventually(lambda: all(gone(p.pid) for p in started))
