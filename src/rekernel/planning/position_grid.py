"""Decide for a table of positions which of its entries are patches, and on which grid these lie.

A hint decides, or the size of the image in config.json. Without both, the tokens that the file names stand in front,
and the grid is a square. Where that does not fit, the table is left as it is, and a note names the option.
Scope: names, shapes and the configuration beside the weights. Not here: how values are interpolated (see
`planning.rules`), and grids that a trace saw (see `torch.planning.grids`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..architectures.tokens import Tokens, tokens_beside
from ..checkpoint.strict_json import read_object
from ..errors import Option, RekernelError
from ..escape import shell_word, shown
from ..messages.note import Note
from ..plan.changes import LayerChange
from ..text import dims
from .layers import Unclear
from .settings import Hints

CONFIG = "config.json"
_SIZES = ("image_size", "img_size")


@dataclass(frozen=True)
class PositionGrid:
    """The entries of a table of positions.

    grid : number of patches along each axis
    prefix : number of entries in front that are not patches
    """

    grid: tuple[int, ...]
    prefix: int


def position_grid(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    hint: Sequence[int] | None = None,
    image: tuple[int, ...] | None = None,
    patch: tuple[int, ...] | None = None,
) -> PositionGrid:
    """The grid of the table `name`, (T, C) or (1, T, C).

    Parameters
    ----------
    shapes : mapping
        Shapes of all tensors.
    hint : sequence of int, optional
        The grid as the caller gave it.
    image : (int, int), optional
        Height and width of the trained image, as config.json gives them.
    patch : (int, int), optional
        Height and width of a patch, as the weights show them; `image` is of no use without.

    Raises
    ------
    Unclear
        If nothing decides.
    RekernelError
        If the hint does not fit the table.

    Examples
    --------
    >>> shapes = {"pos_embed": (1, 129, 8), "cls_token": (1, 1, 8)}
    >>> position_grid("pos_embed", shapes, image=(256, 128), patch=(16, 16))
    PositionGrid(grid=(16, 8), prefix=1)
    """
    count, tokens = shapes[name][-2], tokens_beside(name, shapes)
    if hint is not None:
        return _told(name, count, tuple(hint))
    option = grid_of(name)
    if tokens.behind:
        raise Unclear(
            f"some of its {count} positions belong to tokens behind the patches ({tokens}), so it is left as it is; a "
            f"model that interpolates its own positions needs nothing else, and mode absorb leaves the token grid alone"
        )
    if image is not None and patch is not None:
        grid = tuple(n // p for n, p in zip(image, patch, strict=True))
        prefix = count - math.prod(grid)
        if prefix not in tokens.in_front() and not (prefix == 0 < math.prod(grid)):
            raise Unclear(
                f"{CONFIG} says {dims(image)} pixels, which are {dims(grid)} patches of {dims(patch)}; with "
                f"{_beside(tokens)} these do not make its {count} positions. Left as it is; pass ",
                option,
            )
        return PositionGrid(grid, prefix)
    sides = {front: math.isqrt(max(count - front, 0)) for front in tokens.in_front()}
    square = [(front, side) for front, side in sides.items() if side and side * side == count - front]
    if len(square) != 1:
        raise Unclear(
            f"nothing tells the grid of its {count} positions: with {_beside(tokens)} they are "
            f"{'no square' if not square else 'more than one square'}, and no {CONFIG} gives the size of the image. "
            f"Left as it is; pass ",
            option,
        )
    [(front, side)] = square
    return PositionGrid((side, side), front)


def _told(name: str, count: int, grid: tuple[int, ...]) -> PositionGrid:
    prefix = count - math.prod(grid)
    if prefix < 0:
        raise RekernelError(
            f"{shown(name)}: a grid of {dims(grid)} has {math.prod(grid)} patches, but the table has {count} "
            f"positions; pass the number of patches along each axis of the trained image"
        )
    return PositionGrid(grid, prefix)


def assumed_square(change: LayerChange, hints: Hints) -> str:
    """The note about a table whose grid was taken for a square, since no config.json told it; empty for any other."""
    if change.kind != "values" or len(change.shape) > 3 or hints.given("grid", change.name) is not None:
        return ""
    grid = change.view[change.grid_axis : change.grid_axis + 2]
    return Note(
        f"{shown(change.name)}: its {math.prod(grid)} patches are taken for a grid of {dims(grid)}, since no {CONFIG} "
        f"beside the weights gives the size of the image; for another grid pass ",
        grid_of(change.name),
    )


def grid_of(name: str) -> Option:
    """The hint that tells the grid of a table of positions, for a message.

    Examples
    --------
    >>> str(grid_of("pos_embed")), grid_of("pos_embed").flag
    ("hints=Hints(grid={'pos_embed': (H, W)})", '--grid pos_embed=H,W')
    """
    return Option(f"hints=Hints(grid={{{shown(name)!r}: (H, W)}})", f"--grid {shell_word(f'{name}=H,W')}")


def trained_image(folder: Path) -> tuple[int, int] | None:
    """Height and width of the trained image, from the config.json in a folder; None if it does not tell one size.

    Configurations of transformers and of timm are read, also those that hold the one of the vision model.

    Examples
    --------
    >>> trained_image(Path("no/such/folder")) is None
    True
    """
    config: Mapping[str, Any] = {}
    with suppress(RekernelError):  # a file that is not a configuration tells nothing
        config = read_object(folder / CONFIG)
    inner = [config, _object(config.get("model_args"))]
    inner += [_object(value) for key, value in config.items() if key.endswith("config")]
    for some in inner:
        for key in _SIZES:
            if key in some:
                return pair_of(some[key])
    size = _object(config.get("pretrained_cfg")).get("input_size")  # timm: (C, H, W)
    return pair_of(size[1:]) if isinstance(size, list) and len(size) == 3 else None


def pair_of(value: object) -> tuple[int, int] | None:
    """(height, width) from one positive number for both, or from two; None for anything else.

    Examples
    --------
    >>> pair_of(224), pair_of([256, 128]), pair_of("224")
    ((224, 224), (256, 128), None)
    """
    if isinstance(value, int) and value > 0 and not isinstance(value, bool):
        return value, value
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value):
        return value[0], value[1]
    return None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _beside(tokens: Tokens) -> str:
    return f"the tokens beside them, {tokens}," if tokens.in_front() != (0,) else "no token beside them"
