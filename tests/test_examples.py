"""Every example runs on real data; the numbers written in examples and tasks are the protocol's."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from sklearn.datasets import load_digits

import autoaccel
from autoaccel.config import TrainerConfig, keras_recipe, with_params
from autoaccel.tasks.digits import TARGET

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_every_example_is_short_and_covered() -> None:
    covered = {
        "fashion_mnist.py",
        "optuna_study.py",
        "own_task.py",
        "python_call.py",
        "ray_tune.py",
        "ray_tune_asha.py",
    }
    assert {path.name for path in EXAMPLES} == covered, "a new example needs a test here"
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES)
    assert len((ROOT / "examples" / "fashion_mnist.py").read_text().splitlines()) <= 25


@pytest.fixture(scope="module")
def fashion_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in Fashion-MNIST's layout made of scikit-learn's digits, enlarged to 28 pixels and repeated."""
    images, labels = load_digits(return_X_y=True)
    large = np.kron(images.reshape(-1, 8, 8), np.ones((1, 4, 4)))[:, 2:30, 2:30] * 15.9
    large = large[:, :28, :28].astype(np.uint8)
    repeats = 60_000 // len(large) + 1
    file = tmp_path_factory.mktemp("data") / "like_fashion.npz"
    np.savez(file, x_train=np.tile(large, (repeats, 1, 1))[:16_000], y_train=np.tile(labels, repeats)[:16_000])
    return file


def test_fashion_example_builds_a_task_that_trains(fashion_like: Path) -> None:
    task = _load("fashion_mnist").fashion(fashion_like)
    config = with_params(keras_recipe(10_000), {"horizon.samples": 3_000, "evaluate.every_samples": 3_000})
    result = autoaccel.train(task, config)
    assert result.outcome == "finished"
    assert result.value is not None and result.value > 0.3


def test_own_task_is_tuned_from_the_command_line(tmp_path: Path) -> None:
    arguments = ["-m", "autoaccel.cli", "tune", str(ROOT / "examples" / "own_task.py") + ":task", "--budget", "30s"]
    done = _run([*arguments, "--out", "run", "--json"], tmp_path)
    assert done.returncode in (0, 3), done.stderr
    result = json.loads(done.stdout)
    assert result["task"] == "tumours"
    assert result["baseline"]["config"]["optim.name"] == "sgd", "the task's own config is the baseline"


def test_python_call(tmp_path: Path) -> None:
    done = _run([str(ROOT / "examples" / "python_call.py"), "30s"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained parameters" in done.stdout


def test_a_study_of_the_users_own(tmp_path: Path) -> None:
    done = _run([str(ROOT / "examples" / "optuna_study.py"), "4"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ trials, least expected time to 95%: \{.*'epochs': \d+", done.stdout)


def test_ten_lines_turn_a_script_of_ray_tune_with_asha_into_ours() -> None:
    before, after = ((ROOT / "examples" / f"{n}.py").read_text().splitlines() for n in ("ray_tune_asha", "ray_tune"))
    changes = [line for line in difflib.ndiff(before, after) if line.startswith(("+ ", "- "))]
    assert sum(line.startswith("+ ") for line in changes) <= 10
    assert {line[2:].strip() for line in changes if "Scheduler" in line} >= {
        "scheduler=ASHAScheduler(max_t=60),",
        "scheduler=TimeToTargetScheduler(search),",
    }


BEST = r"(\d+) trials, best: \{'alpha': [\d.e-]+, 'epochs': \d+, 'rate': [\d.e-]+\}"


def _ray_script(name: str, folder: Path, budget_s: int = 60, n: int = -1) -> list[str]:
    """The example in a folder of its own, with a shorter budget or so many trials."""
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert name == "ray_tune_asha" or "budget_s=60" in text
    short = text.replace("budget_s=60", f"budget_s={budget_s}").replace("num_samples=30", "num_samples=3")
    short = short.replace("num_samples=-1", f"num_samples={n}")
    (folder / f"{name}.py").write_text(short)
    return [str(folder / f"{name}.py"), str(folder / "results")]


@pytest.mark.slow
def test_a_script_of_ray_tune(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune", reason="needs ray[tune]")
    done = _run(_ray_script("ray_tune", tmp_path, n=3), tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(BEST, done.stdout)
    assert found is not None and 1 <= int(found[1]) <= 3


@pytest.mark.full
def test_a_script_of_ray_tune_before_it_is_changed(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune", reason="needs ray[tune]")
    done = _run(_ray_script("ray_tune_asha", tmp_path), tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search("3 trials, best: .*'epochs': 60", done.stdout)


@pytest.mark.full
def test_a_script_of_ray_tune_survives_the_death_of_a_worker_and_of_its_driver(tmp_path: Path) -> None:
    pytest.importorskip("ray.tune", reason="needs ray[tune]")
    script = _ray_script("ray_tune", tmp_path, budget_s=40)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *script], cwd=tmp_path, env=environment) as driver:
        workers = _trials_of_tune(driver.pid, tmp_path, n_results=2)
        workers[0].kill()
        _trials_of_tune(driver.pid, tmp_path, n_results=4)
        driver.kill()
    before = {path.name for path in (tmp_path / "results" / "digits").glob("train_*")}
    done = _run(script, tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(BEST, done.stdout)
    assert found is not None and int(found[1]) >= 4
    after = {path.name for path in (tmp_path / "results" / "digits").glob("train_*")}
    assert before <= after, "the experiment began anew"
    for file in (tmp_path / "results" / "digits").glob("train_*/result.json"):
        iterations = [json.loads(line)["training_iteration"] for line in file.read_text().splitlines()]
        assert set(iterations) == set(range(1, max(iterations, default=0) + 1)), "epochs are missing"


def _trials_of_tune(driver: int, folder: Path, n_results: int) -> list[psutil.Process]:
    """The processes of Tune's trials, once so many trials have reported."""
    for _ in range(1200):
        files = [p for p in (folder / "results" / "digits").glob("train_*/result.json") if p.stat().st_size]
        found = [p for p in psutil.Process(driver).children(recursive=True) if "ImplicitFunc" in " ".join(p.cmdline())]
        if len(files) >= n_results and found:
            return found
        time.sleep(0.1)
    raise AssertionError("no trial was begun")


def test_a_task_defined_inline_in_a_script_is_tuned_without_a_main_guard(tmp_path: Path) -> None:
    script = (ROOT / "examples" / "own_task.py").read_text()
    script += (
        "\nimport autoaccel\nr = autoaccel.tune(task(), budget='30s', run_dir='run')\nprint('trials', len(r.trials))\n"
    )
    (tmp_path / "inline.py").write_text(script)
    done = _run(["inline.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"trials \d\d+", done.stdout)


@pytest.mark.parametrize("name", ["demo", "fashion"])
def test_targets_and_recipes_are_those_of_the_committed_protocol(name: str) -> None:
    protocol = json.loads((ROOT / "benchmarks" / name / "protocol.json").read_text())
    values = protocol["final_values"]
    assert protocol["target"] == pytest.approx(np.floor(np.quantile(values, 0.1) * 1e4) / 1e4)
    assert len(values) == protocol["seeds"] >= 10
    n_train = protocol["recipe"]["horizon.samples"] // 15
    assert with_params(TrainerConfig(), protocol["recipe"]) == keras_recipe(n_train)


def test_the_numbers_in_code_are_the_protocols() -> None:
    demo = json.loads((ROOT / "benchmarks" / "demo" / "protocol.json").read_text())
    fashion = json.loads((ROOT / "benchmarks" / "fashion" / "protocol.json").read_text())
    assert demo["target"] == TARGET
    assert f"target={fashion['target']}" in (ROOT / "examples" / "fashion_mnist.py").read_text()
