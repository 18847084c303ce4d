"""Files of columns, .parquet and .csv: what columns there are, of which kind, and their values as Arrow reads them.

Loads pyarrow when called and no torch. Must not know what a column is for.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoaccel.errors import UsageError, did_you_mean, first_line
from autoaccel.tasks.splits import Labels

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER, MOMENT, TEXT, BYTES, BYTES_IN_STRUCT = "number", "date or time", "text", "bytes", "bytes in a struct"
"""Kinds of columns; any other is called by Arrow's own name of its type."""


def kinds(path: Path, what: str) -> dict[str, str]:
    """Name and kind of every column; only the head of the file is read. `what` names it in messages: '--table x.csv'.

    Raises:
        UsageError: no file, not of one of these formats, damaged, or two columns of one name.
    """
    if not path.is_file():
        raise UsageError(f"{what}: no such file", "Check the path.")
    if path.suffix not in (".parquet", ".csv"):
        raise UsageError(f"{what}: neither .parquet nor .csv", "Convert it, e.g. with pandas: to_parquet('x.parquet').")
    found = _arrow(what, lambda: _schema(path))
    twice = [name for name, n in Counter(found.names).items() if n > 1]
    if twice:
        raise UsageError(f"{what}: two columns called {', '.join(twice[:3])}", "Rename one of them.")
    index = [name for name in (found.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    return {field.name: _kind(field.type) for field in found if field.name not in index}


def read(path: Path, what: str, names: list[str]) -> dict[str, pa.Array]:
    """These columns, each in one piece; dictionary-encoded ones as their values."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    def load() -> pa.Table:
        if path.suffix == ".parquet":
            return parquet.read_table(path, columns=names)
        # Types are guessed from the first block alone: make it the whole file.
        block = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))
        return csv.read_csv(path, read_options=block, convert_options=_csv_options(names))

    table = _arrow(what, load)
    found = {name: table[name].combine_chunks() for name in names}
    plain = {name: column.dictionary_decode() for name, column in found.items() if pa.types.is_dictionary(column.type)}
    return {**found, **plain}


def check_label(label: str, found: dict[str, str], path: Path) -> None:
    """UsageError unless `label` is one of the columns found, and of names or numbers."""
    if label not in found:
        raise UsageError(f"--label {label}: no such column in {path}", did_you_mean(label, found))
    if found[label] not in (NUMBER, TEXT):
        raise UsageError(f"--label {label}: a column of {found[label]}, not of classes", "Use names or whole numbers.")


def label_values(column: pa.Array, label: str, what: str) -> Labels:
    """The values of the label column; UsageError if some are missing."""
    if column.null_count:
        raise UsageError(f"{what}: {column.null_count} rows have no {label!r}", "Remove these rows.")
    return np.asarray(column.to_pylist())


def _schema(path: Path) -> pa.Schema:
    from pyarrow import csv, parquet

    if path.suffix == ".parquet":
        return parquet.read_schema(path)
    with csv.open_csv(path, convert_options=_csv_options(None)) as reader:
        return reader.schema


def _csv_options(names: list[str] | None) -> Any:
    from pyarrow import csv

    return csv.ConvertOptions(strings_can_be_null=True, include_columns=names)


def _arrow(what: str, load: Any) -> Any:
    import pyarrow as pa

    try:
        return load()
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{what}: cannot be read ({first_line(error)})", "Repair the file.") from error


def _kind(column: pa.DataType) -> str:
    from pyarrow import types

    if types.is_dictionary(column):
        # Levels are levels, even if they are numbers.
        return TEXT if _kind(column.value_type) in (NUMBER, TEXT) else str(column)
    if types.is_struct(column):
        inner = {field.name: _kind(field.type) for field in column}
        return BYTES_IN_STRUCT if inner.get("bytes") == BYTES else str(column)
    tests = {
        NUMBER: (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null),
        MOMENT: (types.is_date, types.is_time, types.is_timestamp, types.is_duration),
        TEXT: (types.is_string, types.is_large_string, types.is_string_view),
        BYTES: (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view),
    }
    return next((kind for kind, known in tests.items() if any(test(column) for test in known)), str(column))
