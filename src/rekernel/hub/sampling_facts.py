"""Describe for a card how a pipeline is sampled above its trained size.

Scope: recorded guidance, kernels and positions; their options come from a file, so each one is escaped. Not here: the
rest of the card (see `hub.card`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..diffusion.guidance.settings import GuidanceSettings
from ..diffusion.kernels.settings import KernelSettings
from ..diffusion.pipelines.record import Recorded
from ..diffusion.positions.settings import PositionSettings
from ..escape import shown, shown_markdown
from ..text import dims, scale_text


def what_is_recorded(found: Recorded) -> str:
    """Name what is recorded, for use in a sentence.

    Examples
    --------
    >>> what_is_recorded(Recorded(2.0, 64, {"theta": 1.0}, {"layers": "inner"}))
    'upsample guidance and rescaled kernels, lent to the network while it samples'
    """
    parts = ["upsample guidance"] if found.guidance is not None else []
    parts += ["rescaled kernels, lent to the network while it samples"] if found.kernels is not None else []
    parts += ["rescaled positions"] if found.positions is not None else []
    parts += ["a cascade"] if found.cascade is not None else []
    return " and ".join(parts) or "the size"


def facts_of_record(found: Recorded) -> list[tuple[str, str]]:
    """Return the rows about sampling for the table of a card.

    Examples
    --------
    >>> for row in facts_of_record(Recorded(2.0, 64, {"theta": 1.0, "eta": 0.6})):
    ...     print(*row, sep=": ")
    sampled at: 2 times the trained size, 64 to 128 on the denoiser's grid
    upsample guidance: theta=1, eta=0.6
    """
    facts = [("sampled at", f"{scale_text(found.scale)} times the trained size")]
    if found.sample_size is not None and (size := found.new_size) is not None:
        old, new = dims(_sides(found.sample_size)), dims(_sides(size))
        facts = [("sampled at", f"{facts[0][1]}, {old} to {new} on the denoiser's grid")]
    if found.guidance is not None:
        facts.append(("upsample guidance", _options(found.guidance, GuidanceSettings.option_names())))
    if found.kernels is not None:
        facts.append(("lent kernels", _options(found.kernels, KernelSettings.option_names())))
    if found.positions is not None:
        facts.append(("rescaled positions", _options(found.positions, PositionSettings.option_names())))
    if found.cascade is not None:
        said = ", then ".join(f"{strength:g}" for strength in found.cascade)
        how = "called by `pipe.rekernel.cascade(...)`"
        facts.append(("cascade", f"from the trained size upwards, each stage started again at strength {said}; {how}"))
    return facts


def _options(given: Mapping[str, Any], order: Sequence[str]) -> str:
    said = ", ".join(f"{name}={_plain(given[name])}" for name in order if name in given)
    return shown_markdown(said, 300) if said else "as by default"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(str(value), 80)


def _sides(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size,)
