"""Images and their labels: where they are in a folder, an .npz or a .parquet file, and which split they belong to.

Loads no torch and decodes no image: the tuner calls `check` too. Must not know models.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoaccel.errors import UsageError
from autoaccel.tasks.columns import BYTES, BYTES_IN_STRUCT, check_label, kinds, label_values
from autoaccel.tasks.columns import read as read_columns
from autoaccel.tasks.pixels import Items, from_array
from autoaccel.tasks.splits import Labels

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What sub-folders and arrays of a split may be called."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
_IMAGE_KEYS, _LABEL_KEYS = ("x", "images", "image", "data"), ("y", "labels", "label", "targets", "target")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "y", "fine_label")


@dataclass(frozen=True)
class Labelled:
    """Images of one split: paths, encoded images, or pixels (n, C, H, W); and their labels, shape (n,)."""

    items: Items
    labels: Labels

    def take(self, indices: npt.NDArray[np.int64]) -> Labelled:
        """Those images, in this order."""
        if isinstance(self.items, np.ndarray):
            return Labelled(self.items[indices], self.labels[indices])
        return Labelled([self.items[i] for i in indices], self.labels[indices])


def check(path: Path, label: str | None = None) -> None:
    """What can be said of the data without decoding an image.

    Args:
        path: a folder, an .npz or a .parquet file.
        label: column of the labels; only for .parquet.

    Raises:
        UsageError: missing, of another kind, or without images or labels.
    """
    if not path.exists():
        raise UsageError(f"--data {path.absolute()}: no such file or folder", "Check the path.")
    if path.suffix != ".parquet" and label is not None:
        raise UsageError(f"--label {label}: only for a .parquet file", "Leave it out.")
    if path.is_dir():
        for folders in _class_folders(path).values():
            _check_folders(path, folders)
    elif path.suffix == ".parquet":
        _image_columns(path, label)
    elif path.suffix == ".npz":
        with _opened(path) as archive:
            _keys(path, archive.files)
    else:
        raise UsageError(
            f"--data {path}: neither a folder nor an .npz or .parquet file",
            "Give a folder with one sub-folder of images per class, or one of these files.",
        )


def read(path: Path, label: str | None = None) -> dict[str, Labelled]:
    """The splits that the data has, 'train' always among them; image files are not decoded yet.

    Raises:
        UsageError: see `check`; or arrays that are no images.
    """
    check(path, label)
    if path.is_dir():
        return {split: _listed(folders) for split, folders in _class_folders(path).items()}
    return _from_parquet(path, label) if path.suffix == ".parquet" else _from_npz(path)


# --------------------------------------------------------------------------------------------------------------- folder


def _class_folders(path: Path) -> dict[str, list[Path]]:
    """The folders of classes of each split; all are 'train' where the splits have no folders of their own.

    Where they have, other folders beside them are left alone.
    """
    children = _children(path)
    named = [(SPLIT_NAMES[child.name.lower()], child) for child in children if child.name.lower() in SPLIT_NAMES]
    # A class may be called `test`; folders of splits hold folders.
    if len(named) < len(children) and not any(_children(child) for _, child in named):
        return {"train": children}
    splits = {split: _children(child) for split, child in named}
    if len(splits) < len(named):
        raise UsageError(f"--data {path}: several folders for one split", "Leave one each of train, val and test.")
    flat = [path] if not children else [child for _, child in named if not _children(child)]
    if flat:
        found = next(_images_in(flat[0]), None)
        what = "empty" if found is None else f"images such as {found.name}"
        raise UsageError(
            f"--data {flat[0]}: no folder of a class ({what})",
            "Put the images of each class into a sub-folder named after it.",
        )
    if "train" not in splits:
        raise UsageError(f"--data {path}: a folder for {', '.join(splits)}, but none for train", "Add one.")
    return splits


def _check_folders(path: Path, folders: list[Path]) -> None:
    empty = [folder for folder in folders if next(_images_in(folder), None) is None]
    if empty:
        names = ", ".join(str(folder.relative_to(path)) for folder in empty[:3])
        raise UsageError(
            f"--data {path}: {len(empty)} of {len(folders)} class folders without images: {names}",
            f"Remove them, or add images ({' '.join(SUFFIXES)}).",
        )
    if len(folders) < 2:
        raise UsageError(f"--data {path}: only one class, {folders[0].name}", "Give one sub-folder for each class.")


def _children(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def _images_in(folder: Path) -> Iterator[Path]:
    """Its images, at any depth."""
    for where, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield Path(where, name)


def _listed(folders: list[Path]) -> Labelled:
    paths = [sorted(_images_in(folder)) for folder in folders]
    names = np.repeat([folder.name for folder in folders], [len(found) for found in paths])
    return Labelled([path for found in paths for path in found], names)


# -------------------------------------------------------------------------------------------------------------- parquet


def _image_columns(path: Path, label: str | None) -> tuple[str, str]:
    """Names of the columns of encoded images and of labels."""
    schema = kinds(path, f"--data {path}")
    images = [name for name, kind in schema.items() if kind in (BYTES, BYTES_IN_STRUCT)]
    if len(images) != 1:
        raise UsageError(
            f"--data {path}: {len(images)} columns of encoded images; it has {_listing(schema)}",
            "Give a file with one column of image bytes, or of a struct with 'bytes'.",
        )
    others = [name for name in schema if name != images[0]]
    if label is not None:
        check_label(label, {name: schema[name] for name in others}, path)
        return images[0], label
    known = [name for name in others if name.lower() in _LABEL_COLUMNS] or others
    if len(known) != 1:
        raise UsageError(
            f"--data {path}: which column is the label? It has {_listing(schema)}", "Name it: --label COLUMN."
        )
    check_label(known[0], schema, path)
    return images[0], known[0]


def _listing(schema: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in list(schema.items())[:10]) or "no columns"


def _from_parquet(path: Path, label: str | None) -> dict[str, Labelled]:
    image, label = _image_columns(path, label)
    table = read_columns(path, f"--data {path}", [image, label])
    items = [value["bytes"] if isinstance(value, dict) else value for value in table[image].to_pylist()]
    missing = sum(not isinstance(item, bytes) for item in items)
    if missing:
        raise UsageError(f"--data {path}: {missing} rows have no {image!r}", "Remove these rows.")
    return {"train": Labelled(items, label_values(table[label], label, f"--data {path}"))}


# ------------------------------------------------------------------------------------------------------------------ npz


def _opened(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"--data {path}: cannot be read ({error})", "Write it with numpy.savez.") from error


def _keys(path: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    """Names of images and labels of each split: x and y, x_train and y_val, train_images and test_labels."""
    found: dict[str, dict[str, str]] = {}
    twice = False
    for name in names:
        words = re.split(r"[_\-. ]", name.lower())
        kind = next((k for k, known in (("x", _IMAGE_KEYS), ("y", _LABEL_KEYS)) if set(words) & set(known)), None)
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")
        if kind is not None:
            twice |= kind in found.setdefault(split, {})
            found[split][kind] = name
    if twice or "train" not in found or any(len(pair) < 2 for pair in found.values()):
        raise UsageError(
            f"--data {path}: which arrays are the images and the labels? It has {', '.join(names[:10]) or 'none'}",
            "Name images and labels x and y, or x_train, y_train, x_val, y_val, x_test, y_test.",
        )
    return {split: (pair["x"], pair["y"]) for split, pair in found.items()}


def _from_npz(path: Path) -> dict[str, Labelled]:
    found = {}
    with _opened(path) as archive:
        for split, (x, y) in _keys(path, archive.files).items():
            try:
                images, labels = archive[x], archive[y]
            except ValueError as error:
                raise UsageError(f"--data {path}: {x} or {y} cannot be read ({error})", "Save plain arrays.") from error
            if labels.ndim == 2 and labels.shape[1] == 1:
                labels = labels[:, 0]
            if labels.shape != images.shape[:1] or not len(labels):
                shapes = f"{x} of shape {images.shape} and {y} of shape {labels.shape}"
                raise UsageError(f"--data {path}: {shapes} do not fit", "Give one label for each image.")
            if labels.dtype.kind not in "iubSU":
                raise UsageError(f"--data {path}: {y} holds {labels.dtype}, not classes", "Use whole numbers or names.")
            found[split] = Labelled(from_array(images, f"--data {path}: {x}"), labels)
    return found
