"""Every example runs on real data; the numbers written in examples and tasks are the protocol's."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
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
    covered = {"fashion_mnist.py", "optuna_study.py", "own_task.py", "python_call.py"}
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
    arguments = ["-m", "autoaccel.cli", "tune", str(ROOT / "examples" / "own_task.py") + ":task", "--budget", "20s"]
    done = _run([*arguments, "--out", "run", "--json"], tmp_path)
    assert done.returncode in (0, 3), done.stderr
    result = json.loads(done.stdout)
    assert result["task"] == "tumours"
    assert result["baseline"]["config"]["optim.name"] == "sgd", "the task's own config is the baseline"


def test_python_call(tmp_path: Path) -> None:
    done = _run([str(ROOT / "examples" / "python_call.py"), "20s"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained parameters" in done.stdout


def test_a_study_of_the_users_own(tmp_path: Path) -> None:
    done = _run([str(ROOT / "examples" / "optuna_study.py"), "4"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ trials, least expected time to 95%: \{.*'epochs': \d+", done.stdout)


def test_a_task_defined_inline_in_a_script_is_tuned_without_a_main_guard(tmp_path: Path) -> None:
    script = (ROOT / "examples" / "own_task.py").read_text()
    script += (
        "\nimport autoaccel\nr = autoaccel.tune(task(), budget='20s', run_dir='run')\nprint('trials', len(r.trials))\n"
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
