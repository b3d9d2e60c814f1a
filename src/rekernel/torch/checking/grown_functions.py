"""Tell whether a torch function keeps its meaning where its grid grows, from its arguments at the old and the new size.

The world is closed: a function that no table names is noted where its grid grows. Noted, too, is every function that
counts pixels: sums over them, cuts or shifts by a number of them, groups of them, coordinates that count them.
Scope: one function at a time. Not here: layers, which the planner changes (see `torch.planning.follow`), the names
(see `checking.function_names`), and putting the two passes side by side (see `checking.two_passes`).
Source: ours; a sum over all pixels of a picture grows with their number, a mean does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..tracing.functions import argument, reduced_axes
from ..tracing.steps import READS, Operand, Step
from .function_names import ARITHMETIC, BENDS, GROW_WITH_PIXELS, KNOWN, PRODUCTS, STEPS, plain_name
from .grown_shapes import Sizes, cut_evenly, even, group_of_pixels, parts_by_axis

_ALIKE = 1.25  # coordinates that grow by less keep their scale: the last of them moves with the size of a pixel


@dataclass(frozen=True)
class Pair:
    """One function at the trained and at the new size.

    old, new : the two calls
    handled : whether a layer takes over this explicit padding
    scales : new pixels per old pixel, one per axis of the image
    batch : number of pictures
    """

    old: Step
    new: Step
    handled: bool = False
    scales: tuple[float, ...] = (2.0,)
    batch: int = 1

    @property
    def name(self) -> str:
        return plain_name(self.old.name)

    @property
    def operands(self) -> list[tuple[Operand, Operand]]:
        """The tensors that were computed from the image and that grow, at both sizes."""
        pairs = zip(self.old.operands, self.new.operands, strict=False)
        return [(a, b) for a, b in pairs if a.image and a.shape != b.shape]

    def sizes(self, axis: int) -> tuple[int, int]:
        """The sizes of an axis of the first tensor."""
        a, b = self.old.operands[0].shape, self.new.operands[0].shape
        return (a[axis], b[axis]) if -len(a) <= axis < len(a) and len(a) == len(b) else (1, 1)

    def both(self, position: int, name: str, default: Any = None) -> tuple[Any, Any]:
        """An argument at both sizes."""
        old, new = self.old, self.new
        return (
            argument(old.args, old.kwargs, position, name, default),
            argument(new.args, new.kwargs, position, name, default),
        )


def finding(pair: Pair) -> str:
    """How a function fails to keep its meaning on the larger grid, with the way out; empty if it keeps it.

    Examples
    --------
    >>> small, large = Operand((1, 4, 8, 8), image=True), Operand((1, 4, 16, 16), image=True)
    >>> old, new = (Step("sum", "", (x, (2, 3)), {}, (Operand((1, 4), image=True),)) for x in (small, large))
    >>> finding(Pair(old, new))
    'sum over 256 pixels instead of 64, so the result is 4 times as large; divide it by 4, or take the mean'
    """
    if told := _coordinates(pair) or _table(pair) or _numbers(pair):
        return told
    if not pair.operands:
        return ""
    name = pair.name
    if name in STEPS:
        return f"{name} takes one step for each position, and there are more of them; its weights stay for the old step"
    if name not in KNOWN:
        return (
            f"{name} is a function that rekernel does not know on a grid that grows; compare the answers "
            f"(rekernel.torch.equivariance_error)"
        )
    if name in GROW_WITH_PIXELS:
        return _total(pair)
    if name in PRODUCTS:
        return _product(pair)
    rule = _RULES.get(name)
    return rule(pair) if rule is not None else ""


def _coordinates(pair: Pair) -> str:
    """Coordinates that count pixels, where they meet the image or lose their scale."""
    bends = pair.name in BENDS
    if not bends and not any(o.image for o in pair.old.operands):
        return ""
    if pair.name in ("getitem", "view", "reshape", "expand"):  # they pass the coordinates on
        return ""
    for a, b in zip(pair.old.operands, pair.new.operands, strict=False):
        if not a.counts or a.shape == b.shape or not a.shape:
            continue
        if math.isnan(a.largest) or math.isnan(b.largest):
            return f"{pair.name} uses coordinates made from the size of the grid; they have to count trained pixels"
        if a.largest > 0 and abs(math.log(max(b.largest, 1e-30) / a.largest)) > math.log(_ALIKE):
            return (
                f"{pair.name} uses coordinates that count pixels, up to {b.largest:g} instead of {a.largest:g}; "
                f"divide them by the scale"
            )
    return ""


def _table(pair: Pair) -> str:
    """A part of a table that the model holds, as long as the grid: positions, windows, fades."""
    old, new = (step.operands[:1] for step in (pair.old, pair.new))
    if pair.old.name not in READS or not old or not new or not (old[0].held and old[0].shape == new[0].shape):
        return ""
    before, after = (step.results[0].shape for step in (pair.old, pair.new))
    longer = [(a, b) for a, b in zip(before, after, strict=False) if a != b]
    if len(before) != len(after) or not longer:
        return ""
    return (
        f"{pair.name} reads {longer[0][1]} entries of a table that the model holds, instead of {longer[0][0]}: the "
        f"table goes on where it should become finer; interpolate it"
    )


def _numbers(pair: Pair) -> str:
    """A number that the model's code takes from the size of the grid."""
    found = numbers(pair)
    if found is None:
        return ""
    return (
        f"{pair.name} by {found[1]:g} instead of {found[0]:g}, a number that the code takes from the size of the grid"
    )


def numbers(pair: Pair) -> tuple[float, float] | None:
    """The number by which a function adds, multiplies or divides, at both sizes; None where it is the same."""
    if pair.name not in ARITHMETIC or not any(o.image for o in pair.old.operands):
        return None
    for a, b in zip(pair.old.args, pair.new.args, strict=False):
        plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
        if plain and abs(a - b) > 1e-6 * max(abs(a), abs(b)):
            return float(a), float(b)
    return None


def growth(pair: Pair) -> float:
    """By how much the result of a sum over pixels grows with their number; 0 where it does not."""
    if pair.name not in ("sum", "nansum") and pair.name not in PRODUCTS:
        return 0.0
    before, after = _pixels(pair) if pair.name not in PRODUCTS else _pixels_of_product(pair)
    return after / before if before != after and before else 0.0


def _total(pair: Pair) -> str:
    power, name = GROW_WITH_PIXELS[pair.name], pair.name
    before, after = _pixels(pair)
    if before == after:
        return ""
    what = f"{name} over {after} pixels instead of {before}"
    if not power:
        return f"{what}, which changes its meaning"
    factor = (after / before) ** power
    if name == "normalize":
        return f"{what}, so the result is {1 / factor:g} times as large; multiply it by {factor:g}"
    return f"{what}, so the result is {factor:g} times as large; divide it by {factor:g}, or take the mean"


def _pixels(pair: Pair) -> Sizes:
    """Number of pixels that a reduction goes over at both sizes, (1, 1) where the weights of a mean are among them."""
    name = pair.name
    axes = reduced_axes(name, pair.old.args, pair.old.kwargs)
    if name in ("normalize", "cumsum", "cumprod", "logcumsumexp", "log_softmax"):
        axes = (pair.both(*((2, "dim", 1) if name == "normalize" else (1, "dim", 0)))[0],)
    elif name in ("dist", "pdist", "cdist", "inner"):
        axes = (-1,)
    every = axes if axes else range(len(pair.old.operands[0].shape))
    sizes = [pair.sizes(axis) for axis in every if isinstance(axis, int)]
    before, after = (math.prod(side) for side in zip(*sizes, strict=True)) if sizes else (1, 1)
    weighed = [o.weighs for o in pair.old.operands if o.weighs]
    if all(a == b for a, b in sizes) or (name == "sum" and before in weighed):
        return 1, 1
    return before, after


def _product(pair: Pair) -> str:
    """A product of matrices that sums over pixels, unless the weights of a mean are one of them."""
    before, after = _pixels_of_product(pair)
    if before == after:
        return ""
    return (
        f"{pair.name} sums over {after} pixels instead of {before}, so the result is {after / before:g} times as "
        f"large; divide it by {after / before:g}"
    )


def _pixels_of_product(pair: Pair) -> Sizes:
    """Number of entries that a product sums over at both sizes, (1, 1) where it takes a mean with weights."""
    before, after = _summed(pair.old, pair.name), _summed(pair.new, pair.name)
    weighed = any(o.weighs == before for o in pair.old.operands)
    return (1, 1) if weighed or pair.name in ("linear", "bilinear") else (before, after)


def _summed(step: Step, name: str) -> int:
    """Number of entries that a product sums over."""
    operands = step.operands
    if name == "einsum":
        return _summed_letters(step)
    if name in ("baddbmm", "addmm", "addbmm"):
        operands = operands[1:]
    return operands[0].shape[-1] if operands and operands[0].shape else 1


def _summed_letters(step: Step) -> int:
    equation = next((a for a in step.args if isinstance(a, str)), "").replace(" ", "")
    left, _, right = equation.partition("->")
    if "->" not in equation or "." in left:
        left, right = left.replace("...", ""), right.replace("...", "")
    sizes: dict[str, int] = {}
    for letters, operand in zip(left.split(","), step.operands, strict=False):
        sizes.update(zip(letters[::-1], operand.shape[::-1], strict=False))
    return math.prod(size for letter, size in sizes.items() if letter not in right)


def _cut(pair: Pair) -> str:
    """Indices and slices of axes that grow."""
    old, new = pair.old.operands[0], pair.new.operands[0]
    before, after = parts_by_axis(pair.old.args[1], len(old.shape)), parts_by_axis(pair.new.args[1], len(new.shape))
    for axis, (a, b) in enumerate(zip(before, after, strict=False)):
        sizes = pair.sizes(axis)
        if sizes[0] != sizes[1] and (text := _part(a, b, sizes, pair)):
            return text
    return ""


def _part(a: Any, b: Any, sizes: Sizes, pair: Pair) -> str:
    if isinstance(a, Operand):
        grows = isinstance(b, Operand) and a.shape != b.shape
        return "" if grows and not a.counts else "an index picks pixels by number"
    if isinstance(a, slice) and isinstance(b, slice):
        (start, stop, step), (new_start, new_stop, _) = a.indices(sizes[0]), b.indices(sizes[1])
        if abs(step) != 1:
            return ""  # the planner notes a step over pixels
        cuts = (start, new_start), (sizes[0] - stop, sizes[1] - new_stop)
        return "" if cut_evenly(cuts, sizes, pair.scales) else _cuts(cuts, sizes)
    if isinstance(a, int) and isinstance(b, int) and not isinstance(a, bool):
        at, place = a % sizes[0], b % sizes[1]
        if at in (0, sizes[0] - 1) or even(at, place, sizes):
            return ""
        return f"an index takes pixel {at} of {sizes[0]}, and pixel {place} of {sizes[1]}"
    return ""


def _cuts(cuts: Sequence[Sizes], sizes: Sizes) -> str:
    old, new = ("+".join(str(cut[side]) for cut in cuts) for side in (0, 1))
    return (
        f"a slice cuts {new} of {sizes[1]} pixels, where it cut {old} of {sizes[0]}; cut {sizes[1] / sizes[0]:g} "
        f"times as many"
    )


def _narrow(pair: Pair) -> str:
    (dim, _), (start, new_start), (length, new_length) = (
        pair.both(i, n) for i, n in ((1, "dim"), (2, "start"), (3, "length"))
    )
    if not all(isinstance(v, int) for v in (dim, start, new_start, length, new_length)):
        return ""
    sizes = pair.sizes(dim)
    cuts = (start % sizes[0], new_start % sizes[1]), (sizes[0] - start - length, sizes[1] - new_start - new_length)
    return "" if sizes[0] == sizes[1] or cut_evenly(cuts, sizes, pair.scales) else _cuts(cuts, sizes)


def _select(pair: Pair) -> str:
    (dim, _), (index, new_index) = pair.both(1, "dim"), pair.both(2, "index")
    sizes = pair.sizes(dim) if isinstance(dim, int) else (1, 1)
    return "" if sizes[0] == sizes[1] else _part(index, new_index, sizes, pair)


def _split(pair: Pair) -> str:
    dim = pair.both(2, "dim", 0)[0]
    old, new = pair.both(1, "split_size")
    sizes = pair.sizes(dim) if isinstance(dim, int) else (1, 1)
    if sizes[0] == sizes[1] or old != new:
        return ""
    if isinstance(old, tuple) and cut_evenly(((sum(old[:-1]),) * 2, (0, 0)), sizes, pair.scales):
        return ""  # tokens in front of the image
    return f"split takes parts of {old} of {sizes[1]} pixels, as of {sizes[0]}"


def _unbind(pair: Pair) -> str:
    sizes = pair.sizes(pair.both(1, "dim", 0)[0])
    return "" if sizes[0] == sizes[1] else f"unbind takes {sizes[1]} pixels one by one instead of {sizes[0]}"


def _windows(pair: Pair) -> str:
    """`Tensor.unfold`: windows along one axis. The planner notes `F.unfold`."""
    dim = pair.both(1, "dimension")[0]
    if len(pair.old.args) + len(pair.old.kwargs) != 4 or not isinstance(dim, int):
        return ""
    sizes = pair.sizes(dim)
    return "" if sizes[0] == sizes[1] else f"unfold takes windows of {pair.both(2, 'size')[0]} pixels, as before"


def _roll(pair: Pair) -> str:
    (old, new), (dims, _) = pair.both(1, "shifts"), pair.both(2, "dims")
    shifts, after, axes = (v if isinstance(v, tuple) else (v,) for v in (old, new, dims))
    for shift, new_shift, axis in zip(shifts, after, axes, strict=False):
        sizes = pair.sizes(axis) if isinstance(axis, int) else (1, 2)
        if sizes[0] != sizes[1] and not even(shift, new_shift, sizes):
            return f"roll by {new_shift} of {sizes[1]} pixels, as by {shift} of {sizes[0]}; roll by as much of the grid"
    return ""


def _regroup(pair: Pair) -> str:
    """A reshape that puts a fixed number of pixels into an axis of their own."""
    (old, new) = (step.results[0].shape for step in (pair.old, pair.new))
    a, b = pair.old.operands[0].shape, pair.new.operands[0].shape
    group = group_of_pixels((a, b), (old, new), pair.batch, pair.scales)
    if group == 1:
        return ""
    return f"{pair.name} splits the grid into groups of {group} pixels; each covers a smaller part of the image"


def _pad(pair: Pair) -> str:
    """Explicit padding that no layer takes over."""
    old, new = pair.both(1, "pad")
    if pair.handled or not isinstance(old, tuple) or not isinstance(new, tuple):
        return ""
    for i in range(0, len(old) - 1, 2):
        sizes = pair.sizes(-1 - i // 2)
        whole = sizes[0] + old[i] + old[i + 1], sizes[1] + new[i] + new[i + 1]
        if sizes[0] == sizes[1] or not any((*old[i : i + 2], *new[i : i + 2])):
            continue
        if not (even(old[i], new[i], sizes) and even(*whole, sizes)):
            return (
                f"pad adds {new[i]}+{new[i + 1]} pixels to {sizes[1]}, as {old[i]}+{old[i + 1]} to {sizes[0]}; add "
                f"{sizes[1] / sizes[0]:g} times as many"
            )
    return ""


def _interpolate(pair: Pair) -> str:
    if not pair.both(4, "align_corners")[0]:
        return ""
    return (
        "interpolate with align_corners=True places pixels by the corners of the image, not by their centres; use "
        "align_corners=False where the network was trained with it"
    )


def _halves(pair: Pair) -> str:
    sizes = pair.sizes(pair.both(1, "dim", -1)[0])
    return "" if sizes[0] == sizes[1] else "glu takes one half of the pixels as gates of the other"


_RULES: dict[str, Callable[[Pair], str]] = {
    "getitem": _cut,
    "setitem": _cut,
    "narrow": _narrow,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "unfold": _windows,
    "roll": _roll,
    "view": _regroup,
    "reshape": _regroup,
    "unflatten": _regroup,
    "pad": _pad,
    "interpolate": _interpolate,
    "upsample": _interpolate,
    "glu": _halves,
}
"""The functions of which the arguments tell."""
