"""Names of methods, gains and taps, their aliases and their defaults: the one list of each.

Scope: names. Not here: what a method computes (see `operators`). Imports no NumPy.
"""

from __future__ import annotations

from typing import Final, Literal, TypeVar, get_args, overload

from ..errors import RekernelError
from ..text import meant

KernelMethod = Literal["optimal", "optimal-filter", "dilate", "nearest", "linear", "cubic", "lanczos3", "area"]
"""Methods for a filter that slides."""
GridMethod = Literal[
    "optimal", "nearest", "linear", "cubic", "lanczos3", "area", "pinv-nearest", "pinv-linear", "pinv-cubic"
]
"""Methods for weights that read the pixels of a finite image."""
Gain = Literal["dc", "ratio", "none"]
"""What a resampling keeps of the size of a response."""
TapsRule = Literal["full", "same-extent"]
"""Words that stand for a number of taps."""

Alias = Literal["bilinear", "trilinear", "bicubic", "tricubic"]
"""Other names of methods."""
Method = Literal["auto", KernelMethod, GridMethod, Alias]
"""What a caller may ask of a plan; 'auto' leaves the method to the role of each layer."""
ReadingFilter = Literal["optimal", "nearest", "linear", "cubic", "lanczos3", "area"]
"""Methods for the layer that reads the image."""

KERNEL_METHODS: tuple[KernelMethod, ...] = get_args(KernelMethod)
GRID_METHODS: tuple[GridMethod, ...] = get_args(GridMethod)
ALL_METHODS: tuple[KernelMethod | GridMethod, ...] = tuple(dict.fromkeys((*KERNEL_METHODS, *GRID_METHODS)))
"""What a caller may ask for: a plan takes the nearest kin of the method where a layer has no use for it."""
AUTO_METHOD: Final = "auto"
"""Not a method: it leaves the method to the role of each layer."""
READING_FILTERS: tuple[ReadingFilter, ...] = get_args(ReadingFilter)
GAINS: tuple[Gain, ...] = get_args(Gain)
TAPS_RULES: tuple[TapsRule, ...] = get_args(TapsRule)
ALIASES: dict[str, KernelMethod] = {
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic",
    "tricubic": "cubic",
}


_Name = TypeVar("_Name", bound=str)


@overload
def canonical_method(method: str) -> KernelMethod: ...
@overload
def canonical_method(method: str, choices: tuple[_Name, ...]) -> _Name: ...
def canonical_method(method: str, choices: tuple[str, ...] = KERNEL_METHODS) -> str:
    """Resolve aliases (bilinear, bicubic, ...) and check the name.

    Examples
    --------
    >>> canonical_method("bicubic")
    'cubic'
    """
    if not isinstance(method, str):
        raise RekernelError(f"method={str(method)[:80]!r} is not the name of a method, such as 'cubic'")
    name = ALIASES.get(method, method)
    if name not in choices:
        raise RekernelError(f"method={method!r} is not one of {', '.join(choices)}{meant(method, choices)}")
    return name


def for_grid(method: str) -> str:
    """The method for weights that read a grid: dilation has no meaning there, and 'nearest' is its nearest kin.

    Examples
    --------
    >>> for_grid("dilate"), for_grid("optimal-filter"), for_grid("pinv-linear")
    ('nearest', 'optimal', 'pinv-linear')
    """
    return {"auto": "area", "dilate": "nearest", "optimal-filter": "optimal"}.get(method, method)


def for_values(method: str) -> str:
    """The method for values on a grid, such as position embeddings.

    'optimal' and the pseudo-inverse are designed for weights that read a grid. Dilation has no meaning for values.

    Examples
    --------
    >>> [for_values(method) for method in ("optimal", "dilate", "pinv-linear", "area")]
    ['cubic', 'cubic', 'linear', 'area']
    """
    return "cubic" if method in ("auto", "optimal", "optimal-filter", "dilate") else method.removeprefix("pinv-")


KEYS_A = -0.5
"""Only a = -1/2 reproduces quadratics (Keys 1981, eq. 15); torch.nn.functional.interpolate uses -3/4."""


SMOOTHNESS = 0.01
"""Weight of the stop band, against 1 - SMOOTHNESS for the pass band; chosen by benchmarks/accuracy/design.py."""
