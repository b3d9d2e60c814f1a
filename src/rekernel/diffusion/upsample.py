"""Upsample guidance on a sampler: what to do, attached to a diffusers pipeline or wrapped around a denoiser.

Knows scale, weight and levels; the formulas are `guided`'s, the network's arguments `calls`', hooks `registry`'s.
Source: arXiv 2404.01709; nested levels and the rescaled network as predictor are ours (docs/guidance.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import RekernelError
from .attachable import Attachable
from .bands import ENLARGE, REDUCE, Split
from .filters import FilterSplit
from .guided import LowBand, Window, guided_prediction, octaves
from .passes import running
from .predictions import KINDS
from .scales import checked_scale, factors_for, low_size, shown_scale
from .schedules import NoiseSchedule, SigmaSchedule

PREDICTORS = ("reduced", "rescaled")


class UpsampleGuidance(Attachable):
    """Guide sampling above the trained size by what the network sees at its trained size.

    In every step in which it acts, the noisy image is also reduced, denoised at the time at which the network knows so
    much noise, and the difference added to the low band of the full-size prediction. One more pass on fewer pixels.

    Parameters
    ----------
    scale : number, one per grid axis, or 'auto'
        Requested size over trained size; a number counts for height and width. 'auto' reads both at each call
        (`scales.enlargement` has the rule), and does nothing at the trained size, nor at another shape of its area. For
        a video, three numbers: frames, height, width.
    theta : float, optional
        Weight; 1 replaces the low band, 0 does nothing. By default 1, and 1.5 for pipelines of pixels (measured:
        docs/guidance.md).
    eta : float, optional
        Share of the schedule, from the noisy end, in which it acts. By default 1, and 0.6 for pipelines with a VAE.
    start, stop : float, optional
        Instead of `eta`: the noisiest and the cleanest time to act at, in the unit that the network is fed.
    log_snr : (lowest, highest), optional
        Instead, or beside it: the range of log-SNR to act in.
    schedule : NoiseSchedule, optional
        Read from the pipeline's scheduler by default.
    prediction : str, optional
        What the network predicts, one of `predictions.KINDS`; read from the scheduler by default.
    reduce, enlarge : str
        The operators: 'area', 'linear', 'cubic' or 'lanczos3'; 'nearest' (as published), 'linear' or 'cubic', all with
        DU = 1. By default 'area' and 'nearest', and 'cubic' for pipelines of pixels (measured, as theta).
    levels : int, optional
        Nested levels; by default one per octave (above 2: the network at twice its size, itself guided, guides that at
        four times). 1 is a single step of any factor.
    predictor : {'reduced', 'rescaled'}
        Who predicts the low band: the network on the reduced image, or (ours) the network with every kernel rescaled,
        on the full-size image at the matched time, which has no blocks and no levels.

    Notes
    -----
    Transformers (Stable Diffusion 3, Flux, PixArt, Sana, Wan, HunyuanVideo, CogVideoX without rotary positions) are
    experimental: they were run with random weights alone, and the repr says so once attached.

    Examples
    --------
    >>> UpsampleGuidance(scale=2, theta=1.0, eta=0.6)
    UpsampleGuidance(scale=2, theta=1, eta=0.6; not attached)
    """

    def __init__(
        self,
        scale: float | Sequence[float] | str = "auto",
        theta: float | None = None,
        eta: float | None = None,
        *,
        start: float | None = None,
        stop: float | None = None,
        log_snr: tuple[float, float] | None = None,
        schedule: NoiseSchedule | None = None,
        prediction: str | None = None,
        reduce: str = "area",
        enlarge: str | None = None,
        levels: int | None = None,
        predictor: str = "reduced",
    ) -> None:
        super().__init__()
        self.scale = checked_scale(scale)
        if eta is not None and (start is not None or stop is not None):
            raise RekernelError("eta= says when guidance acts, and so do start= and stop=; give one of them")
        for name, value, known in (
            ("prediction", prediction, KINDS), ("reduce", reduce, REDUCE), ("enlarge", enlarge, ENLARGE),
            ("predictor", predictor, PREDICTORS),
        ):  # fmt: skip
            if value is not None and value not in known:
                raise RekernelError(f"{name}={value!r} is not one of {', '.join(known)}")
        if levels is not None and not (hasattr(levels, "__index__") and levels >= 1):
            raise RekernelError(f"levels={levels!r} must be a whole number of at least 1")
        self.theta, self.eta, self.start, self.stop, self.log_snr = theta, eta, start, stop, log_snr
        self.schedule, self.prediction = schedule, prediction
        self.reduce, self.enlarge, self.levels, self.predictor = reduce, enlarge, levels, predictor
        self.window()  # what it refuses is refused now

    # -- what to do -----------------------------------------------------------------------------------------------

    def window(self, theta: float = 1.0, eta: float = 1.0) -> Window:
        """When guidance acts and how strongly; `theta` and `eta` hold where none was given."""
        if self.eta is not None:
            eta = self.eta
        elif self.start is not None or self.stop is not None or self.log_snr is not None:
            eta = 1.0
        return Window(
            theta if self.theta is None else self.theta,
            eta,
            math.inf if self.start is None else self.start,
            -math.inf if self.stop is None else self.stop,
            (-math.inf, math.inf) if self.log_snr is None else self.log_snr,
        )

    def splits(
        self, size: Sequence[int], trained: Sequence[int] | None = None, multiple: int = 1, enlarge: str = "nearest"
    ) -> tuple[LowBand, ...]:
        """The reductions from level to level, the trained size's first; empty where nothing is to be reduced.

        Parameters
        ----------
        size : pixels of the requested image, per grid axis
        trained : the same of the trained one; needed for scale='auto'
        multiple : what the network's height and width must be multiples of

        Examples
        --------
        >>> [s.low for s in UpsampleGuidance(4).splits((64, 64))]
        [(16, 16), (32, 32)]
        """
        factors = factors_for(self.scale, size, trained)
        if self.predictor == "rescaled":
            return (FilterSplit(tuple(size), factors),) if any(f > 1 for f in factors) else ()
        found: list[LowBand] = []
        above = tuple(size)
        remaining = factors
        for step in reversed(octaves(factors, self.levels)):
            remaining = tuple(r / f for r, f in zip(remaining, step, strict=True))
            # From the full size each time, so that rounding does not add up and the last is the trained size.
            low = low_size(size, [f / r for f, r in zip(factors, remaining, strict=True)], multiple)
            found.append(Split(above, low, self.reduce, self.enlarge or enlarge))
            above = low
        return tuple(reversed(found))

    # -- on a diffusers pipeline ----------------------------------------------------------------------------------

    def _make_hook(self, target: Any, scheduler: Any) -> Any:
        from .attached import GuidedDenoiser

        return GuidedDenoiser(self, target, scheduler)

    def __repr__(self) -> str:
        said = [f"scale={shown_scale(self.scale)}", *([] if self.theta is None else [f"theta={self.theta:g}"])]
        usual: dict[str, Any] = {"eta": None, "start": None, "stop": None, "log_snr": None, "levels": None}
        usual |= {"reduce": "area", "enlarge": None, "predictor": "reduced"}
        said += [f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        return f"UpsampleGuidance({', '.join(said)}; {self._where()})"


def guide_denoiser(
    denoise: Callable[..., Any],
    scale: float | Sequence[float],
    theta: float | None = None,
    eta: float | None = None,
    *,
    sigmas: tuple[float, float] = (0.002, 80.0),
    **options: Any,
) -> Callable[..., Any]:
    """A denoiser guided likewise, for samplers that call `denoise(x, sigma)` and get the clean image (k-diffusion).

    Parameters
    ----------
    denoise : callable (x, sigma, **kwargs) -> x0
        `x` is `x0 + sigma noise`, (B, C, *grid); `sigma` a number or one per sample.
    scale, theta, eta, **options
        As for `UpsampleGuidance`; 'auto' and predictor='rescaled' need a network, and are refused.
    sigmas : (smallest, largest)
        Of the sampler: what `eta` is a share of, in log sigma.

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
    spec = UpsampleGuidance(scale, theta, eta, **options)
    if spec.scale == "auto" or spec.predictor == "rescaled" or spec.prediction is not None:
        raise RekernelError("guide_denoiser takes a number as scale=, predictor='reduced', and no prediction=")
    schedule = spec.schedule or SigmaSchedule(*sigmas)
    window = spec.window()

    @functools.wraps(denoise)
    def guided(x: Any, sigma: Any, *args: Any, **kwargs: Any) -> Any:
        size = tuple(x.shape[2:])
        splits = spec.splits(size)

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
    """`value` in the type of `given`: a number stays one, an array of the framework of `x` an array."""
    from array_api_compat import array_namespace, is_array_api_obj

    if not is_array_api_obj(given):
        return float(value)
    xp = array_namespace(given)
    made = xp.asarray(value, dtype=given.dtype, device=given.device) if hasattr(given, "device") else xp.asarray(value)
    return xp.broadcast_to(made, given.shape)


__all__ = ["PREDICTORS", "UpsampleGuidance", "guide_denoiser"]
