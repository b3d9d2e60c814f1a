"""Compute the frequencies of rotary positions above the trained size, and the temperature of attention.

Scope: numbers, one axis at a time; NumPy alone. Not here: the tables of a network (see `tables`), its attention (see
`queries`).
Sources: position interpolation, arXiv 2306.15595; the NTK-aware change of base and its parts by wavelength (YaRN),
arXiv 2309.00071; boundaries that move with the noise (DyPE), arXiv 2510.20766; temperature, arXiv 2306.08645. The bound
of YaRN's upper boundary is ours: docs/guidance.md, "Positions of a transformer".
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import RekernelError
from ...text import meant

PositionMethod = Literal["interpolate", "ntk", "yarn", "dype"]
METHODS: tuple[PositionMethod, ...] = get_args(PositionMethod)
"""Names of the ways to place the tokens of an axis that is longer than in training."""

_FEW, _MANY = 1.0, 32.0  # turns over the trained axis: interpolated up to the first, untouched from the second (YaRN)
_LEAST = 4.0  # turns from which a frequency may be untouched; ours

Floats = NDArray[np.float64]


def base_frequencies(dimension: int, theta: float) -> Floats:
    """The angle per token of each pair of channels, theta^(-2i/dimension), from fast to slow.

    Examples
    --------
    >>> base_frequencies(4, 10000.0).tolist()
    [1.0, 0.01]
    """
    return np.asarray(1.0 / theta ** (np.arange(0, dimension, 2) / dimension), np.float64)


def rescaled_frequencies(
    frequencies: ArrayLike, scale: float, method: str, *, length: float = 1.0, noise: float = 1.0
) -> Floats:
    """The frequencies of an axis with `scale` times as many tokens as in training.

    Parameters
    ----------
    frequencies : (n,) array
        Angle per token of each pair of channels, as trained; in any order.
    scale : float
        Tokens over trained tokens, at least 1.
    method : {'interpolate', 'ntk', 'yarn', 'dype'}
        'interpolate' divides all frequencies by the scale, as if the tokens stood that much closer. 'ntk' changes the
        base: the fastest frequency stays, the slowest is interpolated. 'yarn' decides by the turns of a frequency over
        the trained axis. 'dype' is 'yarn' with boundaries that fall with the noise, so that all frequencies are the
        trained ones at the clean end.
    length : float
        Tokens of the trained axis; for 'yarn' and 'dype'.
    noise : float
        Noise level sigma / (alpha + sigma), 1 for pure noise; for 'dype'.

    Returns
    -------
    (n,) float64 array; equal to `frequencies` at a scale of 1

    Examples
    --------
    >>> trained = base_frequencies(8, 10000.0)
    >>> (rescaled_frequencies(trained, 2, "ntk") / trained).round(3).tolist()
    [1.0, 0.794, 0.63, 0.5]
    >>> (rescaled_frequencies(trained, 2, "yarn", length=64) / trained).round(3).tolist()
    [1.0, 0.501, 0.5, 0.5]
    >>> (rescaled_frequencies(trained, 2, "dype", length=64, noise=0.2) / trained).round(3).tolist()
    [1.0, 1.0, 0.584, 0.5]
    """
    check_method(method)
    trained = np.asarray(frequencies, np.float64)
    if scale == 1 or not trained.size:
        return trained.copy()
    if method == "interpolate":
        return trained / scale
    if method == "ntk":
        fastest, slowest = np.log(trained.max()), np.log(trained.min())
        span = fastest - slowest
        share = (fastest - np.log(trained)) / span if span else np.zeros_like(trained)
        return np.asarray(trained * scale**-share)
    kept = _kept_share(trained * length / (2 * math.pi), noise**2 if method == "dype" else 1.0)
    return kept * trained + (1 - kept) * trained / scale


def check_method(method: Any) -> None:
    """Raise for a name that is not one of `METHODS`."""
    if method not in METHODS:
        raise RekernelError(f"method={method!r} is not one of {', '.join(METHODS)}{meant(method, METHODS)}")


def _kept_share(turns: Floats, moved: float) -> Floats:
    """How much of each trained frequency YaRN keeps, by its turns over the trained axis: 1 is untouched.

    The upper boundary is the turns of the fastest frequency where these are fewer than 32: an axis of an image has few
    tokens, and without this bound no frequency would be untouched. It is at least 4: a frequency that turns only once
    or twice tells where on the axis a token lies, and a picture repeats itself at its period. `moved` multiplies both
    boundaries.
    """
    high = max(_LEAST, min(_MANY, float(turns.max()))) * moved
    low = _FEW * moved
    ramp = (turns - low) / (high - low) if high > low else np.zeros_like(turns)
    return np.where(turns >= high, 1.0, np.clip(ramp, 0.0, 1.0))


def attention_temperature(tokens: int, scale: float, power: float = 1.0) -> float:
    """The factor on the logits of attention over `scale` times as many image tokens: (log n / log n_trained)^power.

    Attention over more tokens is less sharp; the factor makes it sharper. A power of 1 is the scaling by log length of
    language models, and 0.5 is the factor of arXiv 2306.08645, which keeps the entropy of Gaussian logits.

    Parameters
    ----------
    tokens : int
        Image tokens n of the call.
    scale : float
        n over the number of image tokens in training: the product of the scales of the axes.
    power : float
        0 leaves the logits as they are.

    Examples
    --------
    >>> attention_temperature(4096, 4), round(attention_temperature(4096, 4, power=0.5), 3)
    (1.2, 1.095)
    """
    trained = tokens / scale
    return 1.0 if trained < 2 else float((math.log(tokens) / math.log(trained)) ** power)
