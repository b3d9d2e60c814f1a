"""The reader and the sizes of benchmarks/real/fashion_data.py, on files that are made here."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "real"))

from fashion_data import FILES, PACKAGE, accuracy_and_f1, area_matrix, load, read_idx, resized  # noqa: E402


def idx(values: np.ndarray) -> bytes:
    """An IDX file of bytes, as http://yann.lecun.com/exdb/mnist describes it: two zeros, 8, axes, sizes, values."""
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    """A data set of three training and two test pictures, with one file uncompressed."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        images, labels = FILES[part]
        (tmp_path / f"{images}.gz").write_bytes(gzip.compress(idx(rng.integers(0, 256, (count, 28, 28)))))
        (tmp_path / labels).write_bytes(idx(np.arange(count) + 7))
    return tmp_path


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("packed", [gzip.compress, bytes], ids=["gz", "plain"])
def test_an_idx_file_is_read_as_it_was_written(tmp_path, shape, packed):
    values = np.random.default_rng(1).integers(0, 256, shape)
    (tmp_path / "file").write_bytes(packed(idx(values)))
    assert np.array_equal(read_idx(tmp_path / "file"), values)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", "holds 3 bytes of data, its header says 5"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01abcd", "not an IDX file of bytes"),
        (b"", "not an IDX file of bytes"),
    ],
    ids=["cut short", "floats", "empty"],
)
def test_what_is_not_an_idx_file_of_bytes_is_refused(tmp_path, data, said):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(SystemExit, match=said):
        read_idx(tmp_path / "file")


def test_pictures_and_labels_are_loaded_at_a_size(folder):
    whole, small = load("train", 28, folder), load("train", 14, folder)
    assert whole.x.shape == (3, 1, 28, 28)
    assert 0 <= whole.x.min() < 0.05 < 0.95 < whole.x.max() <= 1
    assert small.y.tolist() == [7, 8, 9]
    assert load("test", 7, folder).x.shape == (2, 1, 7, 7)
    blocks = whole.x.reshape(3, 1, 14, 2, 14, 2).mean((3, 5))
    torch.testing.assert_close(small.x, blocks, rtol=1e-6, atol=1e-6)


def test_missing_files_are_named_with_the_package_that_holds_them(folder):
    (folder / f"{FILES['test'][0]}.gz").unlink()
    load("train", 28, folder)
    with pytest.raises(SystemExit, match=rf"t10k-images-idx3-ubyte.*{PACKAGE}.*--data DIR"):
        load("test", 28, folder)


@pytest.mark.parametrize(("old", "new"), [(28, 21), (28, 14), (28, 7), (42, 28), (21, 14), (5, 3)])
def test_area_averages_are_means_of_what_a_pixel_covers(old, new):
    x = torch.rand(2, 1, old, old, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    finer = x.repeat_interleave(new, 2).repeat_interleave(new, 3)  # whole blocks of it make one new pixel each
    expected = finer.reshape(2, 1, new, old, new, old).mean((3, 5))
    torch.testing.assert_close(resized(x, new), expected)
    assert np.allclose(area_matrix(old, new).sum(1), 1)


def test_an_enlarged_picture_keeps_a_ramp():
    ramp = torch.arange(28.0).expand(1, 1, 28, 28)
    larger = resized(ramp, 42)[0, 0, 0]
    expected = (torch.arange(42.0) + 0.5) / 1.5 - 0.5
    torch.testing.assert_close(larger[1:-1], expected[1:-1])
    assert torch.equal(resized(ramp, 28), ramp)


def test_scores_agree_with_those_counted_by_hand():
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    predicted = torch.tensor([0, 0, 1, 1, 2, 2])
    f1 = [2 * 2 / (2 + 3), 2 * 1 / (2 + 2), 2 * 1 / (2 + 1)]  # twice the right ones / (said + true)
    assert accuracy_and_f1(predicted, y, 3) == pytest.approx((400 / 6, 100 * sum(f1) / 3))
