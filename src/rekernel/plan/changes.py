"""Changes: what happens to one tensor or one layer, why, and the geometry it has afterwards.

Scope: shapes and operators, and applying them to an array. Not here: JSON (see `plan.serialization`), files (see
`conversion`), and which tensors to choose (see `planning`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..escape import shown
from ..messages.display import Displayed
from ..resampling.arrays import resample
from ..resampling.methods import GRID_METHODS, KEYS_A, SMOOTHNESS, Gain, canonical_method
from ..resampling.operators import grid_operator, kernel_operator
from ..text import dims

_SMALL = 1 << 14  # entries of a matrix of which a thousand may be kept, in 128 MB

KINDS = ("conv", "conv-transpose", "patch", "linear-in", "linear-out", "values", "length", "keep")
MODULE_KINDS = ("max-pool", "avg-pool", "upsample", "unflatten", "layer-norm", "enlarge", "window", "resample", "bake")
Mode = Literal["", "supersample", "absorb"]
NetworkMode = Literal["auto", "supersample", "absorb"]
"""What a caller may ask of a whole network."""
LayerMode = Literal["supersample", "absorb"]
Form = Literal["plain", "dense", "factored", "auto"]
FORMS: tuple[str, ...] = get_args(Form)
"""The ways to run a rescaled convolution."""


@dataclass(frozen=True)
class AxisOperator:
    """One matrix on one axis, stored as the numbers that rebuild the matrix.

    axis : index of the axis, in the tensor as seen through `LayerChange.view`
    old, new : size of the axis before and after
    geometry : 'kernel' (a sliding filter) or 'grid' (pixels of a finite image)
    scale : number of new samples per old sample
    method, gain, phase, a, smoothness : arguments of `kernel_operator` and `grid_operator`
    dilation : spacing of the old taps; 1 for an ordinary kernel
    """

    axis: int
    old: int
    new: int
    geometry: str
    scale: float
    method: str
    gain: Gain
    phase: float = 0.0
    dilation: int = 1
    a: float = KEYS_A
    smoothness: float = SMOOTHNESS

    def matrix(self) -> NDArray[np.float64]:
        """Return the matrix, of shape (new, old).

        Examples
        --------
        >>> AxisOperator(2, 3, 5, "kernel", 2.0, "optimal", "dc").matrix().shape
        (5, 3)
        """
        return _matrix(self)


@dataclass(frozen=True)
class AxisGeometry:
    """Geometry of a layer along one spatial axis.

    kernel, stride, dilation : size of the kernel, step of the layer and spacing of the taps, in pixels
    padding : (left, right) padding in pixels; the two sides may differ after rescaling
    """

    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int = 1


@dataclass(frozen=True, repr=False)
class LayerChange(Displayed):
    """What happens to one tensor.

    name, dtype, shape, new_shape : name, dtype, old shape and new shape of the tensor; the dtype is spelled as in
        safetensors
    kind : one of `KINDS`; 'keep' copies every byte
    reason : explanation of the kind, for a person
    view : shape that the tensor is given for resampling (a flattened grid unfolded); empty if the tensor is kept
    operators : one operator for each axis that changes; empty if the tensor is kept
    prefix, grid_axis : number of entries at the start of axis `grid_axis` that are not pixels (class tokens); they stay
        in front
    geometry, new_geometry : geometry of the layer before and after, one entry per spatial axis; empty where the layer
        has no geometry or the geometry is unknown
    factors : matrices of a layer in factored form, whose weight stays; a change has operators or factors, not both
    by_hand : explicit padding in the model's own code before the layer, (left, right) per spatial axis; the padding
        stays there
    by_hand_mode : mode of that padding, as in torch.nn.functional.pad; empty for zeros
    padding_mode : mode of the layer's own padding, as torch's convolutions name it, where the trained layer has no
        padding and the new one needs some: 'replicate'; empty for the mode of the trained layer
    mode : effect of the scale on the layer: 'supersample' (the output grows), 'absorb' (the stride grows), or empty
    length_of : for a 'length' of a weight norm, name of the tensor with the direction, whose `view` and `operators` the
        entry repeats
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    new_shape: tuple[int, ...]
    kind: str
    reason: str
    view: tuple[int, ...] = ()
    operators: tuple[AxisOperator, ...] = ()
    prefix: int = 0
    grid_axis: int = 0
    geometry: tuple[AxisGeometry, ...] = ()
    new_geometry: tuple[AxisGeometry, ...] = ()
    factors: tuple[AxisOperator, ...] = ()
    by_hand: tuple[tuple[int, int], ...] = ()
    by_hand_mode: str = ""
    padding_mode: str = ""
    mode: Mode = ""
    length_of: str = ""

    @classmethod
    def unchanged(cls, name: str, dtype: str, shape: tuple[int, ...], reason: str) -> Self:
        """Return the entry of a tensor that keeps every byte.

        Examples
        --------
        >>> LayerChange.unchanged("a.bias", "F32", (4,), "bias or norm").new_shape
        (4,)
        """
        return cls(name, dtype, shape, shape, "keep", reason)

    def _line(self) -> str:
        new = "" if self.kept else f" -> {dims(self.new_shape)}"
        return f"{shown(self.name)} {dims(self.shape)}{new}, {self.settings()}"

    @property
    def kept(self) -> bool:
        """Whether the tensor and its layer stay unchanged."""
        return not self.resamplings

    @property
    def resamplings(self) -> tuple[AxisOperator, ...]:
        """The matrices of the layer: of its new weight, or in factored form of what runs in front of the old one."""
        return self.operators or self.factors

    def apply(self, w: Any, *, allow_cast: bool = False) -> Any:
        """Return the new tensor. A slice of axis 0 is accepted where no operator acts on axis 0.

        Parameters
        ----------
        w : array of NumPy, PyTorch, JAX or CuPy
            The tensor, of shape `shape`, or with fewer entries along axis 0.

        Returns
        -------
        array like `w`, of shape `new_shape` (with as many entries along axis 0 as `w` has)
        """
        if not self.operators:
            return w
        rest = w
        if self.prefix:
            ahead = (slice(None),) * self.grid_axis
            kept, rest = w[(*ahead, slice(None, self.prefix))], w[(*ahead, slice(self.prefix, None))]
        view = self.view
        if tuple(w.shape) != self.shape:
            view = (int(w.shape[0]), *self.view[1:])
        matrices = {o.axis: o.matrix() for o in self.operators}
        with np.errstate(over="ignore", invalid="ignore"):  # callers refuse what became infinite
            out = resample(rest.reshape(view), matrices, allow_cast=allow_cast)
        new = (out.shape[0], *self.new_shape[1:]) if tuple(w.shape) != self.shape else self.new_shape
        if not self.prefix:
            return out.reshape(new)
        grid = tuple(n - self.prefix if i == self.grid_axis else n for i, n in enumerate(new))
        import array_api_compat

        return array_api_compat.array_namespace(w).concat([kept, out.reshape(grid)], axis=self.grid_axis)

    def lengths(self, g: Any, v: Any) -> NDArray[np.float64]:
        """Return the lengths g' for which g' v'/|v'| is the resampled g v/|v|, where v' is the resampled v.

        Parameters
        ----------
        g : array of NumPy
            The lengths: one for each entry of one axis of `v`, or one for all.
        v : array of NumPy
            The direction.

        Examples
        --------
        >>> double = (AxisOperator(1, 2, 4, "grid", 2.0, "nearest", "none"),)
        >>> g = LayerChange("g", "F32", (1, 1), (1, 1), "length", "", (1, 2), double, length_of="v")
        >>> g.lengths(np.ones((1, 1)), np.array([[3.0, 4.0]])).round(3).tolist()
        [[1.414]]
        """
        g, v = np.asarray(g, np.float64), np.asarray(v, np.float64)
        others = tuple(axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1)
        seen = v.reshape(-1, *self.view[1:]) if self.view else v
        new = resample(seen, {o.axis: o.matrix() for o in self.operators})
        before, after = (np.sqrt((t**2).sum(axis=others, keepdims=True)).reshape(g.shape) for t in (v, new))
        return np.asarray(g * np.divide(after, before, out=np.ones_like(g), where=before > 0))

    @property
    def by_rows(self) -> bool:
        """Whether slices along axis 0 can be converted one by one."""
        return (
            not self.prefix and not self.length_of and len(self.shape) > 1 and all(o.axis > 0 for o in self.operators)
        )

    def dc_deviation(self) -> float:
        """Return the largest error of the gain at zero frequency; for values, the largest error on a constant input."""
        low, high = 1.0, 1.0
        for operator in self.resamplings:
            sums = operator.matrix().sum(axis=1 if self.kind in ("values", "linear-out") else 0)
            low, high = low * float(sums.min()), high * float(sums.max())
        return max(abs(low - 1), abs(high - 1))

    def settings(self) -> str:
        """Return the form, the methods and the sizes on one line, for a table."""
        if self.kept:
            return "keep"
        form = "factored " if self.factors else ""
        texts = (
            f"dilate, taps {o.scale * o.dilation:g} apart" if self.factors and o.method == "dilate"
            else f"{form}{o.method} {o.old}->{o.new}"
            for o in self.resamplings
        )  # fmt: skip
        return " ".join(dict.fromkeys(texts))

    def on_grid(self) -> str:
        """The grid that a fully-connected layer reads or writes, as it was told or assumed; empty for other layers.

        Examples
        --------
        >>> double = AxisOperator(2, 14, 28, "grid", 2.0, "area", "dc")
        >>> LayerChange("fc", "F32", (9, 28), (9, 56), "linear-in", "", (9, 2, 14), (double,)).on_grid()
        ', grid 2x14'
        """
        axes = len(self.view) - len(self.shape) + 1
        if not self.kind.startswith("linear") or axes < 2:
            return ""
        first = next((i for i, (n, m) in enumerate(zip(self.view, self.shape, strict=False)) if n != m), 0)
        return f", grid {dims(self.view[first : first + axes])}"


@dataclass(frozen=True)
class ModuleChange:
    """What happens to a layer that has no tensor.

    name : path of the module
    kind : one of `MODULE_KINDS`. The kernel of the geometry is the output size of an 'upsample' or 'unflatten' layer,
        the grid of a 'layer-norm' with a weight for every pixel, the size to which 'enlarge' brings the input grid of
        the layer, or the tokens of an attention 'window'. The module named '' is the model itself: 'resample' brings
        the image to the trained size in front of the model
    reason : explanation of the change, for a person
    geometry, new_geometry : geometry before and after, one entry per spatial axis
    method : method that resamples the image, for 'resample'
    by_hand : padding with zeros in the model's own code before a pooling, (left, right) per spatial axis. It stays
        there, and the new pooling adds what it grows by; the geometry is that behind this padding
    """

    name: str
    kind: str
    reason: str
    geometry: tuple[AxisGeometry, ...]
    new_geometry: tuple[AxisGeometry, ...]
    method: str = ""
    by_hand: tuple[tuple[int, int], ...] = ()


def _matrix(o: AxisOperator) -> NDArray[np.float64]:
    return _small_matrix(o) if o.old * o.new <= _SMALL else _large_matrix(o)


@lru_cache(4)
def _large_matrix(o: AxisOperator) -> NDArray[np.float64]:
    return _computed(o)


@lru_cache(1024)
def _small_matrix(o: AxisOperator) -> NDArray[np.float64]:
    # A checkpoint has hundreds of layers, and only a few different matrices.
    return _computed(o)


def _computed(o: AxisOperator) -> NDArray[np.float64]:
    shape = {"a": o.a, "smoothness": o.smoothness}
    if o.geometry == "grid":
        matrix = grid_operator(o.old, o.new, canonical_method(o.method, GRID_METHODS), gain=o.gain, **shape)
    else:
        spread = o.dilation * (o.old - 1) + 1
        method = canonical_method(o.method)
        dense = kernel_operator(spread, o.scale, method, taps=o.new, gain=o.gain, phase=o.phase, **shape)
        matrix = dense[:, :: o.dilation]
    if not np.isfinite(matrix).all():
        raise RekernelError(f"the {o.geometry} {o.old}->{o.new} with {o.method} at scale {o.scale:g} overflows")
    matrix.setflags(write=False)
    return matrix
