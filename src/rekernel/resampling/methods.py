"""Names of methods and gains, their aliases and defaults."""

from __future__ import annotations

from ..errors import RekernelError

KERNEL_METHODS = ("dilate", "nearest", "linear", "cubic", "lanczos3", "area", "optimal", "optimal-filter")


GRID_METHODS = (
    "nearest",
    "linear",
    "cubic",
    "lanczos3",
    "area",
    "optimal",
    "pinv-nearest",
    "pinv-linear",
    "pinv-cubic",
)


GAINS = ("dc", "ratio", "none")


_ALIASES = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic", "tricubic": "cubic"}


def canonical_method(method: str, choices: tuple[str, ...] = KERNEL_METHODS) -> str:
    """Resolve aliases (bilinear, bicubic, ...) and check the name.

    Examples
    --------
    >>> canonical_method("bicubic")
    'cubic'
    """
    name = _ALIASES.get(method, method)
    if name not in choices:
        raise RekernelError(f"method={method!r} is not one of {', '.join(choices)}")
    return name


KEYS_A = -0.5
"""Only a = -1/2 reproduces quadratics (Keys 1981, eq. 15); torch.nn.functional.interpolate uses -3/4."""


SMOOTHNESS = 0.01
"""Weight of the stop band, against 1 - SMOOTHNESS for the pass band; chosen by benchmarks/accuracy/design.py."""
