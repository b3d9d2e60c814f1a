"""Find, by the names in a file, the tensors from which a layer computes its weight: weight norm, and what is left.

Weight norm holds a direction v and a length g, and the kernel is g v/|v|. Resampling is linear and treats each row of v
alike, so the resampled kernel has the direction of the resampled v; its length is g |v'|/|v|. Spectral norm divides by
a number that depends on all taps, so its tensors stay and are named.
Scope: names and shapes. Not here: the values (see `LayerChange.lengths`).
Derivation: docs/mathematics.md, "Weight norm".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..escape import shown
from ..plan.changes import LayerChange

Shapes = Mapping[str, tuple[int, ...]]

_INSIDE = ".parametrizations.weight."
_DIRECTIONS = {"weight_v": "weight_g", "original1": "original0"}
_MORE = 2
"""A tensor with more axes than a matrix may be a kernel."""


def length_of(direction: str, shapes: Shapes) -> str:
    """The name of the tensor with the lengths of a weight norm's direction; empty for any other tensor.

    Examples
    --------
    >>> shapes = {"a.weight_v": (8, 4, 3), "a.weight_g": (8, 1, 1), "b.weight_v": (12,), "b.weight_u": (8,)}
    >>> length_of("a.weight_v", shapes), length_of("b.weight_v", shapes)
    ('a.weight_g', '')
    """
    for end, other in _DIRECTIONS.items():
        if not f".{direction}".endswith(f".{end}") or (end == "original1" and _INSIDE not in f".{direction}"):
            continue
        length = f"{direction.removesuffix(end)}{other}"
        shape, whole = shapes.get(length), shapes[direction]
        if shape is None or len(whole) <= 1:
            return ""
        # One length for each entry of one axis, or one for all.
        others = [n for n, m in zip(shape, whole, strict=False) if n != m]
        if not shape or (len(shape) == len(whole) and all(n == 1 for n in others) and len(others) >= len(whole) - 1):
            return length
    return ""


def is_length(name: str, shapes: Shapes) -> bool:
    """Whether a tensor holds the lengths of a weight norm.

    Examples
    --------
    >>> is_length("a.weight_g", {"a.weight_v": (8, 4, 3), "a.weight_g": (8, 1, 1)})
    True
    """
    for end, other in _DIRECTIONS.items():
        direction = f"{name.removesuffix(other)}{end}"
        if name.endswith(other) and direction in shapes and length_of(direction, shapes) == name:
            return True
    return False


def computed_from(name: str, shapes: Shapes) -> str:
    """What a layer computes from a tensor with a kernel, if that is not a weight norm: a reason to leave it, or empty.

    Examples
    --------
    >>> shapes = {"a.weight_orig": (8, 4, 3, 3), "a.weight_u": (8,), "b.weight": (8, 4, 3, 3)}
    >>> computed_from("a.weight_orig", shapes)[:30], computed_from("b.weight", shapes)
    ('a spectral norm divides it by ', '')
    """
    if len(shapes[name]) <= _MORE or max(shapes[name][2:]) == 1:
        return ""
    where, _, end = f".{name}".rpartition(".")
    layer = where.removeprefix(".")
    inside = f"{layer}." if layer else ""
    if end == "weight_orig" and f"{inside}weight_mask" in shapes:
        return "it is pruned; apply torch.nn.utils.prune.remove to the layer, save it and convert again"
    spectral = end == "weight_orig" or (end == "original" and f"{inside}0._u" in shapes)
    if spectral:
        return (
            "a spectral norm divides it by a number that rescaling changes; remove the norm "
            "(torch.nn.utils.remove_spectral_norm, or torch.nn.utils.parametrize.remove_parametrizations), save the "
            "weights and convert again, or use rekernel.torch.rescale on the model"
        )
    if f".{layer}.".endswith(_INSIDE) and end.startswith("original") and not length_of(name, shapes):
        if is_length(name, shapes):
            return ""
        return (
            "a parametrisation that the names do not tell computes the weight from it; call "
            "torch.nn.utils.parametrize.remove_parametrizations, save the weights and convert again, or use "
            "rekernel.torch.rescale on the model"
        )
    return ""


def by_tap(change: LayerChange, shapes: Shapes) -> bool:
    """Whether a weight norm has a length for each tap of a kernel that is to be resampled, along an axis of taps."""
    length = length_of(change.name, shapes)
    shape = shapes[length] if length else ()
    return any(shape and shape[o.axis] != 1 for o in change.operators)


def with_lengths(changes: Sequence[LayerChange], shapes: Shapes, dtypes: Mapping[str, str]) -> list[LayerChange]:
    """The changes of a plan, with those of the lengths of each weight norm whose direction changes.

    Examples
    --------
    >>> from rekernel.plan.changes import AxisOperator
    >>> shapes = {"a.weight_v": (8, 4, 3), "a.weight_g": (8, 1, 1)}
    >>> grow = (AxisOperator(2, 3, 5, "kernel", 2.0, "optimal", "dc"),)
    >>> v = LayerChange("a.weight_v", "F32", (8, 4, 3), (8, 4, 5), "conv", "", (8, 4, 3), grow)
    >>> g = LayerChange.unchanged("a.weight_g", "F32", (8, 1, 1), "")
    >>> [change.kind for change in with_lengths([v, g], shapes, {"a.weight_g": "F32"})]
    ['conv', 'length']
    """
    found = {}
    for change in changes:
        if not change.kept and change.operators and (length := length_of(change.name, shapes)):
            found[length] = LayerChange(
                length, dtypes[length], shapes[length], shapes[length], "length",
                f"length of {shown(change.name)}: keeps the kernel that the two make", view=change.view,
                operators=change.operators, mode=change.mode, length_of=change.name,
            )  # fmt: skip
    return [replace(found[c.name]) if c.name in found else c for c in changes]
