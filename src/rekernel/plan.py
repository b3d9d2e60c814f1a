"""Plan: what happens to every tensor of a checkpoint, why, and the geometry its layer has afterwards.

Knows shapes, operators and their JSON; no files, and no opinion on which tensors to choose (that is `planner`).
Format: docs/recipe.md.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .errors import RekernelError
from .escape import shown
from .filters import KEYS_A
from .operators import GAINS, GRID_METHODS, KERNEL_METHODS, canonical_method, grid_operator, kernel_operator
from .optimal import SMOOTHNESS
from .resample import resample

SCHEMA = "rekernel.plan"
VERSION = 1

KINDS = ("conv", "conv-transpose", "patch", "linear-in", "linear-out", "values", "keep")
MODULE_KINDS = ("max-pool", "avg-pool", "upsample", "unflatten", "enlarge", "window")
_FEW = 12
_LARGEST_SCALE = 1024  # of a kernel: the work grows with it, and a plan may come from a stranger
_SMALL = 1 << 12  # entries of a matrix that costs nothing to try


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


@dataclass(frozen=True)
class Plan:
    """Everything that is done to a checkpoint.

    changes : one `LayerChange` per tensor
    family : name of the architecture recognised from the keys, or empty
    options : what was asked for (scale, method, ...), for the reader; the changes alone decide
    warnings : what was ambiguous, and the option that resolves it
    modules : layers without tensors that change; a checkpoint alone does not show them
    """

    changes: tuple[LayerChange, ...]
    family: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    modules: tuple[ModuleChange, ...] = ()

    @property
    def changed(self) -> tuple[LayerChange, ...]:
        """The changes that change something."""
        return tuple(change for change in self.changes if not change.kept)

    def to_json(self, *, kept: bool = True, indent: int | None = 2) -> str:
        """JSON text from which `from_json` makes the same plan; keys sorted, so equal plans give equal text.

        Parameters
        ----------
        kept : bool
            Also list the tensors that stay; a tensor that is not listed stays.
        """
        changes = self.changes if kept else self.changed
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "family": self.family,
            "options": self.options,
            "warnings": list(self.warnings),
            "changes": [_sparse(change) for change in changes],
            "modules": [asdict(module) for module in self.modules],
        }
        if not self.modules:
            del document["modules"]
        separators = (",", ":") if indent is None else None
        return json.dumps(document, indent=indent, sort_keys=True, ensure_ascii=False, separators=separators)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote, checked: unknown fields, other versions and impossible shapes are refused.

        Raises
        ------
        RekernelError
            Naming the entry and what is wrong with it.

        Examples
        --------
        >>> plan = Plan((LayerChange("a.bias", "F32", (4,), (4,), "keep", "bias or norm"),))
        >>> Plan.from_json(plan.to_json()) == plan
        True
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RekernelError(f"plan: not JSON: {error}") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise RekernelError(f'plan: not a rekernel plan; it must be an object whose "schema" is {SCHEMA!r}')
        if document.get("version") != VERSION:
            found = shown(repr(document.get("version")))
            raise RekernelError(f"plan: version {found} is not {VERSION}, which this rekernel reads; plan again")
        extra = set(document) - {"schema", "version", "family", "options", "warnings", "changes", "modules"}
        if extra:
            raise RekernelError(f"plan: unknown field {shown(sorted(extra)[0])}")
        try:
            changes = tuple(_change(entry) for entry in document["changes"])
            modules = tuple(_module(entry) for entry in document.get("modules", ()))
            family, options, warnings = document["family"], document["options"], tuple(document["warnings"])
        except KeyError as error:
            raise RekernelError(f"plan: field {error} is missing") from None
        except TypeError as error:
            raise RekernelError(f"plan: a field has the wrong type: {_inert(str(error))}") from None
        if (
            not isinstance(family, str)
            or not isinstance(options, dict)
            or not all(isinstance(w, str) for w in warnings)
        ):
            raise RekernelError("plan: family must be text, options an object and warnings a list of texts")
        repeated = [name for name, count in Counter(c.name for c in changes).items() if count > 1]
        if repeated:
            raise RekernelError(f"plan: {shown(repeated[0])} is listed twice")
        return cls(changes, family, options, warnings, modules)

    def __str__(self) -> str:
        """A table of what changes, and a line for each reason why something stays."""
        rows = [("tensor", "old shape", "new shape", "method and taps", "gain", "DC deviation")]
        rows += [
            (
                shown(c.name, 70),
                _dims(c.shape),
                _dims(c.new_shape),
                c.settings(),
                (c.operators or c.factors)[0].gain,
                f"{c.dc_deviation():.1g}",
            )
            for c in self.changed
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if not self.changed:
            lines = ["nothing changes"]
        kept = Counter(c.reason for c in self.changes if c.kept)
        lines += ["", f"{len(self.changed)} of {len(self.changes)} tensors change; kept:"] if kept else []
        lines += [f"  {count:5d}  {_inert(reason)}" for reason, count in kept.most_common(_FEW)]
        if len(kept) > _FEW:
            lines.append(f"  {sum(n for _, n in kept.most_common()[_FEW:]):5d}  other reasons")
        return "\n".join([*lines, *(f"note: {_inert(warning)}" for warning in self.warnings)])


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


def _inert(text: str) -> str:
    """A reason or note as the planner wrote it, names escaped already; of a foreign plan, escaped as a whole."""
    return text if text.isprintable() and len(text) <= 2000 else shown(text, 2000)


def _dims(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _sparse(change: LayerChange) -> dict[str, Any]:
    """The fields that differ from their defaults, so that a plan reads like what happens."""
    always = ("name", "dtype", "shape", "new_shape", "kind")
    written = asdict(change)
    return {f.name: written[f.name] for f in fields(change) if f.name in always or written[f.name] != f.default}


def _change(entry: Any) -> LayerChange:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RekernelError('plan: an entry of "changes" is no object with a name')
    name = entry["name"]
    allowed = {f.name for f in fields(LayerChange)}
    if extra := set(entry) - allowed:
        raise RekernelError(f"plan: {shown(name)}: unknown field {shown(sorted(extra)[0])}")
    for what in ("dtype", "kind", "reason", "by_hand_mode"):
        if not isinstance(entry.get(what, ""), str):
            raise RekernelError(f"plan: {shown(name)}: {what} is no text")
        if what not in entry and what != "by_hand_mode":
            raise RekernelError(f"plan: {shown(name)}: field {what!r} is missing")
    try:
        change = LayerChange(
            **{
                **entry,
                "shape": _sizes(entry["shape"]),
                "new_shape": _sizes(entry["new_shape"]),
                "view": _sizes(entry.get("view", ())),
                "operators": tuple(_axis_operator(o) for o in entry.get("operators", ())),
                "factors": tuple(_axis_operator(o) for o in entry.get("factors", ())),
                "geometry": tuple(_axis_geometry(g) for g in entry.get("geometry", ())),
                "new_geometry": tuple(_axis_geometry(g) for g in entry.get("new_geometry", ())),
                "by_hand": tuple(_pair(p) for p in entry.get("by_hand", ())),
            }
        )
        _check(change)
    except KeyError as error:
        raise RekernelError(f"plan: {shown(name)}: field {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise RekernelError(f"plan: {shown(name)}: {_inert(str(error))}") from None
    return change


def _module(entry: Any) -> ModuleChange:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(n), str) for n in ("name", "kind", "reason")):
        raise RekernelError('plan: an entry of "modules" is no object with a name, a kind and a reason')
    try:
        sides = {n: tuple(_axis_geometry(g) for g in entry[n]) for n in ("geometry", "new_geometry")}
        module = ModuleChange(**{**entry, **sides})
    except (KeyError, TypeError, ValueError) as error:
        raise RekernelError(f"plan: {shown(entry['name'])}: {_inert(str(error))}") from None
    if module.kind not in MODULE_KINDS:
        raise RekernelError(
            f"plan: {shown(module.name)}: kind {shown(module.kind)} is not one of {', '.join(MODULE_KINDS)}"
        )
    return module


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(value)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in sizes):
        raise RekernelError(f"{shown(str(sizes))} is no shape")
    return sizes


def _axis_operator(entry: Any) -> AxisOperator:
    o = AxisOperator(**entry)
    if not all(_is_whole(n) for n in (o.axis, o.old, o.new, o.dilation)):
        raise RekernelError("an operator's axis, old, new and dilation must be whole numbers")
    if not all(_is_number(x) for x in (o.scale, o.phase, o.a, o.smoothness)):
        raise RekernelError("an operator's scale, phase, a and smoothness must be finite numbers")
    return o


def _pair(value: Any) -> tuple[int, int]:
    left, right = value
    if not (_is_whole(left) and _is_whole(right)):
        raise RekernelError(f"{shown(str(value))} is no padding")
    return left, right


def _axis_geometry(entry: Any) -> AxisGeometry:
    left, right = entry["padding"]
    geometry = AxisGeometry(**{**entry, "padding": (left, right)})
    if not all(_is_whole(n) for n in (geometry.kernel, geometry.stride, left, right, geometry.dilation)):
        raise RekernelError("a geometry's entries must be whole numbers")
    return geometry


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(change: LayerChange) -> None:
    """Refuse what could not be carried out, before any file is touched."""
    if change.kind not in KINDS:
        raise RekernelError(f"kind {change.kind!r} is not one of {', '.join(KINDS)}")
    if (change.kind == "keep") != change.kept:
        raise RekernelError(f"kind {change.kind!r} with {len(change.operators)} operators contradicts itself")
    if change.kept or change.factors:
        if change.new_shape != change.shape:
            raise RekernelError(f"shape {change.shape} becomes {change.new_shape} without an operator")
        return
    if not (0 <= change.grid_axis < len(change.shape) and 0 <= change.prefix <= change.shape[change.grid_axis]):
        raise RekernelError(f"prefix {change.prefix} does not fit axis {change.grid_axis} of {change.shape}")
    cells, new_cells = math.prod(change.shape), math.prod(change.new_shape)
    if change.prefix:
        cells -= cells // change.shape[change.grid_axis] * change.prefix
        new_cells -= new_cells // max(change.new_shape[change.grid_axis], 1) * change.prefix
    if math.prod(change.view) != cells:
        raise RekernelError(f"view {change.view} does not have the {cells} cells of shape {change.shape}")
    if len({o.axis for o in change.operators}) < len(change.operators):
        raise RekernelError("two operators on one axis")
    new_view = list(change.view)
    for o in change.operators:
        if not 0 <= o.axis < len(change.view) or change.view[o.axis] != o.old:
            raise RekernelError(f"operator {o.old}->{o.new} does not fit axis {o.axis} of view {change.view}")
        if o.geometry not in ("kernel", "grid") or o.gain not in GAINS:
            raise RekernelError(f"operator geometry {o.geometry!r} or gain {o.gain!r} is unknown")
        canonical_method(o.method, KERNEL_METHODS if o.geometry == "kernel" else GRID_METHODS)
        if not 1 <= o.new < 2**20 or not 1 <= o.dilation * o.old < 2**20 or o.scale <= 0:
            raise RekernelError(f"operator {o.old}->{o.new}, dilation {o.dilation}, is impossible")
        if o.geometry == "kernel":
            if o.scale > _LARGEST_SCALE:
                raise RekernelError(f"a kernel's scale of {o.scale:g} is beyond {_LARGEST_SCALE}")
            if o.dilation * o.old * o.new <= _SMALL:
                o.matrix()  # raises where this method has no such kernel
        new_view[o.axis] = o.new
    if math.prod(new_view) != new_cells:
        raise RekernelError(f"the operators give {math.prod(new_view)} cells, new_shape {change.new_shape} {new_cells}")
