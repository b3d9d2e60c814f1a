"""Bound the numbers of a plan by what planning itself produces: a plan may come from an untrusted file.

Scope: numbers of operators and geometries, before anything is computed with them. Not here: the types of the fields,
and how the parts of a change fit together (see `plan.serialization`).
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import RekernelError
from ..escape import shown
from ..resampling.limits import LARGEST_A, MOST_ENTRIES, MOST_TAPS
from ..resampling.methods import GAINS, GRID_METHODS, KERNEL_METHODS, canonical_method
from ..resampling.operators import kernel_taps
from .changes import AxisGeometry, AxisOperator

LARGEST_SIZE = 1 << 48
"""Largest pixels, tokens, taps, stride or padding of a layer along one axis."""
MOST_AXES = 16
"""Most axes of a tensor that is resampled; planning gives one at most two axes beside those of the image."""
_LARGEST_SCALE = 1024  # 0.1.0 planned kernels of such scales; the number of taps is what bounds the work
_LARGEST_PHASE = 1.0  # planning brings the phase into (-1/2, 1/2]
_SMALL = 1 << 12  # entries of a matrix that is cheap to build


def is_whole(value: Any) -> bool:
    """Whether a value of JSON is a whole number.

    Examples
    --------
    >>> is_whole(3), is_whole(3.0), is_whole(True)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number that a float holds.

    Examples
    --------
    >>> is_number(0.5), is_number(2**60), is_number(float("nan"))
    (True, False, False)
    """
    if isinstance(value, float):
        return math.isfinite(value)
    return is_whole(value) and abs(value) <= 2**53


def check_geometry(geometry: AxisGeometry) -> None:
    """Raise unless the numbers are those of a layer.

    Examples
    --------
    >>> check_geometry(AxisGeometry(3, 0, (1, 1)))
    Traceback (most recent call last):
    rekernel.errors.RekernelError: a geometry of kernel 3, stride 0, dilation 1, padding (1, 1) is impossible
    """
    g = geometry
    if not all(map(is_whole, (g.kernel, g.stride, *g.padding, g.dilation))):
        raise RekernelError("a geometry's entries must be whole numbers")
    sizes = all(1 <= n <= LARGEST_SIZE for n in (g.kernel, g.stride, g.dilation))
    if not sizes or any(abs(side) > LARGEST_SIZE for side in g.padding):
        told = shown(f"kernel {g.kernel}, stride {g.stride}, dilation {g.dilation}, padding {g.padding}", 200)
        raise RekernelError(f"a geometry of {told} is impossible")


def check_numbers(o: AxisOperator) -> None:
    """Raise unless the fields of an operator have the types and ranges that planning gives them.

    Examples
    --------
    >>> check_numbers(AxisOperator(2, 3, 5, "kernel", 2.0, "cubic", "dc", a=1e308))
    Traceback (most recent call last):
    rekernel.errors.RekernelError: an operator's a of 1e+308 is not a number from -16 to 16
    """
    if not all(map(is_whole, (o.axis, o.old, o.new, o.dilation))):
        raise RekernelError("an operator's axis, old, new and dilation must be whole numbers")
    if not all(isinstance(text, str) for text in (o.geometry, o.method, o.gain)):
        raise RekernelError("an operator's geometry, method and gain must be text")
    if not is_number(o.scale) or o.scale <= 0:
        raise RekernelError(f"an operator's scale of {shown(repr(o.scale), 40)} is not a finite number above 0")
    for name, value, least, most in (
        ("phase", o.phase, -_LARGEST_PHASE, _LARGEST_PHASE), ("a", o.a, -LARGEST_A, LARGEST_A),
    ):  # fmt: skip
        if not is_number(value) or not least <= value <= most:
            raise RekernelError(
                f"an operator's {name} of {shown(repr(value), 40)} is not a number from {least:g} to {most:g}"
            )
    if not is_number(o.smoothness) or not 0 <= o.smoothness < 1:
        raise RekernelError(
            f"an operator's smoothness of {shown(repr(o.smoothness), 40)} is not at least 0 and below 1"
        )


def check_operator(o: AxisOperator, view: tuple[int, ...]) -> None:
    """Raise if an operator does not fit the view, or if the matrix of the operator is too large to compute.

    Examples
    --------
    >>> check_operator(AxisOperator(0, 1 << 19, 1 << 20, "grid", 2.0, "linear", "dc"), (1 << 19,))
    Traceback (most recent call last):
    rekernel.errors.RekernelError: operator 524288->1048576 is a matrix of more than 16777216 entries
    """
    if not 0 <= o.axis < len(view) or view[o.axis] != o.old:
        raise RekernelError(f"operator {shown(f'{o.old}->{o.new}', 60)} does not fit axis {o.axis} of view {view}")
    if o.geometry not in ("kernel", "grid") or o.gain not in GAINS:
        raise RekernelError(
            f"operator geometry {shown(repr(o.geometry), 40)} or gain {shown(repr(o.gain), 40)} is unknown"
        )
    canonical_method(o.method, KERNEL_METHODS if o.geometry == "kernel" else GRID_METHODS)
    if o.new < 1 or o.old < 1 or o.dilation < 1:
        raise RekernelError(f"operator {o.old}->{o.new}, dilation {o.dilation}, is impossible")
    spread = o.dilation * (o.old - 1) + 1
    if spread * o.new > MOST_ENTRIES:
        raise RekernelError(f"operator {o.old}->{o.new} is a matrix of more than {MOST_ENTRIES} entries")
    if o.geometry == "grid":
        if o.dilation != 1 or o.phase or not math.isclose(o.scale, o.new / o.old, rel_tol=1e-6):
            raise RekernelError(
                f"a grid of {o.old}->{o.new} has a scale of {o.new / o.old:g}, no phase and no dilation, not "
                f"{o.scale:g}, {o.phase:g} and {o.dilation}"
            )
        return
    if o.scale > _LARGEST_SCALE:
        raise RekernelError(f"a kernel's scale of {o.scale:g} is above {_LARGEST_SCALE}")
    if o.scale < 1 / _LARGEST_SCALE:
        raise RekernelError(f"a kernel's scale of {o.scale:g} is below 1/{_LARGEST_SCALE}")
    if o.new > MOST_TAPS:
        raise RekernelError(f"a kernel of {o.new} taps is above {MOST_TAPS}")
    if o.scale * (spread - 1) > MOST_TAPS:  # every old place is designed, also those between the taps
        raise RekernelError(f"a kernel over {spread} pixels at scale {o.scale:g} is above {MOST_TAPS} taps")
    kernel_taps(spread, o.scale, canonical_method(o.method), o.new, o.phase)  # raises for more than any method needs
    if spread * o.new <= _SMALL:
        o.matrix()  # raises if the method has no kernel of this size
