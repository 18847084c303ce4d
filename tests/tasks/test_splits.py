"""Labels become classes, and samples disjoint sets in which every class has its share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoaccel.errors import UsageError
from autoaccel.tasks.splits import SHARES, classes_of, coded, stratified

CODES = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(lambda codes: np.array(codes, dtype=np.int64))


@given(CODES)
def test_sets_are_disjoint_whole_and_have_each_class_in_its_share(codes: np.ndarray) -> None:
    try:
        sets = stratified(codes)
    except UsageError:
        assert np.bincount(codes).max() < 7
        return
    assert sorted(np.concatenate(sets).tolist()) == list(range(len(codes)))
    assert set(codes[sets[0]]) == set(codes), "a class that training never sees"
    for code in set(codes.tolist()):
        n = int((codes == code).sum())
        for indices, share in zip(sets, SHARES, strict=True):
            assert abs((codes[indices] == code).sum() - share * n) <= 1


def test_the_same_labels_are_split_the_same_way_and_not_in_order() -> None:
    codes = np.repeat([0, 1], 50)
    first, again = stratified(codes, (0.5, 0.5)), stratified(codes, (0.5, 0.5))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[0] == np.r_[0:25, 50:75]).all(), "files are sorted: the first half of them is no sample"


def test_too_few_samples_are_said() -> None:
    with pytest.raises(UsageError, match="2 samples are too few"):
        stratified(np.array([0, 1]))


@pytest.mark.parametrize("labels", [["b", "a", "b"], [7, 3, 7], [True, False, True]])
def test_labels_of_any_type_become_numbers(labels: list[object]) -> None:
    given = np.array(labels)
    assert coded(given, classes_of(given, "x"), "x").tolist() == [1, 0, 1]


def test_labels_that_are_no_classes_are_named() -> None:
    classes = classes_of(np.array(["cat", "dog"]), "x")
    with pytest.raises(UsageError, match=r"x: 2 samples of classes that training has none of: ant, emu"):
        coded(np.array(["emu", "cat", "ant"]), classes, "x")
    with pytest.raises(UsageError, match="x: all 3 samples are of one class, 4"):
        classes_of(np.array([4, 4, 4]), "x")
