"""The entries of a plan's JSON: written without what is a default, read with every field checked.

Knows JSON values and `changes`; not the document around them (`plan`). A plan may come from a stranger: what could not
be carried out is refused here, before any file is touched. Format: docs/recipe.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

from ..errors import RekernelError
from ..escape import shown
from ..resampling.methods import GAINS, GRID_METHODS, KERNEL_METHODS, canonical_method
from .changes import KINDS, MODULE_KINDS, AxisGeometry, AxisOperator, LayerChange, ModuleChange

_LARGEST_SCALE = 1024  # of a kernel: the work grows with it, and a plan may come from a stranger
_SMALL = 1 << 12  # entries of a matrix that costs nothing to try


def sparse(change: LayerChange) -> dict[str, Any]:
    """The fields that differ from their defaults, so that a plan reads like what happens."""
    always = ("name", "dtype", "shape", "new_shape", "kind")
    written = asdict(change)
    return {f.name: written[f.name] for f in fields(change) if f.name in always or written[f.name] != f.default}


def change_of(entry: Any) -> LayerChange:
    """The change that an entry of "changes" says.

    Raises
    ------
    RekernelError
        Naming the tensor and what is wrong: a field, its type, or a change that could not be carried out.

    Examples
    --------
    >>> keep = {"name": "a.bias", "dtype": "F32", "shape": [4], "new_shape": [4], "kind": "keep", "reason": "bias"}
    >>> change_of(keep).shape
    (4,)
    """
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
                "operators": _axis_operators(entry, "operators"),
                "factors": _axis_operators(entry, "factors"),
                "geometry": tuple(_axis_geometry(g) for g in entry.get("geometry", ())),
                "new_geometry": tuple(_axis_geometry(g) for g in entry.get("new_geometry", ())),
                "by_hand": tuple(_pair(p) for p in entry.get("by_hand", ())),
            }
        )
        _check(change)
    except KeyError as error:
        raise RekernelError(f"plan: {shown(name)}: field {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise RekernelError(f"plan: {shown(name)}: {inert(str(error))}") from None
    return change


def module_of(entry: Any) -> ModuleChange:
    """The change that an entry of "modules" says; errors as for `change_of`."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(n), str) for n in ("name", "kind", "reason")):
        raise RekernelError('plan: an entry of "modules" is no object with a name, a kind and a reason')
    try:
        sides = {n: tuple(_axis_geometry(g) for g in entry[n]) for n in ("geometry", "new_geometry")}
        module = ModuleChange(**{**entry, **sides})
    except (KeyError, TypeError, ValueError) as error:
        raise RekernelError(f"plan: {shown(entry['name'])}: {inert(str(error))}") from None
    if module.kind not in MODULE_KINDS:
        raise RekernelError(
            f"plan: {shown(module.name)}: kind {shown(module.kind)} is not one of {', '.join(MODULE_KINDS)}"
        )
    return module


def inert(text: str) -> str:
    """A reason or note as the planner wrote it, names escaped already; of a foreign plan, escaped as a whole."""
    return text if text.isprintable() and len(text) <= 2000 else shown(text, 2000)


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(value)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in sizes):
        raise RekernelError(f"{shown(str(sizes))} is no shape")
    return sizes


def _axis_operators(entry: Mapping[str, Any], field: str) -> tuple[AxisOperator, ...]:
    operators = []
    for i, values in enumerate(entry.get(field, ())):
        with _entry(field, i):
            operators.append(_axis_operator(values))
    return tuple(operators)


def _axis_operator(values: Any) -> AxisOperator:
    o = AxisOperator(**values)
    if not all(_is_whole(n) for n in (o.axis, o.old, o.new, o.dilation)):
        raise RekernelError("an operator's axis, old, new and dilation must be whole numbers")
    if not all(_is_number(x) for x in (o.scale, o.phase, o.a, o.smoothness)):
        raise RekernelError("an operator's scale, phase, a and smoothness must be finite numbers")
    if not all(isinstance(text, str) for text in (o.geometry, o.method, o.gain)):
        raise RekernelError("an operator's geometry, method and gain must be text")
    return o


@contextmanager
def _entry(field: str, i: int) -> Iterator[None]:
    """Say in an error which operator it is about."""
    try:
        yield
    except (RekernelError, TypeError, ValueError) as error:
        raise RekernelError(f"{field}[{i}]: {inert(str(error))}") from None


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
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_whole(value) and abs(value) <= 2**53  # a larger one may be no float at all


def _check(change: LayerChange) -> None:
    """Refuse what could not be carried out, before any file is touched."""
    if change.kind not in KINDS:
        raise RekernelError(f"kind {change.kind!r} is not one of {', '.join(KINDS)}")
    if (change.kind == "keep") != change.kept:
        raise RekernelError(f"kind {change.kind!r} with {len(change.operators)} operators contradicts itself")
    if change.operators and change.factors:
        raise RekernelError("has operators and factors; a change has one or the other")
    if not change.operators and change.new_shape != change.shape:
        raise RekernelError(f"shape {change.shape} becomes {change.new_shape} without an operator")
    if change.kept:
        return
    if not (0 <= change.grid_axis < len(change.shape) and 0 <= change.prefix <= change.shape[change.grid_axis]):
        raise RekernelError(f"prefix {change.prefix} does not fit axis {change.grid_axis} of {change.shape}")
    cells, new_cells = math.prod(change.shape), math.prod(change.new_shape)
    if change.prefix:
        cells -= cells // change.shape[change.grid_axis] * change.prefix
        new_cells -= new_cells // max(change.new_shape[change.grid_axis], 1) * change.prefix
    if math.prod(change.view) != cells:
        raise RekernelError(f"view {change.view} does not have the {cells} cells of shape {change.shape}")
    new_view = list(change.view)
    for field, operators in (("operators", change.operators), ("factors", change.factors)):
        if len({o.axis for o in operators}) < len(operators):
            raise RekernelError(f"{field}: two operators on one axis")
        for i, o in enumerate(operators):
            with _entry(field, i):
                _check_operator(o, change.view)
                if field == "factors" and o.geometry != "kernel":
                    raise RekernelError("a factor is a kernel, and not a grid")
            if field == "operators":
                new_view[o.axis] = o.new
    if math.prod(new_view) != new_cells:
        raise RekernelError(f"the operators give {math.prod(new_view)} cells, new_shape {change.new_shape} {new_cells}")


def _check_operator(o: AxisOperator, view: tuple[int, ...]) -> None:
    """Refuse an operator that does not fit the view, or has no matrix of a size that can be computed."""
    if not 0 <= o.axis < len(view) or view[o.axis] != o.old:
        raise RekernelError(f"operator {o.old}->{o.new} does not fit axis {o.axis} of view {view}")
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
