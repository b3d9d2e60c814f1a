"""Guide a denoiser that is a function, for samplers without a diffusers pipeline.

Scope: a function of image and noise level, as k-diffusion calls it. Not here: hooks on a network (see `hook`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import RekernelError
from ..denoiser.pass_context import running
from ..formulas.guided import guided_prediction
from ..formulas.schedules import SigmaSchedule
from .settings import GuidanceSettings


def guide_denoiser(
    denoise: Callable[..., Any],
    scale: float | Sequence[float],
    theta: float | None = None,
    eta: float | None = None,
    *,
    sigmas: tuple[float, float] = (0.002, 80.0),
    **options: Any,
) -> Callable[..., Any]:
    """Add upsample guidance to a function `denoise(x, sigma)` that returns the clean image, as k-diffusion calls it.

    Parameters
    ----------
    denoise : callable (x, sigma, **kwargs) -> x0
        `x` is `x0 + sigma noise`, (B, C, *grid); `sigma` is a number, or an array with one per sample.
    scale, theta, eta, **options
        As for `UpsampleGuidance`. scale='auto' and predictor='rescaled' need a network and are refused.
    sigmas : (smallest, largest)
        Range of the sampler's noise levels; `eta` is a share of this range in log sigma, not of the steps.

    Returns
    -------
    callable (x, sigma, **kwargs) -> x0

    Examples
    --------
    >>> import numpy as np
    >>> mean = lambda x, sigma: np.broadcast_to(x.mean((-2, -1), keepdims=True), x.shape)
    >>> guided = guide_denoiser(mean, scale=2)
    >>> guided(np.ones((1, 1, 4, 4)), 10.0).shape
    (1, 1, 4, 4)
    """
    settings = GuidanceSettings(scale, theta, eta, **options)
    if settings.scale == "auto" or settings.predictor == "rescaled" or settings.prediction is not None:
        raise RekernelError("guide_denoiser takes a number as scale=, predictor='reduced', and no prediction=")
    schedule = settings.schedule or SigmaSchedule(*sigmas)
    window = settings.window()

    @functools.wraps(denoise)
    def guided(x: Any, sigma: Any, *args: Any, **kwargs: Any) -> Any:
        size = tuple(x.shape[2:])
        splits = settings.splits(size)

        def predict(x_level: Any, t: Any, level: int) -> Any:
            if level == len(splits):
                return denoise(x, sigma, *args, **kwargs)
            reduced = tuple(n / m for n, m in zip(size, x_level.shape[2:], strict=True))
            with running(reduced):
                return denoise(x_level, _as_given(sigma, t, x_level), *args, **kwargs)

        times = _numbers(sigma)
        return guided_prediction(predict, x, times, splits, schedule=schedule, kind="sample", window=window)

    return guided


def _numbers(sigma: Any) -> Any:
    return sigma.detach().cpu().numpy() if hasattr(sigma, "detach") else sigma


def _as_given(given: Any, value: Any, x: Any) -> Any:
    """`value` with the type of `given`: a number, or an array of the same framework, dtype, device and shape."""
    from array_api_compat import array_namespace, is_array_api_obj

    if not is_array_api_obj(given):
        return float(value)
    xp = array_namespace(given)
    made = xp.asarray(value, dtype=given.dtype, device=given.device) if hasattr(given, "device") else xp.asarray(value)
    return xp.broadcast_to(made, given.shape)


__all__ = ["guide_denoiser"]
