"""The part of a tensor in a file: the same bytes as indexing the whole tensor gives, and no others are read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rekernel.torch.files.local_part import Part  # noqa: E402

RNG = np.random.default_rng(0)
CASES = {
    "whole": ((4, 3), [[(0, 4)], [(0, 3)]]),
    "a number": ((), []),
    "rows": ((5, 3), [[(3, 5)], [(0, 3)]]),
    "no row": ((1, 3), [[], [(0, 3)]]),
    "columns": ((5, 7, 2), [[(0, 5)], [(2, 6)], [(0, 2)]]),
    "rows and columns": ((5, 7, 2), [[(1, 3)], [(2, 6)], [(0, 2)]]),
    "several runs": ((6, 8, 3), [[(0, 1), (3, 5)], [(1, 2), (4, 8)], [(0, 2)]]),
    "long rows": ((3, 3000), [[(0, 3)], [(1500, 3000)]]),
    "many short pieces": ((3000, 8), [[(0, 1000), (1500, 3000)], [(0, 3), (5, 6)]]),
    "more than a block": ((3, 90000, 9), [[(1, 3)], [(0, 90000)], [(0, 5)]]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_bytes_are_those_of_the_indexed_tensor(case: str, dtype: type) -> None:
    shape, runs = CASES[case]
    whole = RNG.integers(-100, 100, shape).astype(dtype)
    data, read = whole.tobytes(), []

    def read_range(start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(data)
        read.append((start, stop))
        return data[start:stop]

    part = Part(shape, tuple(map(tuple, runs)))
    indices = [list(itertools.chain(*(range(*run) for run in own))) for own in runs]
    expected = whole[np.ix_(*indices)] if shape else whole
    found = part.read(read_range, whole.itemsize)
    assert part.local_shape == expected.shape
    assert bytes(found) == expected.tobytes()
    assert torch.equal(part.of(torch.from_numpy(whole)), torch.from_numpy(expected))
    amount = sum(stop - start for start, stop in read)
    if case in ("many short pieces", "more than a block"):
        assert len(read) < 100  # not one for each of thousands of pieces
        rows = len(indices[0])
        assert amount == rows * len(data) // shape[0]
        assert max(stop - start for start, stop in read) <= 1 << 23
    else:
        assert amount == len(found)


def test_rows_are_one_read() -> None:
    read = []
    Part((100, 3, 3), (((50, 100),), ((0, 3),), ((0, 3),))).read(lambda *r: read.append(r) or bytes(r[1] - r[0]), 4)
    assert read == [(50 * 36, 100 * 36)]
