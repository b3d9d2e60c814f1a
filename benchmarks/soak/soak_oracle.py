"""Compute what a conversion must have written, in float64, by code of its own: from formulas, without rekernel.

What is taken from the plan are its numbers (sizes, scale, method, gain, phase). The matrices, their application, the
rounding and the reading of safetensors files are written here again, as plainly as possible.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

EPS = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
LIMIT = 1.05  # of a designed response, above which rekernel designs a tap again under a constraint
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "BOOL": "u1", "F8_E4M3": "u1", "BF16": "<u2",
}  # fmt: skip


def read(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], bytes]], dict[str, str]]:
    """Tensors of a safetensors file as (dtype, shape, bytes), and its metadata."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    data = raw[8 + size :]
    metadata = header.pop("__metadata__", {})
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        found[name] = entry["dtype"], tuple(entry["shape"]), data[start:end]
    return found, metadata


def values(dtype: str, shape: tuple[int, ...], data: bytes) -> np.ndarray:
    """The numbers of a tensor, as float64."""
    array = np.frombuffer(data, _NUMPY[dtype]).reshape(shape)
    if dtype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def phi(method: str, x: float, scale: float, a: float) -> float:
    d = abs(x)
    if method == "nearest":
        return 0.5 if abs(d - 0.5) < 1e-9 else float(d < 0.5)
    if method == "linear":
        return max(0.0, 1 - d)
    if method == "cubic":
        near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return near if d <= 1 else far if d < 2 else 0.0
    if method == "lanczos3":
        if d >= 3:
            return 0.0
        return 1.0 if d == 0 else 3 * math.sin(math.pi * d) * math.sin(math.pi * d / 3) / (math.pi * d) ** 2
    if method == "area":
        half = 0.5 / scale
        return scale * max(0.0, min(x + half, 0.5) - max(x - half, -0.5))
    raise ValueError(method)


def kernel(o) -> np.ndarray | None:
    """The matrix of a sliding kernel; None where the design met its limit."""
    old = [o.dilation * (j - (o.old - 1) / 2) for j in range(o.old)]
    new = [i - (o.new - 1) / 2 + o.phase for i in range(o.new)]
    if o.method == "dilate":
        matrix = np.array([[float(abs(v - o.scale * u) < 1e-6) for u in old] for v in new])
        return matrix / o.scale if o.gain == "ratio" else matrix
    if o.method == "optimal":
        matrix = np.array([designed(o.new, o.scale * u - new[0], o.scale, o.smoothness) for u in old]).T
        return None if loudest(matrix) > LIMIT else matrix * (o.scale if o.gain == "none" else 1.0)
    rows = []
    for v in new:
        weights = [phi(o.method, v / o.scale - u, o.scale, o.a) for u in old]
        lattice = [phi(o.method, v / o.scale - (old[0] + n), o.scale, o.a) for n in range(-60, 61)]
        rows.append([w / sum(lattice) for w in weights])
    return gained(np.array(rows), o.scale, o.gain)


def gained(matrix: np.ndarray, scale: float, gain: str) -> np.ndarray:
    if gain == "dc":
        return matrix / matrix.sum(axis=0)
    return matrix / scale if gain == "ratio" else matrix


def grid(o) -> np.ndarray | None:
    """The matrix of a grid of pixels; None for a designed one."""
    if o.method.startswith(("optimal", "pinv")) or o.new < o.old:
        return None
    scale = o.new / o.old
    matrix = np.zeros((o.new, o.old))
    for i in range(o.new):
        if o.method == "nearest":
            matrix[i, ((2 * i + 1) * o.old) // (2 * o.new)] = 1
            continue
        at = (i + 0.5) / scale - 0.5
        for j in range(-8, o.old + 8):
            matrix[i, min(max(j, 0), o.old - 1)] += phi(o.method, at - j, scale, o.a)
    return gained(matrix / matrix.sum(axis=1, keepdims=True), scale, o.gain)


def designed(count: int, target: float, scale: float, smoothness: float) -> np.ndarray:
    """One column of 'optimal': least squares over frequencies by quadrature, its sum fixed to 1 by elimination."""
    low, high = 0.3 / max(scale, 1), 0.7 / max(scale, 1)
    end = min(high, 0.5)
    bands = [(0, low, 1 - smoothness, lambda f: 1.0), (end, 0.5, smoothness, lambda f: 0.0)]
    bands.append((low, end, 0.03 * smoothness, lambda f: 0.5 + 0.5 * math.cos(math.pi * (f - low) / (high - low))))
    nodes, weights = np.polynomial.legendre.leggauss(160)
    taps = np.arange(count)
    rows, right = [], []
    for start, stop, weight, wanted in bands:
        if stop <= start:
            continue
        for x, w in zip(nodes, weights, strict=True):
            f = (start + stop) / 2 + x * (stop - start) / 2
            size = math.sqrt(weight * w * (stop - start) / 2)
            delay = wanted(f) * np.exp(-2j * np.pi * f * target)
            wave = np.exp(-2j * np.pi * f * taps)
            rows += [size * wave.real, size * wave.imag]
            right += [size * delay.real, size * delay.imag]
    plain = np.maximum(0, 1 - np.abs(taps - min(max(target, 0), count - 1)))
    rows += list(1e-3 * np.eye(count))
    right += list(1e-3 * plain)
    # The last tap is 1 minus the others.
    table, result = np.array(rows), np.array(right)
    free = table[:, :-1] - table[:, -1:]
    found = np.linalg.lstsq(free, result - table[:, -1], rcond=None)[0]
    return np.append(found, 1 - found.sum())


def loudest(matrix: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(matrix, 64 * len(matrix), axis=0)).max())


def expected(change, source: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """What a tensor becomes, and the sum of the absolute products, which bounds rounding; None where not computed."""
    matrices = {}
    for o in change.operators:
        matrix = kernel(o) if o.geometry == "kernel" else grid(o)
        if matrix is None:
            return None
        matrices[o.axis] = matrix
    if change.prefix:
        return None
    rest = source.reshape(change.view or source.shape)
    size = np.abs(rest)
    for axis, matrix in matrices.items():
        rest = np.moveaxis(np.tensordot(matrix, rest, axes=(1, axis)), 0, axis)
        size = np.moveaxis(np.tensordot(np.abs(matrix), size, axes=(1, axis)), 0, axis)
    return rest.reshape(change.new_shape), size.reshape(change.new_shape)


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """float64 numbers rounded to a dtype, halves to even."""
    if dtype == "BF16":
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)
    return x.astype(_NUMPY[dtype]).astype(np.float64)


def difference(got: np.ndarray, wanted: np.ndarray, size: np.ndarray, source: str, dtype: str) -> float:
    """The largest error, in units of what rounding once to `dtype` and computing in the wider type permits."""
    computed = 2.0**-53 if source == "F64" else 2.0**-24
    allowed = EPS[dtype] * np.abs(wanted) + 200 * computed * size + 1e-9 * size * (computed < 1e-12)
    allowed += 1e-14 * size.max(initial=0.0)  # sines of multiples of pi, which are not quite 0
    allowed += 2.0**-24 * (dtype == "F16")  # subnormal numbers
    return float((np.abs(got - wanted) / np.maximum(allowed, 1e-300)).max(initial=0.0))
