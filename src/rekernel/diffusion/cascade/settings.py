"""Hold and check the settings of a cascade: how strongly each stage starts again, and how it is guided.

Scope: numbers and options. Not here: sizes (see `sizes`), sampling (see `running`). Imports neither torch nor
diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from ...errors import RekernelError
from ...escape import shown
from ..formulas.guided import octaves
from ..guidance.settings import GuidanceSettings
from ..kernels.settings import KernelSettings
from ..positions.settings import PositionSettings
from ..sampler_settings import SamplerSettings

LATENT, PIXELS = "latent", "pixels"
STRENGTH = 0.5  # docs/guidance.md, "What cascades and positions do"

Enlarge = str | Callable[[Any], Any] | None


@dataclass(frozen=True)
class CascadeSettings:
    """The settings of `GuidedCascade` without its sizes; that class documents each of them.

    strengths : one per stage after the first
    guidance : the settings of guidance; None for no guidance
    kernels : the settings of rescaled kernels; None for original kernels
    positions : the settings of rescaled positions; None for trained positions
    enlarge : 'latent', 'pixels', a callable, or None for the default
    """

    strengths: tuple[float, ...]
    guidance: GuidanceSettings | None
    kernels: KernelSettings | None
    positions: PositionSettings | None
    enlarge: Enlarge


def settings_of(
    strength: Any, stages: int, guidance: Any = None, kernels: Any = None, positions: Any = None, enlarge: Any = None
) -> CascadeSettings:
    """Check the arguments of `GuidedCascade`.

    Parameters
    ----------
    stages : number of stages after the first

    Examples
    --------
    >>> settings_of(0.5, 2, {"theta": 1.3}).strengths
    (0.5, 0.5)
    """
    guided = settings_from(GuidanceSettings, "guidance", guidance, default=True)
    switched = settings_from(KernelSettings, "kernels", kernels, default=False)
    placed = settings_from(PositionSettings, "positions", positions, default=False)
    if enlarge is not None and enlarge not in (LATENT, PIXELS) and not callable(enlarge):
        raise RekernelError(
            f"enlarge={shown(repr(enlarge), 80)} must be 'latent', 'pixels', or a callable that enlarges (B, 3, H, W) "
            f"pixels"
        )
    return CascadeSettings(strengths_of(strength, stages), guided, switched, placed, enlarge)


def strengths_of(strength: Any, stages: int) -> tuple[float, ...]:
    """One strength per stage after the first, each above 0 and at most 1."""
    single = not isinstance(strength, Sequence) or isinstance(strength, str)
    given = [strength] * stages if single else list(strength)
    for value in given:
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 < float(value) <= 1:
            raise RekernelError(
                f"strength={shown(repr(value), 40)} must be {'' if number else 'a number '}above 0 and at most 1: the "
                f"share of the steps that a stage runs again"
            )
    if len(given) != stages:
        raise RekernelError(
            f"strength={list(strength)!r}: {len(given)} given, but the cascade has {stages} after its first stage; "
            f"give one number, or one for each of these"
        )
    return tuple(map(float, given))


def recorded_strengths(given: Any, scale: Any) -> tuple[float, ...]:
    """The strengths of a record, one per stage of a cascade that doubles the size up to `scale`.

    Examples
    --------
    >>> recorded_strengths([0.5], 4.0), recorded_strengths([0.5, 0.4], (1.0, 4.0, 4.0))
    ((0.5, 0.5), (0.5, 0.4))
    """
    factors = tuple(scale) if isinstance(scale, Sequence) else (scale, scale)
    if any(f != 1 for f in factors[:-2]):
        raise RekernelError(
            f"scale={scale} changes the number of frames, and a cascade keeps it; write 1 for the frames"
        )
    stages = len(octaves(factors[-2:]))
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise RekernelError(f"cascade={shown(repr(given), 80)} must be a list of strengths, such as [0.5]")
    return strengths_of(list(given) * stages if len(given) == 1 else list(given), stages)


def settings_from(kind: type[Any], name: str, given: Any, *, default: bool) -> Any:
    """Settings of class `kind` from an argument: such an object, a mapping of options, True or False.

    Parameters
    ----------
    name : the argument, for messages
    default : whether None means the default settings
    """
    if given is False:
        return None
    if given is None or given is True:
        return kind() if default or given is True else None
    if isinstance(given, kind):
        if getattr(given, "attached", False):
            raise RekernelError(f"{name}={given!r} is attached already; remove() it first")
        return at_scale(kind, given, given.scale)
    if isinstance(given, Mapping):
        return kind.from_arguments(given)
    hint = f"; did you mean {name}={{'method': {shown(repr(given), 40)}}}?" if _is_method(kind, given) else ""
    raise RekernelError(
        f"{name}={shown(repr(given), 80)} must be True, False, None, a mapping of options or such an object{hint}"
    )


def _is_method(kind: type[Any], given: Any) -> bool:
    return isinstance(given, str) and any(field.name == "method" for field in fields(kind))


def at_scale(kind: type[Any], settings: SamplerSettings, scale: Any, **changed: Any) -> Any:
    """The same settings at another scale, as an object of class `kind`."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return kind(**{**values, "scale": scale, **changed})


def guidance_at(
    kind: type[Any], settings: GuidanceSettings, scale: Sequence[float], fraction: float, eta: float
) -> Any:
    """Guidance for one stage, as an object of class `kind`.

    A stage runs the last part of the schedule, so `eta` is a share of that part: at eta = .6, a stage of strength .5
    is guided in its first 60 %. Counted from the noisy end of the whole schedule, guidance would act in a fifth of it.

    Parameters
    ----------
    scale : size of the stage over the trained size, per axis
    fraction : position in the schedule at which the stage starts; 1 is pure noise
    eta : the pipeline's default, where the settings have none
    """
    timed = any(value is not None for value in (settings.start, settings.stop, settings.log_snr))
    if settings.eta is None and timed:
        return at_scale(kind, settings, tuple(scale))
    share = eta if settings.eta is None else settings.eta
    return at_scale(kind, settings, tuple(scale), eta=_of_schedule(share, fraction) if share else 0.0)


def kernels_at(kind: type[Any], settings: KernelSettings, scale: Sequence[float], fraction: float) -> Any:
    """Kernels for one stage, as an object of class `kind`; `until` counts in the part of the schedule that it runs.

    Examples
    --------
    >>> kernels_at(KernelSettings, KernelSettings(2, until=0.5), (2, 2), 0.4).until
    0.8
    """
    until = settings.until
    if isinstance(until, Mapping):
        moved: Any = {name: _of_schedule(share, fraction) for name, share in until.items()}
    else:
        moved = _of_schedule(until, fraction)
    return at_scale(kind, settings, tuple(scale), until=moved)


def _of_schedule(share: float, fraction: float) -> float:
    """The share of the whole schedule for a share of the part that starts at `fraction`, both from the noisy end."""
    return 1 - (1 - share) * fraction


__all__ = [
    "LATENT",
    "PIXELS",
    "STRENGTH",
    "CascadeSettings",
    "at_scale",
    "guidance_at",
    "kernels_at",
    "recorded_strengths",
    "settings_from",
    "settings_of",
    "strengths_of",
]
