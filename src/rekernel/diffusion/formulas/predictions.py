"""Convert between the clean image and a denoiser's prediction: noise, image, velocity, flow, score or EDM's residual.

Scope: one affine relation for each kind of prediction. Arrays are NumPy's or PyTorch's; coefficients are numbers, or
arrays that broadcast. Not here: noise schedules (see `schedules`) and the reduction of an image (see `low_band`).

The noisy image is `x = alpha x0 + sigma n`. For a given x, a prediction of every kind is affine in x0,
`p = a x + b x0`. Guidance needs no more than this: changing x0 by d changes p by b d.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ...errors import RekernelError

Slope = Callable[[Any, Any], tuple[Any, Any]]
Prediction = Literal["epsilon", "sample", "v_prediction", "flow", "negated_flow", "score", "edm", "edm_v"]
"""What a network may predict; a test compares these words with `KINDS`."""


def _epsilon(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    return 1 / sigma, -alpha / sigma


def _sample(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    return 0.0, 1.0


def _velocity(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """v = alpha n - sigma x0."""
    return alpha / sigma, -(alpha * alpha + sigma * sigma) / sigma


def _flow(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """v = n - x0."""
    return 1 / sigma, -(alpha + sigma) / sigma


def _negated_flow(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """v = x0 - n, of networks whose time runs from noise to image: Lumina 2, Z-Image, Mochi."""
    return -1 / sigma, (alpha + sigma) / sigma


def _score(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    return -1 / (sigma * sigma), alpha / (sigma * sigma)


def _edm(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """x0 = c_skip y + c_out F with y = x / alpha; sigma_data from alpha^-2 = (sigma/alpha)^2 + sigma_data^2."""
    noise = sigma / alpha
    data = (1 / (alpha * alpha) - noise * noise) ** 0.5
    c_out = noise * data * alpha
    return -data * data * alpha / c_out, 1 / c_out


def _edm_velocity(alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """x0 = c_skip y - c_out F, which diffusers' EDM schedulers call v; it is v where sigma_data is 1."""
    a, b = _edm(alpha, sigma)
    return -a, -b


KINDS: dict[Prediction, Slope] = {
    "epsilon": _epsilon,
    "sample": _sample,
    "v_prediction": _velocity,
    "flow": _flow,
    "negated_flow": _negated_flow,
    "score": _score,
    "edm": _edm,
    "edm_v": _edm_velocity,
}
"""(a, b) of `p = a x + b x0` by kind, from (alpha, sigma)."""


def slopes(kind: str, alpha: Any, sigma: Any) -> tuple[Any, Any]:
    """(a, b) of `p = a x + b x0`.

    Raises
    ------
    RekernelError
        For a kind that is not one of `KINDS`.
    """
    if kind not in KINDS:
        raise RekernelError(f"prediction={kind!r} is not one of {', '.join(KINDS)}")
    return KINDS[kind](alpha, sigma)


def to_x0(kind: str, x: Any, prediction: Any, alpha: Any, sigma: Any) -> Any:
    """The clean image that follows from a prediction.

    Examples
    --------
    >>> to_x0("epsilon", 1.0, 0.5, alpha=0.8, sigma=0.6)
    0.875
    """
    a, b = slopes(kind, alpha, sigma)
    return (prediction - a * x) / b


def from_x0(kind: str, x: Any, x0: Any, alpha: Any, sigma: Any) -> Any:
    """The prediction that follows from a clean image.

    Examples
    --------
    >>> round(from_x0("v_prediction", 1.0, 0.875, alpha=0.8, sigma=0.6), 12)
    -0.125
    """
    a, b = slopes(kind, alpha, sigma)
    return a * x + b * x0
