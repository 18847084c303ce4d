"""The rows of a table become numbers and categories, by what the training rows say."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from sklearn.datasets import load_breast_cancer

from autoaccel.config import TrainerConfig, with_params
from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.tasks.splits import stratified
from autoaccel.tasks.tables import Table, table_net
from autoaccel.trainer.preflight import preflight
from autoaccel.trainer.run import run_training
from autoaccel.trial import TrialSpec

N = 100
LABELS = ["yes", "no"] * (N // 2)


def made(folder: Path, columns: dict[str, Any], suffix: str = ".parquet") -> Path:
    path = folder / f"table{suffix}"
    table = pa.table(columns)
    parquet.write_table(table, path) if suffix == ".parquet" else csv.write_csv(table, path)
    return path


def task_of(folder: Path, columns: dict[str, Any], **more: Any) -> Task:
    return Table(table=made(folder, {**columns, "y": LABELS}), label="y", **more).task()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_real_table_is_learned(tmp_path: Path, suffix: str) -> None:
    data = load_breast_cancer()
    columns = {str(name): column for name, column in zip(data.feature_names, data.data.T, strict=True)}
    path = made(tmp_path, {**columns, "diagnosis": data.target_names[data.target]}, suffix)
    task = Table(table=path, label="diagnosis", metric="auc").task()
    x, y = task.train
    assert x.shape == (398, 30) and x.dtype == np.float32 and y.dtype == np.int64
    assert np.allclose(x.mean(0), 0, atol=1e-4) and np.allclose(x.std(0), 1, atol=1e-4)
    assert [len(task.validation[0]), len(task.test[0])] == [85, 86]
    assert y.mean() == pytest.approx(task.validation[1].mean(), abs=0.01)
    loaded, _ = preflight(task)
    config = with_params(TrainerConfig(), {"batch.size": 64, "horizon.samples": 1500, "evaluate.every_samples": 1500})
    assert (run_training(loaded, TrialSpec(1, "train", config, None), report=print)[0].value or 0) > 0.97


def test_numbers_of_every_kind_are_inputs(tmp_path: Path) -> None:
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(N)]
    columns = {
        "whole": np.arange(N),
        "fraction": np.arange(N) / 7,
        "flag": np.arange(N) % 3 == 0,
        "decimal": [Decimal(i) for i in range(N)],
        "day": days,
        "moment": [datetime.datetime(d.year, d.month, d.day) for d in days],
        "same": np.ones(N),
        "nothing": pa.nulls(N),
    }
    x, _ = task_of(tmp_path, columns).train
    assert x.shape[1] == 6, "a column that never changes says nothing"
    assert np.allclose(x[:, [1, 3, 4, 5]], x[:, [0]], atol=1e-5)
    assert len(np.unique(x[:, 2])) == 2


def test_statistics_come_from_the_training_rows_alone(tmp_path: Path) -> None:
    trained_on = stratified(np.array([label == "yes" for label in LABELS], dtype=np.int64))[0]
    values = np.arange(N, dtype=float)
    plain = task_of(tmp_path, {"a": values})
    expected = (values - values[trained_on].mean()) / values[trained_on].std()
    assert np.allclose(plain.train[0][:, 0], expected[trained_on], atol=1e-5)
    values[np.setdiff1d(np.arange(N), trained_on)] += 1e6
    spoilt = task_of(tmp_path, {"a": values})
    assert (spoilt.train[0] == plain.train[0]).all() and spoilt.validation[0].min() > 1e4


def test_a_missing_number_is_the_mean_and_says_so(tmp_path: Path) -> None:
    values = [None if i % 5 == 0 else float("inf") if i % 5 == 1 else float(i) for i in range(N)]
    task = task_of(tmp_path, {"a": values, "b": np.arange(N)})
    x = np.concatenate([part[0] for part in (task.train, task.validation, task.test)])
    assert x.shape == (N, 3)
    missing = x[:, 1] == 1
    assert missing.sum() == 2 * N // 5 and (x[missing, 0] == 0).all() and (x[~missing, 1] == 0).all()
    assert np.isfinite(x).all()


def test_categories_are_numbered_and_what_is_rare_or_missing_is_0(tmp_path: Path) -> None:
    colours = [("red", "blue", None, "")[i % 4] for i in range(N)]
    colours[0] = "seen once"
    columns = {"colour": pa.array(colours).dictionary_encode(), "id": [f"n{i}" for i in range(N)], "n": np.arange(N)}
    task = task_of(tmp_path, columns)
    x = np.concatenate([part[0] for part in (task.train, task.validation, task.test)])
    assert sorted(np.unique(x[:, 1], return_counts=True)[1].tolist()) == [24, 25, 51]
    assert (x[:, 1] == 0).sum() == 51 and not x[:, 2].any()
    model = task.model()
    assert model(torch.as_tensor(x)).shape == (N, 2)


def test_the_net_tells_the_levels_of_all_columns_apart() -> None:
    torch.manual_seed(0)
    model = table_net(1, [3, 2], 4).eval()
    rows = torch.tensor([[0.0, a, b] for a in range(3) for b in range(2)])
    with torch.no_grad():
        assert len(model(rows).unique(dim=0)) == 6
    assert {type(m).__name__ for m in model.modules()} >= {"LayerNorm", "Dropout"}
    model(rows).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_index_that_pandas_wrote_is_no_input(tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(N), "y": LABELS, "__index_level_0__": np.arange(N)})
    table = table.replace_schema_metadata({"pandas": '{"index_columns": ["__index_level_0__"]}'})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert Table(table=tmp_path / "t.parquet", label="y").task().train[0].shape[1] == 1


A = {"a": np.arange(N)}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such label": ({**A, "target": LABELS}, "targte", "--label targte: no such column"),
    "only the label": ({"y": LABELS}, "y", "no column besides the label"),
    "one class": ({**A, "y": ["yes"] * N}, "y", "all 100 samples are of one class, yes"),
    "no classes": ({**A, "y": np.arange(N) / 3}, "y", "100 different numbers in 100 rows are no classes"),
    "too many numbers": ({**A, "y": np.arange(N) // 2}, "y", "50 different numbers in 100 rows are no classes"),
    "labels missing": ({**A, "y": [None, *LABELS[1:]]}, "y", "1 rows have no 'y'"),
    "lists": ({"a": [[1, 2]] * N, "y": LABELS}, "y", "neither numbers, dates nor text: a (list"),
    "a label of lists": ({**A, "y": [[1, 2]] * N}, "y", "--label y: a column of list"),
    "nothing to learn from": ({"a": np.ones(N), "y": LABELS}, "y", "no input column has two values"),
    "too few rows": ({"a": [1, 2, 3, 4], "y": ["p", "q"] * 2}, "y", "4 samples are too few"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, kind: str) -> None:
    columns, label, message = WRONG[kind]
    with pytest.raises(UsageError) as caught:
        Table(table=made(tmp_path, columns), label=label).task()
    assert message in caught.value.message and caught.value.hint


def test_a_label_that_is_nearly_a_column_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'target'"):
        Table(table=made(tmp_path, {**A, "target": LABELS}), label="targte").check()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.parquet", None, "no such file"),
        ("table.xlsx", b"", "neither .parquet nor .csv"),
        ("table.parquet", b"no parquet", "cannot be read (Parquet magic bytes not found"),
        ("table.csv", b"", "cannot be read (Empty CSV file)"),
        ("table.csv", b"a,a,y\n1,2,3\n", "two columns called a"),
        ("table.csv", b"a,y\n1,2\n1,2,3\n", "cannot be read (CSV parse error"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Table(table=tmp_path / name, label="y").task()
    assert message in caught.value.message and caught.value.hint


def test_types_of_a_csv_are_judged_by_the_whole_file(tmp_path: Path) -> None:
    rows = "".join(f"{i if i < 90_000 else 'many'},{i % 2}\n" for i in range(150_000))
    (tmp_path / "t.csv").write_text(f"a,y\n{rows}")
    task = Table(table=tmp_path / "t.csv", label="y").task()
    assert task.train[0].shape == (105_000, 1) and set(np.unique(task.train[0])) == {0.0, 1.0}
