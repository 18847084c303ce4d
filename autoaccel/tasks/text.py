"""`--model char-transformer --text FILE`: a language model over the characters of a text.

Characters are the symbols while one byte can number them, else the bytes of the file. Loads no torch until a model is
built. Must not know how the text is trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from autoaccel.errors import UsageError
from autoaccel.tasks.base import ParallelPlan, Task
from autoaccel.tasks.starts import check_weights, from_weights

if TYPE_CHECKING:
    from torch import nn

    from autoaccel.tasks.nets import LanguageModel

Symbols = npt.NDArray[np.uint8]
SHARES = (0.9, 0.05, 0.05)
"""Of training, validation and test: pieces of the text, in this order."""
FEWEST = 60
"""Windows a text needs: three of them are then for validation, and three for test."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What `--model char-transformer` says."""

    model: Literal["char-transformer"] = "char-transformer"
    text: Path
    """A text file."""
    context: int = 128
    """Symbols in a window: how far back the model can look."""
    metric: Literal["loss", "perplexity", "accuracy"] = "loss"
    """Mean cross-entropy of the next symbol in nats, its exponential, or how often the likeliest one is right."""
    weights: Path | None = None
    """Start every training from the weights in this file, see `Task`."""

    def __post_init__(self) -> None:
        if self.context < 2:
            raise UsageError(f"--context {self.context}: below 2 symbols", "Use e.g. --context 128.")

    @property
    def name(self) -> str:
        """What the task is called."""
        return f"char-transformer-{self.text.stem}{from_weights(self.weights)}"

    def check(self) -> None:
        """What can be said without reading the text; UsageError if it is missing or too short."""
        if not self.text.is_file():
            raise UsageError(f"--text {self.text.absolute()}: no such file", "Check the path.")
        self._check_length(self.text.stat().st_size)
        check_weights(self.weights)

    def _check_length(self, n_symbols: int) -> None:
        n_windows = (n_symbols - 1) // self.context
        if n_windows < FEWEST:
            raise UsageError(
                f"--text {self.text}: {n_symbols} symbols are {max(0, n_windows)} windows of {self.context}; "
                f"{FEWEST} are needed to train and to judge",
                "Give a longer text, or a shorter --context.",
            )

    def task(self) -> Task:
        """The task: uint8 windows (n, context) and, as targets, the same windows one symbol further on."""
        self.check()
        symbols, n_symbols = encoded(self.text.read_bytes())
        self._check_length(len(symbols))
        n = (len(symbols) - 1) // self.context
        inputs = symbols[: n * self.context].reshape(n, self.context)
        targets = symbols[1 : n * self.context + 1].reshape(n, self.context)
        ends = [round(n * share) for share in np.cumsum(SHARES)]
        train, validation, test = (
            (inputs[begin:end], targets[begin:end]) for begin, end in zip([0, *ends[:-1]], ends, strict=True)
        )
        return Task(
            name=self.name,
            model=partial(language_model, n_symbols, self.context),
            train=train,
            validation=validation,
            test=test,
            metric=self.metric,
            weights=self.weights,
            plan=ParallelPlan(tensor=_MATRICES, stages=_stages),
        )


def encoded(data: bytes) -> tuple[Symbols, int]:
    """A text as numbers from 0, and how many there are: its characters, or its bytes if those are too many for a byte
    or it is not UTF-8.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return np.frombuffer(data, dtype=np.uint8).copy(), 256
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    known = np.unique(points)
    if not 1 < len(known) <= 256:
        return np.frombuffer(data, dtype=np.uint8).copy(), 256
    table = np.zeros(int(known[-1]) + 1, dtype=np.uint8)
    table[known] = np.arange(len(known))
    return table[points], len(known)


_MATRICES: dict[str, Literal["columns", "rows"]] = {"blocks.*.hidden": "columns", "blocks.*.out": "rows"}
"""How tensor parallelism cuts the model; attention stays whole, its q, k and v are one matrix."""


def _stages(model: LanguageModel) -> list[nn.Module]:
    from autoaccel.tasks.nets import stages_of

    return stages_of(model)


def language_model(n_symbols: int, context: int) -> nn.Module:
    """A fresh `nets.LanguageModel`: 2 blocks of width 64 with 4 heads."""
    from autoaccel.tasks.nets import LanguageModel

    return LanguageModel(n_symbols, context)
