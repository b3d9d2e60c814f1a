"""Multiply matrices along array axes in any framework, in blocks, keeping dtype and device.

Scope: arithmetic, rounding, blocks and threads. Not here: the checks of the arguments (see `arrays`). Uses
array-api-compat, which imports only the framework of the array that it is given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..rounding.half import BLOCK, round_half
from ..rounding.scratch import Scratch
from .full_precision import full_precision
from .torch_memory import memory_of

Matrix = NDArray[np.float64]
Step = tuple[int, int, tuple[int, ...], Any]  # first axis, axes it replaces, their new sizes, matrix

_ALLOWED = ("float16", "bfloat16", "float32", "float64")
# Up to so many columns, one (prod k', prod k) product costs less than one pass over the data for each axis.
_KRON_COLUMNS = 64
# BLAS starts threads above about 2^18 multiplications, which costs more than it gains for matrices this thin. A smaller
# block also stays in the cache between the product and the cast.
_NUMPY_BLOCK = 200_000
_TORCH_BLOCK = 1 << 26  # elements of output: enough to fill a GPU, small beside the weights it serves
_MEMORY = Scratch()
_THREADS_FROM = 1 << 20  # from so many output elements on, a second thread pays


def apply_matrices(w: Any, matrices: dict[int, Matrix], *, allow_cast: bool) -> Any:
    """Do the work of `resample`, whose arguments have been checked; the keys of `matrices` are non-negative axes."""
    name = dtype_name(w)
    if name not in _ALLOWED and not allow_cast:
        raise RekernelError(
            f"dtype {name} (shape {tuple(w.shape)}) is not resampled, since rounding would change its meaning. "
            f"Convert it to one of {', '.join(_ALLOWED)} first, or pass allow_cast=True."
        )
    if "complex" in name:
        raise RekernelError(
            f"dtype {name} (shape {tuple(w.shape)}) is not resampled; pass the real and the imaginary part separately"
        )
    axes = sorted(axis for axis, m in matrices.items() if not _is_identity(m))
    if not axes:
        return _copy(w)
    first, last = axes[0], axes[-1]
    shape = tuple(w.shape)
    new_shape = tuple(len(matrices[i]) if i in axes else n for i, n in enumerate(shape))
    before, after = math.prod(shape[:first]), math.prod(shape[last + 1 :])
    # Reshape to (before, *axes from the first to the last matrix, after): the first and last of these are batch axes.
    middle, new_middle = shape[first : last + 1], new_shape[first : last + 1]
    steps = _steps({axis - first: matrices[axis] for axis in axes}, middle)
    collapsed = w.reshape((before, *middle, after))
    if 0 in new_shape:
        return _empty_like(w, new_shape)
    out = _run(collapsed, steps, (before, *new_middle, after), name)
    return out.reshape(new_shape)


def dtype_name(w: Any) -> str:
    """Name of the dtype, the same in every framework: 'float16', 'bfloat16', ..."""
    return str(w.dtype).rpartition(".")[2]


def _steps(matrices: dict[int, Matrix], middle: tuple[int, ...]) -> list[Step]:
    """Kronecker product of all matrices where every axis has a small one; else axis by axis, shrinking axes first.

    Means of two taps go axis by axis as well: a sum of two terms is the same in any order, and every engine gives the
    same bits. The Kronecker product would add four terms or more, in the order of the engine.
    """
    few = len(matrices) == len(middle) and math.prod(middle) <= _KRON_COLUMNS
    if few and not any(map(_takes_means_of_two, matrices.values())):
        product: Matrix = np.ones((1, 1))
        for axis in range(len(middle)):
            product = _kron(product, matrices[axis])
        return [(0, len(middle), tuple(len(matrices[axis]) for axis in range(len(middle))), product)]
    by_growth = sorted(matrices, key=lambda axis: matrices[axis].shape[0] / matrices[axis].shape[1])
    return [(axis, 1, (len(matrices[axis]),), matrices[axis]) for axis in by_growth]


def _kron(a: Matrix, b: Matrix) -> Matrix:
    """The Kronecker product of two matrices. `np.kron`, which takes any arrays, takes 30 times as long for small ones.

    Examples
    --------
    >>> bool((_kron(np.eye(2), np.ones((1, 3))) == np.kron(np.eye(2), np.ones((1, 3)))).all())
    True
    """
    blocks = a[:, None, :, None] * b[None, :, None, :]
    return blocks.reshape(len(a) * len(b), -1)


def _takes_means_of_two(matrix: Matrix) -> bool:
    """Whether rows have one or two entries, some of them two, and every entry is a power of two.

    Examples
    --------
    >>> _takes_means_of_two(np.array([[0.5, 0.5], [0.0, 1.0]])), _takes_means_of_two(np.eye(2))
    (True, False)
    """
    entries = matrix[matrix != 0]
    return int((matrix != 0).sum(axis=1).max(initial=0)) == 2 and bool((np.abs(np.frexp(entries)[0]) == 0.5).all())


def _run(w: Any, steps: list[Step], shape: tuple[int, ...], name: str) -> Any:
    accumulator = "float64" if name == "float64" else "float32"
    framework = type(w).__module__.partition(".")[0]
    if framework == "numpy":
        return _run_numpy(w, steps, shape, accumulator)
    if framework == "torch" and (values := memory_of(w, name)) is not None:
        import torch

        return torch.from_numpy(_run_numpy(values, steps, shape, accumulator))
    import array_api_compat

    xp = array_api_compat.array_namespace(w)
    device = array_api_compat.device(w)
    wide = getattr(xp, accumulator)
    on_device = [(i, n, sizes, xp.asarray(m, dtype=wide, device=device)) for i, n, sizes, m in steps]
    matmul = xp.matmul

    def compute(block: Any) -> Any:
        return _product(xp.astype(block, wide, copy=False), on_device, matmul)

    def narrow(result: Any) -> Any:
        if name not in _ALLOWED and "int" in name:
            result = xp.clip(xp.round(result), *_integer_range(name, accumulator))
        return xp.astype(result, w.dtype, copy=False)

    if framework != "torch":
        return narrow(compute(w))
    with full_precision(device.type):
        if w.requires_grad and _torch_grad_enabled():
            return narrow(compute(w))
        out = w.new_empty(shape)
        for part in _blocks(shape, _TORCH_BLOCK):
            out[part] = narrow(compute(w[part]))
        return out


def _run_numpy(w: Any, steps: list[Step], shape: tuple[int, ...], accumulator: str) -> Any:
    wide = np.dtype(accumulator)
    matrices = [(i, n, sizes, np.ascontiguousarray(m, dtype=wide)) for i, n, sizes, m in steps]
    out = np.empty(shape, dtype=w.dtype)
    half = w.dtype == np.float16
    limits = _integer_range(dtype_name(w), accumulator) if np.issubdtype(w.dtype, np.integer) else None

    def fill(part: tuple[slice, ...]) -> None:
        with np.errstate(invalid="ignore"):  # an infinite weight makes its kernel NaN
            block = _product(w[part].astype(wide, copy=False), matrices, np.matmul)
        if limits:
            block = np.clip(np.rint(block), *limits)
        out[part] = block

    def fill_halves(part: tuple[slice, ...]) -> None:
        target, values = out[part], w[part].astype(wide)
        block = _MEMORY.array("block", target.size, wide).reshape(target.shape)
        with np.errstate(invalid="ignore"):
            for inner in _blocks(block.shape, small):
                block[inner] = _product(values[inner], matrices, np.matmul)
        round_half(block, target)

    def fill_all(parts: Iterable[tuple[slice, ...]]) -> None:
        for part in parts:
            fill_halves(part) if half else fill(part)

    multiplications = max(m.shape[1] for *_, m in steps)
    small = max(1, _NUMPY_BLOCK // multiplications)
    parts = _blocks(shape, max(small, BLOCK) if half else small)
    workers = os.cpu_count() or 1 if out.size >= _THREADS_FROM else 1
    if workers == 1:
        fill_all(parts)
        return out
    with ThreadPoolExecutor(workers) as pool:  # NumPy releases the GIL in products and casts
        share = list(parts)
        runs = [share[i::workers] for i in range(workers)]
        list(pool.map(fill_all, runs))  # list() raises the exception of a thread
    return out


def _integer_range(name: str, accumulator: str) -> tuple[float, float]:
    """Least and greatest number of the accumulator that fits into the integer dtype; a cast needs clipping to these."""
    limits, wide = np.iinfo(name), np.dtype(accumulator).type
    high = wide(limits.max)
    return float(limits.min), float(high if int(high) <= limits.max else np.nextafter(high, wide(0)))


def _product(block: Any, steps: list[Step], matmul: Callable[[Any, Any], Any]) -> Any:
    """Apply each matrix to its axes of a (before, *middle, after) block."""
    for axis, replaced, sizes, matrix in steps:
        shape = tuple(block.shape)
        left, right = shape[: axis + 1], shape[axis + 1 + replaced :]
        rows, inner = math.prod(left), math.prod(right)
        if inner == 1:
            flat = matmul(block.reshape((rows, matrix.shape[1])), matrix.T)
        else:
            flat = matmul(matrix, block.reshape((rows, matrix.shape[1], inner)))
        block = flat.reshape((*left, *sizes, *right))
    return block


def _blocks(shape: tuple[int, ...], elements: int) -> Iterator[tuple[slice, ...]]:
    """Slices along the longer of the two batch axes, each of about `elements` output elements."""
    axis = 0 if shape[0] >= shape[-1] else len(shape) - 1
    per_row = math.prod(shape) // shape[axis]
    rows = max(1, elements // per_row)
    for start in range(0, shape[axis], rows):
        part = slice(start, min(start + rows, shape[axis]))
        yield tuple(part if i == axis else slice(None) for i in range(len(shape)))


def _is_identity(matrix: Matrix) -> bool:
    return matrix.shape[0] == matrix.shape[1] and bool(np.array_equal(matrix, np.eye(len(matrix))))


def _copy(w: Any) -> Any:
    if hasattr(w, "clone"):
        return w.clone()
    return w.copy() if hasattr(w, "copy") else w


def _empty_like(w: Any, shape: tuple[int, ...]) -> Any:
    if hasattr(w, "new_empty"):
        return w.new_empty(shape)
    import array_api_compat

    return array_api_compat.array_namespace(w).empty(shape, dtype=w.dtype)


def _torch_grad_enabled() -> bool:
    import torch

    return torch.is_grad_enabled()
