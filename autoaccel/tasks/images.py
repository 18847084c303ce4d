"""`--model timm:NAME --data PATH`: any classification model of timm, fitted to images and their classes.

timm and torch are loaded when the task is made. Must not know file formats or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autoaccel.errors import UsageError, first_line
from autoaccel.tasks.base import Task
from autoaccel.tasks.image_files import Labelled, check, read
from autoaccel.tasks.pixels import Pixels, Size, decoded, usual_shape
from autoaccel.tasks.splits import SHARES, classes_of, coded, stratified
from autoaccel.tasks.starts import check_weights, from_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

TIMM = "timm:"
_REACH_S = 5.0
"""How long the host of the weights may take to answer; the hub's own client retries for most of a minute."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """What `--model timm:NAME` says."""

    model: str
    """`timm:` and timm's name of a model."""
    data: Path
    """A folder, an .npz or a .parquet file; see `image_files`."""
    label: str | None = None
    """Label column of a .parquet file; None finds it."""
    image_size: int | None = None
    """Side of the square images are resized to; None: the commonest size of the training images, 224 at most."""
    metric: Literal["accuracy", "f1", "auc", "loss"] = "accuracy"
    pretrained: bool = False
    """Start every training from timm's weights; only the last layer begins anew."""
    weights: Path | None = None
    """Start every training from the weights in this file, see `Task`."""

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise UsageError(f"--image-size {self.image_size}: below 1", "Use e.g. --image-size 32.")
        if self.pretrained and self.weights is not None:
            raise UsageError("both --pretrained and --weights", "Give one of them: each is where trainings start.")

    @property
    def name(self) -> str:
        """What the task is called."""
        data = self.data.resolve().name.removesuffix(".npz").removesuffix(".parquet")
        # Trainings from other starting weights are another task: the library must not mix them.
        return f"{self.net}-{data}{'-pretrained' if self.pretrained else from_weights(self.weights)}"

    @property
    def net(self) -> str:
        """timm's name of the model."""
        return self.model.removeprefix(TIMM)

    def check(self) -> None:
        """What can be said without decoding an image or loading timm; UsageError with what is wrong."""
        check(self.data, self.label)
        check_weights(self.weights)

    def task(self) -> Task:
        """The task: uint8 pixels (n, C, H, W) and their classes."""
        check_name(self.net)
        where = f"--data {self.data}"
        given = read(self.data, self.label)
        classes = classes_of(given["train"].labels, where)
        splits = completed(given)
        codes = {split: coded(found.labels, classes, f"{where}: {split}") for split, found in splits.items()}
        n_channels, size = usual_shape(splits["train"].items)
        size = size if self.image_size is None else (self.image_size, self.image_size)
        pixels = decoded({split: found.items for split, found in splits.items()}, n_channels, size)
        fitted = Fitted(self.net, len(classes), n_channels, size)
        build = partial(image_model, fitted, *normalisation(pixels["train"]))
        if self.pretrained:
            build = partial(image_model, *_pretrained(fitted))
        _try(build, fitted)
        sets = {split: (pixels[split], codes[split]) for split in splits}
        return Task(
            name=self.name,
            model=build,
            train=sets["train"],
            validation=sets["validation"],
            test=sets.get("test"),
            metric=self.metric,
            weights=self.weights,
        )


@dataclass(frozen=True)
class Fitted:
    """A model of timm for these data."""

    name: str
    n_classes: int
    n_channels: int
    size: Size


def completed(splits: dict[str, Labelled]) -> dict[str, Labelled]:
    """The splits, with a validation set taken from training where there is none, and a test set where there is
    neither; classes keep their shares.
    """
    if "validation" in splits:
        return splits
    train = splits["train"]
    codes = np.unique(train.labels, return_inverse=True)[1]
    shares = SHARES if "test" not in splits else (1 - SHARES[1], SHARES[1])
    names = ("train", "validation", "test")[: len(shares)]
    return splits | {name: train.take(chosen) for name, chosen in zip(names, stratified(codes, shares), strict=True)}


def normalisation(pixels: Pixels) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in pixels; at least 1 for a channel that hardly varies."""
    counts = np.zeros((pixels.shape[1], 256))
    for at in range(0, len(pixels), 1024):
        part = pixels[at : at + 1024]
        counts += [np.bincount(part[:, c].ravel(), minlength=256) for c in range(pixels.shape[1])]
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ np.arange(256)
    deviation = np.sqrt(np.maximum(shares @ np.arange(256) ** 2 - mean**2, 1.0))
    return mean.tolist(), deviation.tolist()


# ---------------------------------------------------------------------------------------------------------------- model


def check_name(name: str) -> None:
    """Whether timm has a model of this name; UsageError with those that are like it."""
    import timm

    if timm.is_model(name) and ("." not in name or timm.is_model_pretrained(name)):  # resnet18.a1_in1k: with its tag
        return
    close = get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=3)
    hint = f"Did you mean {' or '.join(f'timm:{found}' for found in close)}? " if close else ""
    raise UsageError(f"--model timm:{name}: timm has no such model", f"{hint}timm.list_models() names them all.")


def image_model(
    fitted: Fitted, mean: list[float], std: list[float], start: dict[str, torch.Tensor] | None = None
) -> nn.Module:
    """A fresh model that takes uint8 pixels: `nets.Pixels` around timm's; with `start`, weights to begin with."""
    from autoaccel.tasks.nets import Pixels

    net = _new(fitted)
    if start is not None:
        net.load_state_dict(start, strict=False)
    return Pixels(net, mean, std)


def _new(fitted: Fitted, **more: Any) -> nn.Module:
    """timm's model for this many classes, channels and, if it takes one, this image size."""
    import timm

    wanted = {"num_classes": fitted.n_classes, "in_chans": fitted.n_channels, **more}
    try:
        return timm.create_model(fitted.name, img_size=fitted.size, **wanted)
    except TypeError:  # networks of convolutions take images of any size, and no such argument
        return timm.create_model(fitted.name, **wanted)


def _try(build: Any, fitted: Fitted) -> None:
    """Build the model and look at one image; UsageError if it cannot be, or gives no class scores."""
    import torch

    shape = (1, fitted.n_channels, *fitted.size)
    try:
        model = build()
        with torch.no_grad():
            scores = model.eval()(torch.zeros(shape, dtype=torch.uint8))
    except UsageError:
        raise
    except Exception as error:  # whatever a model raises for a size or number of channels it was not made for
        side = 32 * -(-max(fitted.size) // 32)
        wanted = " x ".join(map(str, shape[1:]))
        raise UsageError(
            f"--model timm:{fitted.name} does not fit images of {wanted}: {first_line(error)}",
            f"Try another size, e.g. --image-size {side if side != max(fitted.size) else 2 * side}, or another model.",
        ) from error
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != (1, fitted.n_classes):
        raise UsageError(f"--model timm:{fitted.name}: gives no scores of classes", "Use a classification model.")


# ----------------------------------------------------------------------------------------------------- starting weights


def _pretrained(fitted: Fitted) -> tuple[Fitted, list[float], list[float], dict[str, torch.Tensor]]:
    """What `image_model` takes to start from timm's weights: they are read once, for all trainings."""
    import timm
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(fitted.name)
    if known is None or not timm.is_model_pretrained(fitted.name):
        tags = ", ".join(timm.list_pretrained(f"{fitted.name.partition('.')[0]}.*")[:5])
        hint = f"With weights: {tags}." if tags else "Leave --pretrained out, or use another model."
        raise UsageError(f"--pretrained: timm has no weights for {fitted.name}", hint)
    file = _cached_file(known)
    try:
        if file is None:
            _check_reachable(None if known.hf_hub_id else str(known.url))
        net = _new(fitted, pretrained=True, pretrained_cfg_overlay={"file": file} if file else None)
    except UsageError:
        raise
    except Exception as error:  # whatever the hub's client, torch or a file of weights raises
        raise UsageError(
            f"--pretrained: the weights of {fitted.name} cannot be had: {first_line(error)}", _OTHERWISE
        ) from error
    heads = known.classifier if isinstance(known.classifier, list | tuple) else (known.classifier,)
    start = {
        name: value.clone()
        for name, value in net.state_dict().items()
        if not any(head and name.startswith(f"{head}.") for head in heads)
    }
    mean, std = _channels(known.mean, fitted.n_channels), _channels(known.std, fitted.n_channels)
    return fitted, mean, std, start


_OTHERWISE = (
    "Leave --pretrained out; or fetch them where there is a network, by timm.create_model(NAME, pretrained=True), and "
    "copy ~/.cache/huggingface here; or name a mirror in HF_ENDPOINT."
)


def _channels(values: tuple[float, ...], n_channels: int) -> list[float]:
    """timm's constants in pixels; their mean where the images have another number of channels."""
    fitting = values if len(values) == n_channels else [sum(values) / len(values)] * n_channels
    return [255 * value for value in fitting]


def _cached_file(known: Any) -> str | None:
    """The file of a model's weights, if an earlier download left it here."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    if not known.hf_hub_id:  # a few are plain downloads, which torch keeps
        path = Path(torch.hub.get_dir(), "checkpoints", known.url.rpartition("/")[2])
        return str(path) if path.is_file() else None
    names = [known.hf_hub_filename] if known.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (try_to_load_from_cache(known.hf_hub_id, name) for name in names)
    return next((path for path in found if isinstance(path, str)), None)


def _check_reachable(url: str | None) -> None:
    """UsageError at once where the client would try for most of a minute; a `url` of None is the hub."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    if url is None and constants.HF_HUB_OFFLINE:
        raise UsageError("--pretrained: the weights are not here, and HF_HUB_OFFLINE forbids fetching them", _OTHERWISE)
    try:
        urlopen(Request(url or constants.ENDPOINT, method="HEAD"), timeout=_REACH_S).close()
    except HTTPError:  # an answer, if not the one a browser gets
        return
    except OSError as error:
        raise UsageError(
            f"--pretrained: the weights are not here, and {url or constants.ENDPOINT} cannot be reached ({error})",
            _OTHERWISE,
        ) from error
