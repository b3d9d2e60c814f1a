"""Multiply matrices along array axes in any framework, in blocks, keeping dtype and device.

Scope: arithmetic, blocks and threads. Not here: the checks of the arguments (see `arrays`), casts of 16-bit floats (see
`casts`). Uses array-api-compat, which imports only the framework of the array that it is given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..rounding.float8 import refuse_beyond
from ..rounding.scratch import Scratch
from .casts import narrowed, widened
from .full_precision import full_precision
from .torch_memory import has_plain_memory, is_traced, memory_of, tensor_on

Matrix = NDArray[np.float64]
Step = tuple[int, int, tuple[int, ...], Any]  # first axis, axes it replaces, their new sizes, matrix

_ALLOWED = ("float16", "bfloat16", "float32", "float64")
# Up to so many columns, one (prod k', prod k) product costs less than one pass over the data for each axis.
_KRON_COLUMNS = 64
# BLAS starts threads above about 2^18 multiplications, which costs more than it gains for matrices this thin.
_NUMPY_BLOCK = 200_000
_CACHED = 1 << 17  # elements of output that stay in the cache between the product and the cast
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
    if name == "float8_e8m0fnu":
        raise RekernelError(
            f"dtype {name} (shape {tuple(w.shape)}) is not resampled: it holds powers of two, the scales of a "
            f"quantised weight; convert the weight to bfloat16 or float32 first"
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
    same bits. The Kronecker product would add four terms or more, in the order of the engine. Where the axes are small,
    the product along one axis is a Kronecker product with the identity of the axes behind: zeros change no sum, and one
    product of many rows is faster than many small products.
    """
    few = len(matrices) == len(middle) and math.prod(middle) <= _KRON_COLUMNS
    if few and any(map(_takes_means_of_two, matrices.values())):
        sizes = list(middle)
        steps: list[Step] = []
        for axis in range(len(middle)):
            behind = sizes[axis + 1 :]
            wide = _kron(matrices[axis], np.eye(math.prod(behind)))
            sizes[axis] = len(matrices[axis])
            steps.append((axis, 1 + len(behind), (sizes[axis], *behind), wide))
        return steps
    if few:
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
        return tensor_on(_run_numpy(values, steps, shape, accumulator))
    return run_on_device(w, steps, shape, name, accumulator)


def run_on_device(w: Any, steps: list[Step], shape: tuple[int, ...], name: str, accumulator: str) -> Any:
    """Multiply by the framework of `w`, where `w` lies. torch makes one product a block, float32 right into the result.

    Parameters
    ----------
    w : array of shape (before, *middle, after), of the dtype that is called `name`
    steps : matrices and their axes
    shape : of the result
    accumulator : {'float32', 'float64'}

    Examples
    --------
    >>> import torch
    >>> run_on_device(torch.ones(2, 3, 1), [(0, 1, (1,), np.ones((1, 3)))], (2, 1, 1), "float32", "float32").flatten()
    tensor([3., 3.])
    """
    import array_api_compat

    xp = array_api_compat.array_namespace(w)
    device = array_api_compat.device(w)
    wide = getattr(xp, accumulator)
    on_device = [(i, n, sizes, xp.asarray(m, dtype=wide, device=device)) for i, n, sizes, m in steps]

    def compute(block: Any, into: Any = None) -> Any:
        result = _product(xp.astype(block, wide, copy=False), on_device, xp.matmul, into)
        if name not in _ALLOWED and "int" in name:
            result = xp.clip(xp.round(result), *_integer_range(name, accumulator))
        if name.startswith("float8") and not is_traced(result):
            refuse_beyond(result, name)
        return result

    if not type(w).__module__.startswith("torch"):
        return xp.astype(compute(w), w.dtype, copy=False)
    with full_precision(device.type):
        if w.requires_grad and _torch_grad_enabled():
            return xp.astype(compute(w), w.dtype, copy=False)
        out, direct = w.new_empty(shape), w.dtype == wide and has_plain_memory(w)
        for part in _blocks(shape, _TORCH_BLOCK):
            target = out[part]
            if direct and target.is_contiguous():
                compute(w[part], target)
            else:
                out[part] = compute(w[part])  # rounds while it copies
        return out


def _run_numpy(w: Any, steps: list[Step], shape: tuple[int, ...], accumulator: str) -> Any:
    wide = np.dtype(accumulator)
    rows = shape[-1] == 1  # no axis behind: the last product multiplies rows from the right
    matrices = [(i, n, sizes, np.array(m, wide, order="F" if rows else "C")) for i, n, sizes, m in steps]
    out = np.empty(shape, dtype=w.dtype)
    name = dtype_name(w)
    limits = _integer_range(name, accumulator) if np.issubdtype(w.dtype, np.integer) else None
    elements = _CACHED if rows else max(1, _NUMPY_BLOCK // max(m.shape[1] for *_, m in steps))

    def fill_all(parts: Iterable[tuple[slice, ...]]) -> None:
        with np.errstate(invalid="ignore"):  # an infinite weight makes its kernel NaN
            for part in parts:
                block, target = widened(w[part], wide), out[part]
                if out.dtype == wide and target.flags.c_contiguous:  # BLAS writes the result itself: nothing is copied
                    _product(block, matrices, _in_stacks, target)
                    continue
                result = _MEMORY.array("product", target.size, wide).reshape(target.shape)
                _product(block, matrices, _in_stacks, result)
                if limits:
                    np.clip(np.rint(result, out=result), *limits, out=result)
                if name.startswith("float8"):
                    refuse_beyond(result, name)
                narrowed(result, target)

    workers = os.cpu_count() or 1 if out.size >= _THREADS_FROM else 1
    if workers == 1:
        fill_all(_blocks(shape, elements))
        return out
    share = list(_blocks(shape, elements))
    # A run of neighbours for each thread: two threads that touch new memory at one place wait for each other.
    ends = [len(share) * i // workers for i in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:  # NumPy releases the GIL in products and casts
        list(pool.map(fill_all, [share[a:b] for a, b in pairwise(ends)]))  # list() raises the exception of a thread
    return out


def _in_stacks(a: NDArray[Any], b: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The product of two matrices in one call of NumPy, which calls BLAS for a few rows of `a` at a time.

    BLAS has fast code for small products, and starts no threads for them. A stack of matrices is passed on as it is.

    Examples
    --------
    >>> _in_stacks(np.ones((3, 2)), np.ones((2, 1))).tolist()
    [[2.0], [2.0], [2.0]]
    """
    rows = max(1, _NUMPY_BLOCK // b.size)
    count = len(a) // rows
    if a.ndim > 2 or b.ndim > 2 or count < 2 or not a.flags.c_contiguous:
        return np.matmul(a, b, out=out)
    if out is None:
        out = np.empty((len(a), b.shape[1]), a.dtype)
    end = count * rows
    np.matmul(a[:end].reshape(count, rows, -1), b, out=out[:end].reshape(count, rows, -1))
    np.matmul(a[end:], b, out=out[end:])
    return out


def _integer_range(name: str, accumulator: str) -> tuple[float, float]:
    """Least and greatest number of the accumulator that fits into the integer dtype; a cast needs clipping to these."""
    limits, wide = np.iinfo(name), np.dtype(accumulator).type
    high = wide(limits.max)
    return float(limits.min), float(high if int(high) <= limits.max else np.nextafter(high, wide(0)))


def _product(block: Any, steps: list[Step], matmul: Callable[..., Any], into: Any = None) -> Any:
    """Apply each matrix to its axes of a (before, *middle, after) block, the last one `into` a contiguous array."""
    for number, (axis, replaced, sizes, matrix) in enumerate(steps, 1):
        shape = tuple(block.shape)
        left, right = shape[: axis + 1], shape[axis + 1 + replaced :]
        rows, inner, new = math.prod(left), math.prod(right), matrix.shape[0]
        last = into is not None and number == len(steps)
        if inner == 1:
            place = {"out": into.reshape((rows, new))} if last else {}
            flat = matmul(block.reshape((rows, matrix.shape[1])), matrix.T, **place)
        else:
            place = {"out": into.reshape((rows, new, inner))} if last else {}
            flat = matmul(matrix, block.reshape((rows, matrix.shape[1], inner)), **place)
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
