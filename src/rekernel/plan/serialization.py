"""The entries of a plan's JSON: defaults are left out when writing, every field is checked when reading.

Scope: JSON values and `plan.changes`. Not here: the document around the entries (see `plan.plan`). A plan may come from
an untrusted file: a change that cannot be carried out is refused here, before any file is touched. Format:
docs/recipe.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, get_args

from ..errors import RekernelError
from ..escape import inert, shown
from ..resampling.methods import READING_FILTERS
from .bounds import LARGEST_SIZE, MOST_AXES, check_geometry, check_numbers, check_operator, is_number, is_whole
from .changes import FORMS, KINDS, MODULE_KINDS, AxisGeometry, AxisOperator, LayerChange, Mode, ModuleChange

_LARGEST = 1 << 20  # scale of a plan: above every possible matrix, and small enough to multiply sizes with
_ORIGINS = ("names", "trace", "onnx")
_FORMS = ("", *FORMS)
_LISTS = ("shape", "new_shape", "view", "operators", "factors", "geometry", "new_geometry", "by_hand")
_MODES_OF_KINDS = {"patch": "absorb", "linear-in": "absorb", "linear-out": "supersample", "values": "supersample"}


def filled(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object of a plan, with the fields that rekernel 0.1.0 did not write.

    The fields are read from the options and reasons of the plan. Every later plan has "origin", and is returned
    unchanged. No other function reads options and reasons.

    Examples
    --------
    >>> filled({"options": {"scale": [2.0], "form": "dense", "size": [8]}, "changes": []})["origin"]
    'trace'
    """
    if "origin" in document:
        return dict(document)
    given, changes = document.get("options"), document.get("changes")
    options = given if isinstance(given, dict) else {}
    traced = "form" in options
    told = {what: options[what] for what in ("scale", *(("size", "form") if traced else ())) if what in options}
    told["origin"] = "trace" if traced else "onnx" if document.get("family") == "ONNX graph" else "names"
    if isinstance(changes, list):
        changes = [_with_mode(entry) if isinstance(entry, dict) else entry for entry in changes]
        return {**told, **document, "changes": changes}
    return {**told, **document}


def _with_mode(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of "changes" with the mode; 0.1.0 wrote the mode as the last word of a convolution's reason."""
    kind, reason = entry.get("kind"), entry.get("reason")
    mode = _MODES_OF_KINDS.get(kind, "") if isinstance(kind, str) else ""
    if kind in ("conv", "conv-transpose") and isinstance(reason, str):
        mode = "absorb" if reason.endswith("absorbs") else "supersample" if reason.endswith("supersamples") else ""
    return {**({"mode": mode} if mode else {}), **entry}


def facts_written(origin: str, scale: tuple[float, ...] | float, size: tuple[int, ...], form: str) -> dict[str, Any]:
    """Return the origin, and those of scale, size and form that differ from their defaults, for the JSON object.

    A plan without an origin was written by 0.1.0. `filled` reads the fields of that plan from the options.

    Examples
    --------
    >>> facts_written("names", (2.0, 1.5), (), "")
    {'origin': 'names', 'scale': [2.0, 1.5]}
    """
    plain = list(scale) if isinstance(scale, tuple) else scale
    others = {"scale": (plain, 1.0), "size": (list(size), []), "form": (form, "")}
    return {"origin": origin, **{what: value for what, (value, default) in others.items() if value != default}}


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Read and check the origin, scale, size and form in the JSON object of a plan.

    Raises
    ------
    RekernelError
        If a field has a wrong value; the message names the field.
    """
    origin, form = document.get("origin"), document.get("form", "")
    scale, size = document.get("scale", 1.0), document.get("size", [])
    for what, value, allowed in (("origin", origin, _ORIGINS), ("form", form, _FORMS)):
        if not isinstance(value, str) or value not in allowed:
            names = ", ".join(filter(None, allowed))
            raise RekernelError(f"plan: {what}: {shown(str(value), 80)} is not one of {names}")
    scales = scale if isinstance(scale, list) else [scale]
    if not scales or not all(is_number(s) and 0 < s <= _LARGEST for s in scales):
        raise RekernelError(
            f"plan: scale: {shown(str(scale), 80)} is not a number above 0 and up to {_LARGEST}, or a list of them"
        )
    if not isinstance(size, list) or not all(is_whole(n) and 0 < n < 2**48 for n in size):
        raise RekernelError(f"plan: size: {shown(str(size), 80)} is not a list of whole numbers above 0")
    return {
        "origin": origin,
        "scale": tuple(map(float, scale)) if isinstance(scale, list) else float(scale),
        "size": tuple(size),
        "form": form,
    }


def sparse(change: LayerChange) -> dict[str, Any]:
    """Return the fields that differ from their defaults, so that the JSON of a plan stays readable."""
    always = ("name", "dtype", "shape", "new_shape", "kind")
    written = asdict(change)
    return {f.name: written[f.name] for f in fields(change) if f.name in always or written[f.name] != f.default}


def change_of(entry: Any) -> LayerChange:
    """Read and check the change in an entry of "changes".

    Raises
    ------
    RekernelError
        If a field or its type is wrong, or the change cannot be carried out; the message names the tensor.

    Examples
    --------
    >>> keep = {"name": "a.bias", "dtype": "F32", "shape": [4], "new_shape": [4], "kind": "keep", "reason": "bias"}
    >>> change_of(keep).shape
    (4,)
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RekernelError('plan: an entry of "changes" is not an object with a name')
    name = entry["name"]
    allowed = {f.name for f in fields(LayerChange)}
    if extra := set(entry) - allowed:
        raise RekernelError(f"plan: {shown(name)}: unknown field {shown(sorted(extra)[0])}")
    for what in ("dtype", "kind", "reason", "by_hand_mode", "padding_mode", "mode", "length_of"):
        if not isinstance(entry.get(what, ""), str):
            raise RekernelError(f"plan: {shown(name)}: {what} is not text")
        if what not in entry and what not in ("by_hand_mode", "padding_mode", "mode", "length_of"):
            raise RekernelError(f"plan: {shown(name)}: field {what!r} is missing")
    if not all(is_whole(entry.get(what, 0)) for what in ("prefix", "grid_axis")):
        raise RekernelError(f"plan: {shown(name)}: prefix and grid_axis must be whole numbers")
    _check_lists(entry, _LISTS)
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
        check_change(change)
    except KeyError as error:
        raise RekernelError(f"plan: {shown(name)}: field {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise RekernelError(f"plan: {shown(name)}: {inert(str(error))}") from None
    return change


def sparse_module(module: ModuleChange) -> dict[str, Any]:
    """The entry of a module, without a method or padding by hand if it has none."""
    return {key: value for key, value in asdict(module).items() if value or key not in ("method", "by_hand")}


def module_of(entry: Any) -> ModuleChange:
    """Read and check the change in an entry of "modules"; raises the errors of `change_of`."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(n), str) for n in ("name", "kind", "reason")):
        raise RekernelError('plan: an entry of "modules" is not an object with a name, a kind and a reason')
    _check_lists(entry, ("geometry", "new_geometry", "by_hand"))
    try:
        sides = {n: tuple(_axis_geometry(g) for g in entry[n]) for n in ("geometry", "new_geometry")}
        module = ModuleChange(**{**entry, **sides, "by_hand": tuple(_pair(p) for p in entry.get("by_hand", ()))})
    except (KeyError, TypeError, ValueError) as error:
        raise RekernelError(f"plan: {shown(entry['name'])}: {inert(str(error))}") from None
    if not isinstance(module.method, str) or (module.method and module.method not in READING_FILTERS):
        raise RekernelError(
            f"plan: {shown(module.name)}: method {shown(repr(module.method))} is not one of "
            f"{', '.join(READING_FILTERS)}"
        )
    if module.kind not in MODULE_KINDS:
        raise RekernelError(
            f"plan: {shown(module.name)}: kind {shown(module.kind)} is not one of {', '.join(MODULE_KINDS)}"
        )
    return module


def _check_lists(entry: Mapping[str, Any], names: Sequence[str]) -> None:
    for what in names:
        if not isinstance(entry.get(what, []), list):
            raise RekernelError(f"plan: {shown(entry['name'])}: {what} is not a list")


def _sizes(value: Any) -> tuple[int, ...]:
    sizes = tuple(value)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in sizes):
        raise RekernelError(f"{shown(str(sizes))} is not a shape")
    return sizes


def _axis_operators(entry: Mapping[str, Any], field: str) -> tuple[AxisOperator, ...]:
    operators = []
    for i, values in enumerate(entry.get(field, ())):
        with _entry(field, i):
            operators.append(_axis_operator(values))
    return tuple(operators)


def _axis_operator(values: Any) -> AxisOperator:
    o = AxisOperator(**values)
    check_numbers(o)
    return o


@contextmanager
def _entry(field: str, i: int) -> Iterator[None]:
    """Name the operator in the errors that the block raises."""
    try:
        yield
    except (RekernelError, TypeError, ValueError) as error:
        raise RekernelError(f"{field}[{i}]: {inert(str(error))}") from None


def _pair(value: Any) -> tuple[int, int]:
    left, right = value
    if not all(is_whole(side) and abs(side) <= LARGEST_SIZE for side in (left, right)):
        raise RekernelError(f"{shown(str(value))} is not a padding")
    return left, right


def _axis_geometry(entry: Any) -> AxisGeometry:
    left, right = entry["padding"]
    geometry = AxisGeometry(**{**entry, "padding": (left, right)})
    check_geometry(geometry)
    return geometry


def check_change(change: LayerChange) -> None:
    """Raise if a change cannot be carried out, before any file is touched.

    Examples
    --------
    >>> check_change(LayerChange("a", "F32", (4,), (5,), "keep", "bias"))
    Traceback (most recent call last):
    rekernel.errors.RekernelError: shape (4,) becomes (5,) without an operator
    """
    if change.kind not in KINDS:
        raise RekernelError(f"kind {change.kind!r} is not one of {', '.join(KINDS)}")
    if change.mode not in get_args(Mode):
        raise RekernelError(f"mode {shown(change.mode, 80)} is not one of {', '.join(filter(None, get_args(Mode)))}")
    for field, modes in (("padding_mode", ("replicate",)), ("by_hand_mode", ("reflect", "replicate", "circular"))):
        if getattr(change, field) not in ("", *modes):
            raise RekernelError(f"{field} {shown(getattr(change, field), 80)} is not one of {', '.join(modes)}")
    if (change.kind == "keep") != change.kept:
        raise RekernelError(f"kind {change.kind!r} with {len(change.operators)} operators contradicts itself")
    if change.operators and change.factors:
        raise RekernelError("has operators and factors; a change has one or the other")
    if (change.kind == "length") != bool(change.length_of):
        raise RekernelError(f"kind {change.kind!r} with length_of {shown(change.length_of)} contradicts itself")
    if change.kind == "length":
        _check_length(change)
        return
    if not change.operators and change.new_shape != change.shape:
        raise RekernelError(f"shape {change.shape} becomes {change.new_shape} without an operator")
    if change.kept:
        return
    if max(len(change.shape), len(change.view)) > MOST_AXES:
        raise RekernelError(f"{max(len(change.shape), len(change.view))} axes are more than {MOST_AXES}")
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
                if field == "factors" and o.geometry == "grid":
                    raise RekernelError("a factor must be a kernel, not a grid")
                check_operator(o, change.view)
            if field == "operators":
                new_view[o.axis] = o.new
    if math.prod(new_view) != new_cells:
        raise RekernelError(f"the operators give {math.prod(new_view)} cells, new_shape {change.new_shape} {new_cells}")


def _check_length(change: LayerChange) -> None:
    """Raise if the lengths of a weight norm cannot be those of the direction that the operators change."""
    if not change.operators or change.new_shape != change.shape or change.prefix or change.factors:
        raise RekernelError("a length keeps its shape and repeats the operators of its direction")
    if change.shape and len(change.shape) != len(change.view):
        raise RekernelError(f"lengths of shape {change.shape} do not fit a direction of shape {change.view}")
    for i, o in enumerate(change.operators):
        with _entry("operators", i):
            check_operator(o, change.view)
            if change.shape and change.shape[o.axis] != 1:
                raise RekernelError(f"has {change.shape[o.axis]} lengths along axis {o.axis}, which is resampled")
