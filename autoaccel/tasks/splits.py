"""Labels become classes, and samples become training, validation and test sets; the same ones on every machine.

Must not know what the samples are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autoaccel.errors import UsageError

SHARES = (0.7, 0.15, 0.15)
"""Of training, validation and test, where the data come in one piece."""
Labels = npt.NDArray[np.generic]
"""Names or whole numbers, shape (n,)."""


def stratified(codes: npt.NDArray[np.int64], shares: Sequence[float] = SHARES) -> list[npt.NDArray[np.int64]]:
    """Indices of disjoint sets of these shares, each in ascending order, that have every class in the same share.

    Own code, because scikit-learn's refuses classes of a single sample. The first set gets those: no class is unseen
    in training.

    Raises:
        UsageError: a set would be empty.
    """
    order = np.random.default_rng(0).permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    _, firsts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    ranks = np.arange(len(codes)) - np.repeat(firsts, counts)
    places = (ranks + 0.5) / np.repeat(counts, counts)  # 0..1 within each class
    # A single sample of a class is in its middle, which may lie beyond a small first share.
    places[np.repeat(counts, counts) == 1] = 0.0
    sets = np.digitize(places, np.cumsum(shares)[:-1])
    found = [np.sort(order[sets == number]) for number in range(len(shares))]
    if not all(len(indices) for indices in found):
        raise UsageError(
            f"{len(codes)} samples are too few to keep some for validation and test",
            "Give at least seven of a class, or sets of your own.",
        )
    return found


def classes_of(labels: Labels, where: str) -> Labels:
    """The distinct labels, in order; UsageError if there is only one."""
    found = np.unique(labels)
    if len(found) < 2:
        raise UsageError(
            f"{where}: all {len(labels)} samples are of one class, {found[0]!s}",
            "Give at least two classes: any model would be right on all of them.",
        )
    return found


def coded(labels: Labels, classes: Labels, where: str) -> npt.NDArray[np.int64]:
    """The number of each label's class; UsageError for one that is none of them."""
    codes = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    strange = labels[classes[codes] != labels]
    if len(strange):
        few = ", ".join(str(name) for name in np.unique(strange)[:3])
        raise UsageError(
            f"{where}: {len(strange)} samples of classes that training has none of: {few}",
            "Give the same classes everywhere.",
        )
    return codes.astype(np.int64)
