"""Compute and check the sizes of a cascade's stages, in pixels of the picture.

Scope: numbers, and the attributes of a pipeline that say its trained size and the divisor of its sizes. Not here:
sampling (see `running`). Imports neither torch nor diffusers.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RekernelError
from ...escape import shown
from ..formulas.guided import octaves
from ..formulas.sizes import checked_scale, enlargement
from ..picture_decoder import cell_of

Size = tuple[int, int]
"""(height, width) in pixels."""

_LEAST = 0.85  # of the trained area: the smallest shape in the lists of SDXL, PixArt and Sana has .90


@dataclass(frozen=True)
class Geometry:
    """What a pipeline says about its sizes.

    trained : trained size, or None where the network's config has none
    cell : pixels of the picture for one pixel of the latents, along an axis; 1 for a pipeline of pixels
    multiple : divisor of height and width that the pipeline requires
    usual : the size that the pipeline makes by default; `scale` starts there where the trained size is not known
    """

    trained: Size | None
    cell: int
    multiple: int
    usual: Size | None = None


def geometry_of(pipe: Any, network: Any, trained: Sequence[int] | None) -> Geometry:
    """Read a pipeline; `trained` is the trained grid of its network, where that is known.

    Examples
    --------
    >>> geometry_of(object(), object(), (16, 16))
    Geometry(trained=(16, 16), cell=1, multiple=1, usual=None)
    """
    cell = cell_of(pipe)
    grid = None if trained is None else (trained[-2] * cell, trained[-1] * cell)
    config = getattr(pipe, "config", None)  # networks of packed tokens, as in Flux, have no sample_size of their own
    own = getattr(pipe, "default_sample_size", None) or getattr(config, "sample_size", None)
    usual = (own * cell, own * cell) if isinstance(own, int) else None
    return Geometry(grid, cell, cell * _unit(pipe, network), usual)


def _unit(pipe: Any, network: Any) -> int:
    """The divisor of the latents' height and width: a packed block, a patch, or the halvings of a UNet of pixels."""
    if hasattr(pipe, "_pack_latents"):
        return int(getattr(pipe, "transformer_spatial_patch_size", 2))
    if hasattr(pipe, "movq"):  # Kandinsky rounds its latents to multiples of a cell
        return cell_of(pipe)
    config = getattr(network, "config", None)
    if type(network).__name__ == "UNet2DModel":
        return int(2 ** (len(getattr(config, "block_out_channels", ())) - 1))
    patch = getattr(config, "patch_size", None)
    patch = patch[-1] if isinstance(patch, list | tuple) else patch
    return patch if isinstance(patch, int) else 1


def parsed_size(value: Any, called: str = "sizes") -> Size:
    """A size as (height, width), from a number, a pair, or text as on the command line ('32' or '48x32', width first).

    Examples
    --------
    >>> parsed_size(32), parsed_size((24, 32)), parsed_size("48x32")
    ((32, 32), (24, 32), (32, 48))
    """
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)(?:x(\d+))?", value.strip(), re.ASCII)):
        width, height = int(found[1]), int(found[2] or found[1])
        value = (height, width)
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(pair) != 2 or not all(hasattr(n, "__index__") and n >= 1 for n in pair):
        raise RekernelError(
            f"{called}: {shown(repr(value), 80)} is not a size; write 1024, (height, width) or '1024x768' (width first)"
        )
    return int(pair[0]), int(pair[1])


def stage_sizes(sizes: Any, scale: Any, geometry: Geometry, name: str) -> tuple[Size, ...]:
    """The size of each stage: as given, or from the trained size upwards, each stage about twice the one before.

    Parameters
    ----------
    sizes : sequence of sizes, or None
    scale : number, or (height, width), or None; last size over trained size, in the place of `sizes`
    geometry : Geometry
    name : the pipeline, for messages

    Examples
    --------
    >>> stage_sizes(None, 4, Geometry((64, 64), 1, 4), "x")
    ((64, 64), (128, 128), (256, 256))

    Raises
    ------
    RekernelError
        For sizes that do not grow, that the pipeline cannot have, or whose first one is not the trained size.
    """
    if (sizes is None) == (scale is None):
        raise RekernelError("give either sizes=[512, 1024, ...] or scale=2, the last size over the trained size")
    found = _scaled(scale, geometry, name) if sizes is None else _given(sizes)
    for size in found:
        check_multiple(size, geometry.multiple, name)
    for before, after in itertools.pairwise(found):
        if not all(m <= n for m, n in zip(before, after, strict=True)) or before == after:
            raise RekernelError(
                f"sizes: {text_of(after)} after {text_of(before)} does not enlarge the picture; each stage must be "
                f"larger than the one before"
            )
    _check_first(found[0], geometry, name)
    return found


def sizes_up_to(size: Size, geometry: Geometry) -> tuple[Size, ...]:
    """The sizes of the stages of a cascade that ends at `size`: of its shape, from the trained area upwards.

    The first stage has a shape that the network is trained for: where `size` is longer than 4 : 1, the first stage is
    not.

    Examples
    --------
    >>> sizes_up_to((2048, 1024), Geometry((512, 512), 8, 8))
    ((728, 360), (1448, 728), (2048, 1024))
    >>> sizes_up_to((512, 2560), Geometry((512, 512), 8, 8))
    ((256, 1024), (456, 2288), (512, 2560))

    Raises
    ------
    RekernelError
        If no trained shape fits into `size`.
    """
    trained = geometry.trained or geometry.usual
    assert trained is not None
    whole = math.sqrt(math.prod(size) / math.prod(trained))
    sides = tuple(n / whole for n in size)
    found = [_start(sides, size, trained, geometry.multiple)]
    for step in octaves((whole,)):
        sides = tuple(n * step[0] for n in sides)
        fitting = [geometry.multiple * max(1, round(n / geometry.multiple)) for n in sides]
        high, wide = (min(n, max(m, k)) for n, m, k in zip(size, found[-1], fitting, strict=True))
        found.append((high, wide))
    return tuple(dict.fromkeys([found[0], *found[1:-1], size]))


def _start(sides: Sequence[float], size: Size, trained: Size, multiple: int) -> Size:
    """The first size of a cascade to `size`: near `sides`, of the trained area, and not above the trained size."""
    longest = math.sqrt(math.prod(trained))
    clamped = [min(2 * longest, max(longest / 2, n)) for n in sides]  # at most 4 : 1
    near = [{multiple * max(1, turn(n / multiple)) for turn in (math.floor, math.ceil)} for n in clamped]
    fitting = [
        (high, wide)
        for high, wide in itertools.product(*near)
        if high <= size[0] and wide <= size[1] and _trained_shape((high, wide), trained)
    ]
    if fitting:
        return min(fitting, key=lambda one: sum(abs(math.log(n / m)) for n, m in zip(one, clamped, strict=True)))
    if all(n <= m for n, m in zip(trained, size, strict=True)):
        return trained
    raise RekernelError(
        f"{text_of(size)} (width x height): no shape of the trained area, {text_of(trained)}, fits into this size in "
        f"multiples of {multiple}, for the first stage of a cascade; ask for a larger picture, or for one nearer to a "
        f"square"
    )


def _trained_shape(size: Size, trained: Size) -> bool:
    above = any(f > 1 for f in enlargement(size, trained))
    return not above and math.prod(size) >= _LEAST * math.prod(trained)


def _given(sizes: Any) -> tuple[Size, ...]:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise RekernelError(f"sizes={shown(repr(sizes), 80)} is not a list of sizes; write sizes=[512, 1024]")
    found = tuple(parsed_size(size) for size in sizes)
    if len(found) < 2:
        raise RekernelError(f"sizes={list(sizes)!r}: a cascade has at least two sizes, the trained size first")
    return found


def _scaled(scale: Any, geometry: Geometry, name: str) -> tuple[Size, ...]:
    try:
        checked = checked_scale(scale)
    except RekernelError:
        checked = 1.0  # refused below, without the 'auto' that others take
    factors = checked if isinstance(checked, tuple) else (checked, checked)
    if isinstance(checked, str) or len(factors) != 2 or max(factors) == 1:
        raise RekernelError(f"scale={shown(repr(scale), 80)} must be a number above 1, or (height, width)")
    start = geometry.trained or geometry.usual
    if start is None:
        raise RekernelError(
            f"{name}: its config has no sample_size, so scale={scale!r} has no size to start from; pass sizes=[...]"
        )
    found, size = [start], tuple(map(float, start))
    for step in octaves([float(f) for f in factors]):
        size = tuple(n * f for n, f in zip(size, step, strict=True))
        fitting = [geometry.multiple * max(1, round(n / geometry.multiple)) for n in size]
        found.append((fitting[0], fitting[1]))
    if found[-1] == start:
        raise RekernelError(
            f"scale={scale!r} does not enlarge {text_of(start)} by a whole step of {geometry.multiple} pixels; pass a "
            f"larger scale"
        )
    return tuple(found)


def check_multiple(size: Size, multiple: int, name: str, called: str = "sizes") -> None:
    """Raise for a size that a pipeline cannot have, and name the next ones."""
    if any(n % multiple for n in size):
        lower, upper = (
            text_of((multiple * max(1, turn(size[0] / multiple)), multiple * max(1, turn(size[1] / multiple))))
            for turn in (math.floor, math.ceil)
        )
        near = lower if lower == upper else f"{lower} or {upper}"
        raise RekernelError(
            f"{called}: {text_of(size)} does not fit {name}, which takes multiples of {multiple}; {near} do"
        )


def _check_first(first: Size, geometry: Geometry, name: str) -> None:
    """Raise for a first size above or below the trained size.

    A default size is the largest that the pipeline is made for, but its network may be trained at smaller ones too
    (Flux). So only a first size above it is refused.
    """
    trained = geometry.trained or geometry.usual
    if trained is None or first == trained:
        return
    what = f"the {'default' if geometry.trained is None else 'trained'} size {text_of(trained)} of {name}"
    if any(f > 1 for f in enlargement(first, trained)):
        raise RekernelError(
            f"sizes: the first size, {text_of(first)}, is above {what}, and the first stage samples without guidance; "
            f"start with {text_of(trained)}"
        )
    if geometry.trained is not None and math.prod(first) < _LEAST * math.prod(trained):
        raise RekernelError(f"sizes: the first size, {text_of(first)}, is below {what}; start with {text_of(trained)}")


def text_of(size: Size) -> str:
    """A size as people write it, width first: '48x32' for (32, 48)."""
    return f"{size[1]}x{size[0]}"
