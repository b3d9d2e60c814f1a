"""Changes: what happens to one tensor or one layer, why, and the geometry it has afterwards.

Knows shapes and operators, and applies them to an array; no files, no JSON (`serialization`), and no opinion on which
tensors to choose (`planning`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..resampling.arrays import resample
from ..resampling.methods import KEYS_A, SMOOTHNESS
from ..resampling.operators import grid_operator, kernel_operator

KINDS = ("conv", "conv-transpose", "patch", "linear-in", "linear-out", "values", "keep")
MODULE_KINDS = ("max-pool", "avg-pool", "upsample", "unflatten", "enlarge", "window")
Mode = Literal["", "supersample", "absorb"]
Form = Literal["dense", "factored", "auto"]
FORMS: tuple[str, ...] = get_args(Form)
"""How a rescaled convolution is carried out."""


@dataclass(frozen=True)
class AxisOperator:
    """One matrix on one axis, in numbers from which it is built again.

    axis : of the tensor as seen through `LayerChange.view`
    old, new : its size before and after
    geometry : 'kernel' (a filter that slides) or 'grid' (pixels of a finite image)
    scale : new samples per old one
    method, gain, phase, a, smoothness : as for `kernel_operator` and `grid_operator`
    dilation : spacing of the old taps; 1 for an ordinary kernel
    """

    axis: int
    old: int
    new: int
    geometry: str
    scale: float
    method: str
    gain: str
    phase: float = 0.0
    dilation: int = 1
    a: float = KEYS_A
    smoothness: float = SMOOTHNESS

    def matrix(self) -> NDArray[np.float64]:
        """The (new, old) matrix.

        Examples
        --------
        >>> AxisOperator(2, 3, 5, "kernel", 2.0, "optimal", "dc").matrix().shape
        (5, 3)
        """
        return _matrix(self)


@dataclass(frozen=True)
class AxisGeometry:
    """How a layer runs along one spatial axis.

    kernel, stride, dilation : in pixels
    padding : (left, right) in pixels; they may differ after rescaling
    """

    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int = 1


@dataclass(frozen=True)
class LayerChange:
    """What happens to one tensor.

    name, dtype, shape, new_shape : of the tensor; dtype as safetensors names it
    kind : one of `KINDS`; 'keep' leaves every byte
    reason : why, for a person
    view : shape through which the tensor is seen while resampled (a flattened grid unfolded), empty if kept
    operators : one for each axis that changes, empty if kept
    prefix, grid_axis : entries at the start of that axis that are no pixels (class tokens), kept in front
    geometry, new_geometry : of the layer, one entry per spatial axis; empty where a layer has none or it is unknown
    factors : instead of operators, the matrices of a layer in factored form, whose weight itself stays
    by_hand : padding that the model adds before the layer, (left, right) per spatial axis; it goes on doing so
    by_hand_mode : how, as torch.nn.functional.pad calls it; empty for zeros
    mode : what the layer does with the scale: 'supersample' (its output grows), 'absorb' (its stride grows), or empty
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
    mode: Mode = ""

    @classmethod
    def unchanged(cls, name: str, dtype: str, shape: tuple[int, ...], reason: str) -> Self:
        """The entry of a tensor that keeps every byte.

        Examples
        --------
        >>> LayerChange.unchanged("a.bias", "F32", (4,), "bias or norm").new_shape
        (4,)
        """
        return cls(name, dtype, shape, shape, "keep", reason)

    @property
    def kept(self) -> bool:
        """Whether the layer stays as it is."""
        return not self.operators and not self.factors

    def apply(self, w: Any, *, allow_cast: bool = False) -> Any:
        """The new tensor. A slice of the leading axis will do where no operator touches that axis.

        Parameters
        ----------
        w : array of NumPy, PyTorch, JAX or CuPy
            Of shape `shape`, or fewer entries along axis 0.

        Returns
        -------
        array like `w`, of shape `new_shape` (as many entries along axis 0 as given)
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
        out = resample(rest.reshape(view), {o.axis: o.matrix() for o in self.operators}, allow_cast=allow_cast)
        new = (out.shape[0], *self.new_shape[1:]) if tuple(w.shape) != self.shape else self.new_shape
        if not self.prefix:
            return out.reshape(new)
        grid = tuple(n - self.prefix if i == self.grid_axis else n for i, n in enumerate(new))
        import array_api_compat

        return array_api_compat.array_namespace(w).concat([kept, out.reshape(grid)], axis=self.grid_axis)

    @property
    def by_rows(self) -> bool:
        """Whether slices along axis 0 can be done one by one."""
        return not self.prefix and len(self.shape) > 1 and all(o.axis > 0 for o in self.operators)

    def dc_deviation(self) -> float:
        """Largest departure from unit gain at zero frequency (from reproducing a constant, for values)."""
        low, high = 1.0, 1.0
        for operator in self.operators or self.factors:
            sums = operator.matrix().sum(axis=1 if self.kind in ("values", "linear-out") else 0)
            low, high = low * float(sums.min()), high * float(sums.max())
        return max(abs(low - 1), abs(high - 1))

    def settings(self) -> str:
        """Method, taps and gain on one line, for a table."""
        if self.kept:
            return "keep"
        form = "factored " if self.factors else ""
        return form + " ".join(dict.fromkeys(f"{o.method} {o.old}->{o.new}" for o in self.operators or self.factors))


@dataclass(frozen=True)
class ModuleChange:
    """What happens to a layer that has no tensor.

    name : path of the module
    kind : one of `MODULE_KINDS`; the kernel of the geometry is what 'upsample' and 'unflatten' make, what 'enlarge'
        makes of the grid that its layer is given, and the tokens in a 'window' of attention
    reason : why, for a person
    geometry, new_geometry : one entry per spatial axis
    """

    name: str
    kind: str
    reason: str
    geometry: tuple[AxisGeometry, ...]
    new_geometry: tuple[AxisGeometry, ...]


@cache
def _matrix(o: AxisOperator) -> NDArray[np.float64]:
    # One checkpoint has hundreds of layers and a handful of different matrices.
    shape = {"a": o.a, "smoothness": o.smoothness}
    if o.geometry == "grid":
        matrix = grid_operator(o.old, o.new, o.method, gain=o.gain, **shape)
    else:
        spread = o.dilation * (o.old - 1) + 1
        dense = kernel_operator(spread, o.scale, o.method, taps=o.new, gain=o.gain, phase=o.phase, **shape)
        matrix = dense[:, :: o.dilation]
    matrix.setflags(write=False)
    return matrix
