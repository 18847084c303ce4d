"""Images of every form become compact pixels, and models of timm are fitted to them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits
from torch import nn

from autoaccel.errors import UsageError
from autoaccel.tasks.base import Task
from autoaccel.tasks.images import Fitted, Images, image_model, normalisation
from autoaccel.tasks.pixels import LARGEST, decoded, from_array, usual_shape
from autoaccel.trainer.preflight import preflight

Array = npt.NDArray[Any]
N_OF_A_CLASS = 20


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    """Sixty real images of the digits 0, 1 and 2, 8 x 8, uint8; and their labels."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(labels == digit)[:N_OF_A_CLASS] for digit in (0, 1, 2)])
    return (images[chosen].reshape(-1, 8, 8) * 15.9).astype(np.uint8), labels[chosen]


def write_folder(path: Path, images: Array, labels: Array, suffix: str = ".png") -> Path:
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = path / f"digit{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index:03}{suffix}")
    return path


@pytest.fixture
def folder(tmp_path: Path, digits: tuple[Array, Array]) -> Path:
    return write_folder(tmp_path / "digits", *digits)


def task_of(data: Path, **more: Any) -> Task:
    return Images(model="timm:test_resnet", data=data, **more).task()


def encoded(image: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def pixels_and_labels(task: Task) -> dict[bytes, int]:
    """The label of every image, all splits together."""
    splits = [split for split in (task.train, task.validation, task.test) if split is not None]
    return {x.tobytes(): int(y) for xs, ys in splits for x, y in zip(xs, ys, strict=True)}


# --------------------------------------------------------------------------------------------------------- the formats


def as_folder(path: Path, images: Array, labels: Array) -> Path:
    return write_folder(path / "data", images, labels)


def as_npz(path: Path, images: Array, labels: Array) -> Path:
    np.savez(path / "data.npz", x=images, y=labels)
    return path / "data.npz"


def as_npz_of_fractions(path: Path, images: Array, labels: Array) -> Path:
    np.savez(path / "data.npz", images=images[..., None] / 255, labels=[[f"digit{label}"] for label in labels])
    return path / "data.npz"


def as_parquet(path: Path, images: Array, labels: Array) -> Path:
    table = pa.table({"id": np.arange(len(labels)), "image": [encoded(image) for image in images], "label": labels})
    parquet.write_table(table, path / "data.parquet")
    return path / "data.parquet"


def as_parquet_of_structs(path: Path, images: Array, labels: Array) -> Path:
    """The form in which Hugging Face datasets keep images."""
    structs = [{"bytes": encoded(image), "path": None} for image in images]
    parquet.write_table(
        pa.table({"img": structs, "kind": [f"digit{label}" for label in labels]}), path / "data.parquet"
    )
    return path / "data.parquet"


FORMATS = [as_folder, as_npz, as_npz_of_fractions, as_parquet, as_parquet_of_structs]


@pytest.mark.parametrize("write", FORMATS, ids=lambda f: f.__name__)
def test_every_form_gives_the_same_pixels_and_classes(
    tmp_path: Path, digits: tuple[Array, Array], write: Callable[[Path, Array, Array], Path]
) -> None:
    images, labels = digits
    task = task_of(write(tmp_path, images, labels))
    x, y = task.train
    assert (x.dtype, x.shape, y.dtype) == (np.uint8, (42, 1, 8, 8), np.int64)
    assert [len(task.validation[0]), len(task.test[0])] == [9, 9]
    assert pixels_and_labels(task) == {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    for _, codes in (task.train, task.validation, task.test):
        assert len(set(np.bincount(codes))) == 1, "every class has the same share"
    assert task.name == "test_resnet-data"


@pytest.mark.parametrize(
    ("validation", "test"), [("val", "test"), ("valid", None), (None, "Test"), ("validation", "test")]
)
def test_folders_of_splits_are_used_as_they_are(
    tmp_path: Path, digits: tuple[Array, Array], validation: str | None, test: str | None
) -> None:
    images, labels = digits
    for name, part in (("train", slice(0, None, 3)), (validation, slice(1, None, 3)), (test, slice(2, None, 3))):
        if name:
            write_folder(tmp_path / name, images[part], labels[part])
    (tmp_path / ".cache").mkdir()
    task = task_of(tmp_path)
    given = {name: {image.tobytes() for image in images[at::3]} for at, name in enumerate(("train", "val", "test"))}
    splits = {"train": task.train, "val": task.validation, "test": task.test}
    found = {name: {x.tobytes() for x in split[0]} for name, split in splits.items() if split is not None}
    if validation is None:
        assert found["val"] and not found["train"] & found["val"] and found["train"] | found["val"] == given["train"]
    else:
        assert (found["train"], found["val"]) == (given["train"], given["val"])
    assert found.get("test") == (given["test"] if test else None)


def test_arrays_of_splits_are_used_as_they_are(tmp_path: Path, digits: tuple[Array, Array]) -> None:
    images, labels = digits
    parts = {"train": slice(0, 40), "val": slice(20, 50), "test": slice(30, 60)}
    arrays = {
        f"{kind}_{name}": source[part]
        for name, part in parts.items()
        for kind, source in (("x", images), ("y", labels))
    }
    np.savez(tmp_path / "d.npz", **(arrays | {"y_val": labels[:30], "y_test": labels[:30], "y_train": labels[10:50]}))
    task = task_of(tmp_path / "d.npz")
    assert [len(split[0]) for split in (task.train, task.validation, task.test)] == [40, 30, 30]
    assert (task.validation[0][:, 0] == images[20:50]).all() and (task.test[0][:, 0] == images[30:60]).all()


def test_a_class_may_be_called_test(tmp_path: Path, digits: tuple[Array, Array]) -> None:
    images, _ = digits
    write_folder(tmp_path, images, np.repeat([0, 1, 2], 20))
    (tmp_path / "digit0").rename(tmp_path / "test")
    assert set(task_of(tmp_path).train[1]) == {0, 1, 2}


# -------------------------------------------------------------------------------------------------------------- pixels


COLOURS = np.stack([np.full((6, 9), value, np.uint8) for value in (250, 130, 10)], axis=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "1", "LA", "I;16"])
def test_images_of_every_mode_are_decoded(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 9), 200 * 256 + 7, np.uint16))
    else:
        image = Image.fromarray(COLOURS)
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(path)
    n_channels, size = usual_shape([path])
    found = decoded({"train": [path]}, n_channels, size)["train"]
    assert found.shape == (1, 3 if mode in ("RGB", "RGBA", "P", "CMYK") else 1, 6, 9)
    if n_channels == 3:
        assert np.allclose(found[0].transpose(1, 2, 0), COLOURS, atol=2)
    elif mode != "1":
        assert abs(int(found[0, 0, 0, 0]) - (200 if mode == "I;16" else 152)) <= 1


def test_the_commonest_size_is_used_and_others_are_cut_to_it(tmp_path: Path) -> None:
    left, right = np.zeros((8, 4), np.uint8), np.full((8, 4), 200, np.uint8)
    halves = np.concatenate([left, right], axis=1)
    wide = np.concatenate([np.full((8, 20), 99, np.uint8), halves, np.full((8, 20), 99, np.uint8)], axis=1)
    large = halves.repeat(4, 0).repeat(4, 1)
    for name, image in (("a", halves), ("b", halves), ("wide", wide), ("large", large)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    items = [tmp_path / f"{name}.png" for name in ("a", "b", "wide", "large")]
    n_channels, size = usual_shape(items)
    assert (n_channels, size) == (1, (8, 8))
    found = decoded({"train": items}, n_channels, size)["train"]
    assert (found[0] == halves).all() and (found[2] == halves).all()
    assert np.abs(found[3].astype(int) - halves).max() <= 20 and found[3, 0, 4, 0] == 0


@pytest.mark.parametrize(
    ("shape", "size"), [((300, 500), (224, 224)), ((100, 300), (100, 100)), ((224, 200), (224, 200))]
)
def test_large_images_are_made_square_and_no_larger_than_models_expect(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    assert usual_shape(np.zeros((2, 3, *shape), np.uint8)) == (3, size)
    assert max(size) <= LARGEST


def test_arrays_are_resized_like_files(tmp_path: Path) -> None:
    image = np.add.outer(np.arange(40) * 2, np.arange(60) * 3).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    (file,) = decoded({"train": [tmp_path / "a.png"]}, 1, (16, 16))["train"]
    (array,) = decoded({"train": image[None, None]}, 1, (16, 16))["train"]
    assert file.shape == array.shape == (1, 16, 16)
    assert np.abs(file.astype(int) - array).max() <= 3


def test_a_photo_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = np.linspace(0, 255, 16 * 16).astype(np.uint8).reshape(16, 16)
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    (found,) = decoded({"train": [tmp_path / "a.png"]}, 1, (16, 16))["train"]
    assert (found[0] == image[::-1, ::-1]).all()


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3), (5, 3, 6, 7), (5, 6, 7, 1), (5, 2, 6, 7)])
def test_arrays_of_every_layout_have_channels_first(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = from_array(images, "x")
    assert found.shape[2:] == (6, 7) and found.dtype == np.uint8
    assert sorted(found[2].ravel().tolist()) == sorted(images[2].ravel().tolist())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 64)), "shape (5, 64) is no images"),
        (np.zeros((5, 8, 8, 9), np.uint8), "shape (5, 8, 8, 9) is no images"),
        (np.full((5, 8, 8), -0.5), "values from -0.5 to -0.5"),
        (np.full((5, 8, 8), 3.25), "values from 3.25 to 3.25"),
        (np.full((5, 8, 8), 1000), "values from 1000 to 1000"),
        (np.full((5, 8, 8), np.nan), "values from nan"),
        (np.full((5, 8, 8), "a"), "holds <U1, not pixels"),
    ],
)
def test_arrays_that_are_no_images_are_refused(images: Array, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_array(images, "--data d.npz: x")
    assert message in caught.value.message and caught.value.hint


def test_more_images_than_memory_are_refused_before_any_is_decoded() -> None:
    with pytest.raises(UsageError, match=r"take .* GiB, .* are free"):
        decoded({"train": [b""] * 1000}, 3, (100_000, 100_000))


def test_the_model_normalises_by_the_training_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)
    pixels[:, 2] = 7
    mean, std = normalisation(pixels)
    assert np.allclose(mean, pixels.mean((0, 2, 3))) and np.allclose(std[:2], pixels.std((0, 2, 3))[:2])
    assert std[2] == 1, "a channel without variation is not blown up"
    model = image_model(Fitted("test_resnet", 3, 3, (4, 5)), mean, std)
    model.net = nn.Identity()
    normal = model(torch.as_tensor(pixels))
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.std((0, 2, 3))[:2], torch.ones(2), atol=1e-2)
    assert torch.equal(model(torch.as_tensor(pixels).float()), normal), "augmented pixels are floats"


# -------------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_models_of_every_family_are_fitted_and_learn(name: str, n_channels: int) -> None:
    torch.manual_seed(0)
    model = image_model(Fitted(name, 7, n_channels, (32, 32)), [127.0] * n_channels, [64.0] * n_channels)
    x = torch.randint(0, 256, (4, n_channels, 32, 32), dtype=torch.uint8)
    scores = model(x)
    assert scores.shape == (4, 7)
    scores.logsumexp(1).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert bool(gradients[0].any()) and bool(gradients[-1].any()), "from the pixels to the scores"


def test_two_models_of_a_task_begin_differently(folder: Path) -> None:
    task = task_of(folder)
    first, second = (next(p for p in task.model().parameters() if p.ndim == 4) for _ in range(2))
    assert not torch.equal(first, second)


def test_a_task_is_ready_to_train(folder: Path) -> None:
    loaded, facts = preflight(task_of(folder, image_size=32, metric="f1"))
    assert loaded.train.tensors[0].dtype == torch.uint8 and loaded.train.tensors[0].shape == (42, 1, 32, 32)
    assert (facts["n_train"], facts["metric"]) == (42, "f1") and loaded.train.labels is not None
    assert facts["flops_per_sample"] > 0


@pytest.mark.parametrize(
    ("model", "size", "message", "hint"),
    [
        ("resnet19", None, "timm has no such model", "Did you mean timm:resnet18"),
        ("resnet18.a9_in1k", None, "timm has no such model", "timm:resnet18.a"),
        ("zzzzzz", None, "timm has no such model", "timm.list_models() names them all"),
        ("test_vit", 20, "does not fit images of 1 x 20 x 20", "--image-size 32"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(
    folder: Path, model: str, size: int | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Images(model=f"timm:{model}", data=folder, image_size=size).task()
    assert message in caught.value.message and hint in caught.value.hint


# --------------------------------------------------------------------------------------------------- starting weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and a host that refuses connections."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def test_starting_weights_that_are_not_here_and_cannot_be_fetched_end_at_once(hub: Path, folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        task_of(folder, pretrained=True)
    assert "127.0.0.1:9 cannot be reached" in caught.value.message
    assert "Leave --pretrained out" in caught.value.hint


def test_a_model_without_weights_is_refused(hub: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="timm has no weights for resnetblur18"):
        Images(model="timm:resnetblur18", data=folder, pretrained=True).task()


def test_offline_is_respected(hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE forbids fetching them"):
        task_of(folder, pretrained=True)


def test_trainings_start_from_the_weights_of_timm_but_for_the_head(hub: Path, folder: Path) -> None:
    import timm
    from safetensors.torch import save_file
    from timm.models import get_pretrained_cfg

    source = timm.create_model("test_resnet")
    where = hub / f"models--{get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--')}"
    (where / "snapshots" / "abc").mkdir(parents=True)
    (where / "refs").mkdir()
    (where / "refs" / "main").write_text("abc")
    save_file(source.state_dict(), where / "snapshots" / "abc" / "model.safetensors")
    task = task_of(folder, pretrained=True)
    models = [task.model() for _ in range(2)]
    stem = next(iter(source.parameters()))
    for model in models:
        first = next(iter(model.net.parameters()))
        assert first.shape[1] == 1 and torch.allclose(first, stem.sum(1, keepdim=True), atol=1e-5), "grey: summed"
    heads = [model.net.get_classifier().weight for model in models]
    assert heads[0].shape[0] == 3 and not torch.equal(*heads)
    assert float(models[0].mean.ravel()[0]) == pytest.approx(255 * 0.5, abs=20)
    assert task.name.endswith("-pretrained")


# ------------------------------------------------------------------------------------------------------------ mistakes


def flat(path: Path) -> None:
    Image.fromarray(COLOURS).save(path / "a.png")


def one_class(path: Path) -> None:
    write_folder(path, np.zeros((3, 8, 8), np.uint8), np.zeros(3, int))


def an_empty_class(path: Path) -> None:
    write_folder(path, np.zeros((3, 8, 8), np.uint8), np.arange(3))
    (path / "notes").mkdir()
    (path / "notes" / "readme.txt").write_text("")


def a_flat_test_set(path: Path) -> None:
    write_folder(path / "train", np.zeros((30, 8, 8), np.uint8), np.arange(30) % 2)
    (path / "test").mkdir()
    flat(path / "test")


def no_training_set(path: Path) -> None:
    write_folder(path / "val", np.zeros((30, 8, 8), np.uint8), np.arange(30) % 2)


def two_validation_sets(path: Path) -> None:
    for name in ("train", "val", "valid"):
        write_folder(path / name, np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2)


def few(path: Path) -> None:
    write_folder(path, np.zeros((2, 8, 8), np.uint8), np.arange(2))


def a_class_of_its_own(path: Path) -> None:
    write_folder(path / "train", np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2)
    write_folder(path / "val", np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2 + 1)


def broken_files(path: Path) -> None:
    write_folder(path, np.zeros((30, 8, 8), np.uint8), np.arange(30) % 2)
    for index in range(0, 8, 2):
        file = path / "digit0" / f"{index:03}.png"
        file.write_bytes(file.read_bytes()[:40] if index else b"no image")


FOLDERS: dict[Callable[[Path], None], tuple[str, bool]] = {
    (lambda path: None): ("no folder of a class (empty)", True),
    flat: ("no folder of a class (images such as a.png)", True),
    one_class: ("only one class, digit0", True),
    an_empty_class: ("1 of 4 class folders without images: notes", True),
    a_flat_test_set: ("test: no folder of a class (images such as a.png)", True),
    no_training_set: ("a folder for validation, but none for train", True),
    two_validation_sets: ("several folders for one split", True),
    few: ("2 samples are too few", False),
    a_class_of_its_own: ("validation: 2 samples of classes that training has none of: digit2", False),
    broken_files: ("4 images cannot be read: ", False),
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    message, early = FOLDERS[make]
    make(tmp_path)
    images = Images(model="timm:test_resnet", data=tmp_path)
    with pytest.raises(UsageError) as caught:
        images.check() if early else images.task()
    assert message in caught.value.message and caught.value.hint
    if make is broken_files:
        assert caught.value.message.count("digit0") == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros(3)}, "which arrays are the images and the labels? It has pictures"),
        ({"x": np.zeros((3, 8, 8))}, "which arrays are the images and the labels? It has x"),
        ({"x_val": np.zeros((3, 8, 8)), "y_val": np.zeros(3)}, "which arrays are"),
        ({"x": np.zeros((3, 8, 8)), "images": np.zeros((3, 8, 8)), "y": np.arange(3)}, "which arrays are"),
        ({"x": np.zeros((3, 8, 8)), "y": np.arange(4)}, "x of shape (3, 8, 8) and y of shape (4,) do not fit"),
        ({"x": np.zeros((3, 8, 8)), "y": np.arange(3) / 2}, "y holds float64, not classes"),
        ({"x": np.zeros((3, 8, 8)), "y": np.zeros(3, int)}, "all 3 samples are of one class, 0"),
        ({"x": np.zeros((3, 8, 8)), "y": np.array(["a", None, "b"], dtype=object)}, "cannot be read"),
    ],
)
def test_an_archive_that_cannot_be_used_is_refused(tmp_path: Path, arrays: dict[str, Array], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UsageError) as caught:
        task_of(tmp_path / "d.npz")
    assert message in caught.value.message and caught.value.hint


PNG = encoded(COLOURS)


@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        ({"a": [1], "b": [2]}, None, "0 columns of encoded images; it has a (number), b (number)"),
        ({"image": [PNG], "mask": [PNG], "label": [1]}, None, "2 columns of encoded images"),
        ({"image": [PNG], "a": [1], "b": [2]}, None, "which column is the label? It has image (bytes), a (number)"),
        ({"image": [PNG], "label": [1], "class": [2]}, None, "which column is the label?"),
        ({"image": [PNG], "label": [1]}, "lable", "--label lable: no such column"),
        ({"image": [PNG], "label": [[1]]}, None, "--label label: a column of list"),
        ({"image": [PNG, None], "label": [1, 2]}, None, "1 rows have no 'image'"),
        ({"image": [PNG, PNG], "label": [1, None]}, None, "1 rows have no 'label'"),
        ({"image": [PNG, b"x"] * 10, "label": [1, 2] * 10}, "label", "10 images cannot be read: row "),
    ],
)
def test_a_parquet_file_that_cannot_be_used_is_refused(
    tmp_path: Path, columns: dict[str, list[Any]], label: str | None, message: str
) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(UsageError) as caught:
        task_of(tmp_path / "d.parquet", label=label)
    assert message in caught.value.message and caught.value.hint


def test_other_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.zip").write_bytes(b"")
    (tmp_path / "d.npz").write_bytes(b"no archive")
    one_class(tmp_path / "folder")
    for more, message in (
        ({"data": tmp_path / "absent"}, "no such file or folder"),
        ({"data": tmp_path / "d.zip"}, "neither a folder nor an .npz or .parquet file"),
        ({"data": tmp_path / "d.npz"}, "d.npz: cannot be read"),
        ({"data": tmp_path / "folder", "label": "x"}, "--label x: only for a .parquet file"),
        ({"data": tmp_path, "image_size": 0}, "--image-size 0: below 1"),
    ):
        with pytest.raises(UsageError) as caught:
            Images(model="timm:test_resnet", **more).check()  # type: ignore[arg-type]
        assert message in caught.value.message and caught.value.hint
