"""Read, rescale and write tensors in pieces, on all cores.

Scope: pieces of work and threads. Not here: changes (see `plan.changes`), files (see `checkpoint.writer`). NumPy
releases the interpreter's lock in reads, matrix products, casts and writes, so threads are enough.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.dtypes import DTYPE_BITS, cast, numpy_dtype, refuse_overflow
from ..checkpoint.tensor_source import TensorSource
from ..checkpoint.writer import StreamingWriter
from ..errors import RekernelError
from ..escape import shown
from ..plan.changes import LayerChange
from .output_files import OutputFile, OutputTensor

_COPY = 32 << 20  # bytes of a piece that is copied, by the kernel if the system allows
_RESAMPLE = 1 << 20  # output elements of a resampled piece: fits the cache, and too few for threads in `resample`


@dataclass(frozen=True)
class Piece:
    """A part of a tensor.

    start, stop : rows of the leading axis, or, if `raw`, bytes
    raw : whether the bytes are copied unchanged
    """

    tensor: OutputTensor
    start: int
    stop: int
    raw: bool = False

    @property
    def source_bytes(self) -> int:
        """Bytes read."""
        change = self.tensor.change
        return self.stop - self.start if self.raw else _bytes(change.dtype, change.shape, self.stop - self.start)

    @property
    def target_bytes(self) -> int:
        """Bytes written."""
        return (
            self.source_bytes if self.raw else _bytes(self.tensor.dtype, self.tensor.change.new_shape, self._new_rows)
        )

    @property
    def _new_rows(self) -> int:
        change = self.tensor.change
        rows = self.stop - self.start
        return rows if change.new_shape[:1] == change.shape[:1] else math.prod(change.new_shape[:1])


def pieces(file: OutputFile) -> Iterator[Piece]:
    """Divide the tensors of one file into pieces, in the order of the source. A tensor without bytes has no piece."""
    for tensor in file.tensors:
        change = tensor.change
        if not tensor.nbytes:  # its other sizes, which no bytes back, could ask for any number of pieces
            continue
        if change.kept and tensor.dtype == change.dtype:
            for start in range(0, tensor.nbytes, _COPY):
                yield Piece(tensor, start, min(start + _COPY, tensor.nbytes), raw=True)
            continue
        rows = change.shape[0] if change.shape else 1
        step = rows
        if len(change.shape) > 0 and (change.by_rows or change.kept):
            step = max(1, _RESAMPLE // max(1, math.prod(change.new_shape[1:])))
        for start in range(0, rows, max(step, 1)):
            yield Piece(tensor, start, min(start + step, rows))


def stream(
    source: TensorSource,
    file: OutputFile,
    writer: StreamingWriter,
    *,
    allow_cast: bool = False,
    progress: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> list[str]:
    """Write every tensor of `file`. `progress` is called in this thread with the bytes of each finished piece.

    Parameters
    ----------
    threads : int, optional
        Threads that compute; by default one for each core.

    Returns
    -------
    names of the rescaled tensors with values that are not finite, in the source already

    Raises
    ------
    RekernelError
        If the values of a tensor cannot be computed or cast; the message names the tensor.
    """
    workers = threads or os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers)
    running: dict[Future[bool], Piece] = {}
    broken: dict[str, None] = {}

    def collect(most: int) -> None:
        while len(running) > most:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                piece = running.pop(future)
                if not future.result():
                    broken[piece.tensor.change.name] = None
                if progress:
                    progress(piece.target_bytes)

    try:
        for piece in pieces(file):
            collect(4 * workers - 1)  # enough pieces that no thread waits; only those that run hold memory
            running[pool.submit(_do, piece, source, writer, allow_cast)] = piece
        collect(0)
    finally:
        pool.shutdown(cancel_futures=True)
    return list(broken)


def peak_bytes(files: tuple[OutputFile, ...]) -> int:
    """Estimate the memory that `stream` adds at most: the largest pieces at once."""
    workers = os.cpu_count() or 1
    sizes = nlargest(workers, (_held(piece) for file in files for piece in pieces(file)))
    return sum(sizes)


def _held(piece: Piece) -> int:
    change = piece.tensor.change
    if piece.raw:
        return piece.source_bytes
    return piece.source_bytes + 2 * _bytes(change.dtype, change.new_shape, piece._new_rows) + piece.target_bytes


def _do(piece: Piece, source: TensorSource, writer: StreamingWriter, allow_cast: bool) -> bool:
    """Write a piece; False if it was computed from values that are not finite."""
    finite = True
    change, dtype = piece.tensor.change, piece.tensor.dtype
    if piece.raw:

        def send(target: int, position: int) -> int:
            return source.send_range(change.name, piece.start, piece.stop, target, position)

        start = piece.start + writer.send_into(change.name, piece.start, send)
        if start < piece.stop:
            writer.write_at(change.name, start, source.read_range(change.name, start, piece.stop))
        return True
    try:
        if change.length_of:
            lengths: Any = np.ascontiguousarray(cast(_lengths(change, source), dtype))
            writer.write_at(change.name, 0, lengths.reshape(-1).view(np.uint8))
            return True
        values = _values(piece, source)
        if dtype != change.dtype and not change.kept:  # computed in a wider dtype, so that values are rounded only once
            values = values.astype("float64" if change.dtype == "F64" else "float32")
        result: Any = change.apply(values, allow_cast=allow_cast)
        result = np.ascontiguousarray(result if dtype == change.dtype else cast(result, dtype))
        if not change.kept:
            finite = refuse_overflow(result, lambda: change.apply(values.astype(np.float64)))
    except RekernelError as error:
        raise RekernelError(f"{shown(change.name)}: {error}") from None
    # Viewed as bytes: the buffer protocol does not know bfloat16.
    offset = _bytes(dtype, change.new_shape, piece.start)
    writer.write_at(change.name, offset, result.reshape(-1).view(np.uint8))
    return finite


def _values(piece: Piece, source: TensorSource) -> Any:
    change = piece.tensor.change
    return _rows(source, change.name, piece.start, piece.stop)


def _rows(source: TensorSource, name: str, start: int, stop: int) -> Any:
    info = source.tensors[name]
    first, last = (_bytes(info.dtype, info.shape, row) for row in (start, stop))
    shape = (stop - start, *info.shape[1:]) if info.shape else ()
    return np.frombuffer(source.read_range(name, first, last), dtype=numpy_dtype(info.dtype)).reshape(shape)


def _lengths(change: LayerChange, source: TensorSource) -> NDArray[np.float64]:
    """The new lengths of a weight norm. With one for each row, the rows of the direction are read a few at a time."""
    rows = source.tensors[change.length_of].shape[0]
    g = _rows(source, change.name, 0, change.shape[0] if change.shape else 1)
    if not source.tensors[change.length_of].nbytes:  # a direction without values, of any number of rows
        return np.asarray(g, np.float64)
    by_row = bool(change.shape) and change.shape[0] == rows and all(o.axis > 0 for o in change.operators)
    step = max(1, _RESAMPLE // math.prod(change.view[1:])) if by_row else rows
    parts = []
    for start in range(0, rows, step):
        direction = _rows(source, change.length_of, start, min(start + step, rows))
        parts.append(change.lengths(g[start : start + step] if by_row else g, direction))
    return np.concatenate(parts) if by_row else parts[0]


def _bytes(dtype: str, shape: tuple[int, ...], rows: int) -> int:
    return rows * math.prod(shape[1:]) * DTYPE_BITS[dtype] // 8
