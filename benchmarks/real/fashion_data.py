"""Read Fashion-MNIST from its four IDX files, and reduce its pictures.

Scope: the files, the pixels as float32 in 0 to 1, the sizes of the tables, and the scores of predicted classes. Not
here: networks, training, tables.
The files come from Debian's package `dataset-fashion-mnist` or from any folder with the four files, compressed or not.
The pictures are 28x28. A smaller size is made by area averages (each new pixel is the mean of the square that it
covers; at 14 and 7 these are means of whole blocks, at 21 the pixels at the edge of a square count in part). A larger
size does not exist in the data: 42x42 is a bilinear enlargement, which adds pixels and no detail.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

PACKAGE = "dataset-fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts the files
SIDE = 28
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


class Pictures(NamedTuple):
    """Pictures of one size, (count, 1, size, size) in 0 to 1, and their classes, 0 to 9."""

    x: Tensor
    y: Tensor


def load(part: str, size: int = SIDE, folder: Path = FOLDER) -> Pictures:
    """The 60,000 pictures of part 'train' or the 10,000 of 'test', at `size`."""
    images, labels = (read_idx(_found(folder, name)) for name in FILES[part])
    x = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    return Pictures(resized(x, size), torch.from_numpy(labels.astype(np.int64)))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The bytes of an IDX file, compressed (by gzip) or not, in the shape that its header names."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    zeros, kind, axes = struct.unpack_from(">HBB", data) if len(data) >= 4 else (1, 0, 0)
    if zeros != 0 or kind != 8:
        raise SystemExit(f"{path}: not an IDX file of bytes (its header is {data[:4].hex()}, 000008.. is expected)")
    shape = struct.unpack_from(f">{axes}I", data, 4)
    held, expected = len(data) - 4 - 4 * axes, int(np.prod(shape))
    if held != expected:
        raise SystemExit(f"{path}: holds {held} bytes of data, its header says {expected} ({shape})")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def resized(x: Tensor, size: int) -> Tensor:
    """Square pictures at `size`: reduced by area averages, enlarged bilinearly.

    Examples
    --------
    >>> resized(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), 1)
    tensor([[[[1.5000]]]])
    """
    old = x.shape[-1]
    if size == old:
        return x
    if size > old:
        return interpolate(x, size=(size, size), mode="bilinear")
    matrix = torch.from_numpy(area_matrix(old, size)).to(x.dtype)
    return matrix @ x @ matrix.T


def accuracy_and_f1(predicted: Tensor, y: Tensor, classes: int = 10) -> tuple[float, float]:
    """The share of right answers, and the mean over the classes of their F1 scores; both in percent.

    Examples
    --------
    >>> accuracy_and_f1(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 0]), classes=2)
    (75.0, 73.33...)
    """
    counts = torch.zeros(classes, classes, dtype=torch.float64)
    counts.index_put_((y, predicted), torch.ones(len(y), dtype=torch.float64), accumulate=True)
    right = counts.diagonal()
    f1 = 2 * right / (counts.sum(0) + counts.sum(1)).clamp(min=1)
    return 100 * float(right.sum() / counts.sum()), 100 * float(f1.mean())


def area_matrix(old: int, new: int) -> NDArray[np.float64]:
    """(new, old): which share of each new pixel each old pixel fills. Its rows sum to 1.

    Examples
    --------
    >>> area_matrix(3, 2).round(3).tolist()
    [[0.667, 0.333, 0.0], [0.0, 0.333, 0.667]]
    """
    width = old / new
    edges = np.arange(new + 1)[:, None] * width
    starts = np.arange(old)[None]
    overlap = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return np.asarray(np.clip(overlap, 0, None) / width)


def _found(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.exists():
            return path
    raise SystemExit(
        f"{folder}: holds neither {name}.gz nor {name}; install the Debian package {PACKAGE} "
        f"(apt-get install {PACKAGE}), or name a folder that holds the four IDX files with --data DIR"
    )
