"""Find sums over pixels that the model's code divides by the number of pixels: both grow, and their quotient does not.

Scope: the functions of one module, in order. Not here: what a single function does (see `checking.grown_functions`).
Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from .grown_functions import Pair, growth, numbers

_DIVIDES = ("div", "divide", "true_divide", "truediv")
_NEAR = 8  # functions between a sum and the division that belongs to it
_SAME = 1e-3


def compensated(pairs: Sequence[Pair]) -> set[int]:
    """Positions of the sums and of the divisions that belong together.

    A sum belongs to a division behind it by a number that grew as the sum did, to a product with a number that shrank
    so, or to a division of one sum by another (a mean with weights). What it sums may be divided before, too. The
    tensors are told by their shapes.

    Examples
    --------
    >>> from ..tracing.steps import Operand, Step
    >>> def pair(name, args, out):
    ...     sizes = [[Operand((1, 4, n, n), image=True) if a == "x" else a for a in args(n)] for n in (8, 16)]
    ...     return Pair(*(Step(name, "", tuple(each), {}, (Operand(out, image=True),)) for each in sizes))
    >>> total, mean = pair("sum", lambda n: ["x", (2, 3)], (1, 4)), pair("truediv", lambda n: [n * n], (1, 4))
    >>> mean = Pair(*(Step("truediv", "", (Operand((1, 4), image=True), n), {}, ()) for n in (64, 256)))
    >>> sorted(compensated([total, mean]))
    [0, 1]
    """
    found: set[int] = set()
    sums = {i: grown for i, pair in enumerate(pairs) if (grown := growth(pair))}
    for at, factor in sums.items():
        shape = pairs[at].old.results[0].shape
        summed = {o.shape for o in pairs[at].old.operands}
        ahead = [i for i in range(max(0, at - _NEAR), at) if _undoes(pairs[i], factor)]
        if found_ahead := [i for i in ahead if any(o.shape in summed for o in pairs[i].old.results)]:
            found |= {at, found_ahead[-1]}
            continue
        for behind in range(at + 1, min(at + _NEAR, len(pairs))):
            pair = pairs[behind]
            shapes = [o.shape for o in pair.old.operands]
            if not shapes or len(shapes[0]) < len(shape):
                continue
            if _undoes(pair, factor):
                found |= {at, behind}
                break
            others = [i for i, grown in sums.items() if at < i < behind and abs(grown - factor) < _SAME * factor]
            if pair.name in _DIVIDES and len(shapes) == 2 and others and all(o.image for o in pair.old.operands):
                found |= {at, *others}
                break
    return found


def _undoes(pair: Pair, factor: float) -> bool:
    """Whether a function divides by a number that grew by `factor`, or multiplies by one that shrank so."""
    ratio, divides = numbers(pair), pair.name in _DIVIDES
    if ratio is None or not all(ratio) or not (divides or pair.name == "mul"):
        return False
    by = ratio[1] / ratio[0]
    return abs((by if divides else 1 / by) - factor) < _SAME * factor
