"""The built-in task: real data, a fixed split with every class in every part."""

from __future__ import annotations

import numpy as np

from autoaccel.tasks.digits import digits, small_cnn


def test_the_split_is_fixed_and_covers_the_data_once() -> None:
    from sklearn.datasets import load_digits

    first, second = digits(), digits()
    parts = [first.train, first.validation, first.test]
    for mine, again in zip(parts, [second.train, second.validation, second.test], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine, again, strict=True))
    assert [len(labels) for _, labels in parts] == [1077, 360, 360]
    assert all(len(set(labels.tolist())) == 10 for _, labels in parts)
    images = np.concatenate([inputs for inputs, _ in parts]).reshape(-1, 64)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() == 1
    rows = sorted(map(tuple, (images * 16).astype(int).tolist()))
    assert rows == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_the_net_is_fresh_each_time() -> None:
    assert sum(p.numel() for p in small_cnn().parameters()) == 21_386
    assert small_cnn() is not small_cnn()
