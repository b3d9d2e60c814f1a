"""Refuse what no planner can use: a plan that changes nothing, and weights that were rescaled before.

Scope: errors that all planners share. Not here: what a single layer cannot do (see `planning.rules`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoint.strict_json import read_object
from ..checkpoint.tensor_source import TensorSource
from ..errors import Option, RekernelError
from ..escape import shown, shown_path
from ..messages.note import names_option, parts_of
from ..plan.config_file import KEY
from ..plan.recipe import find_recipe
from ..text import scale_text


def nothing_changes(where: str, warnings: Sequence[str], reasons: Iterable[str] = ()) -> RekernelError:
    """The error for a plan that changes nothing. It quotes up to three notes, those that name an option first.

    Without notes it quotes the commonest `reasons` for which tensors stay, and names the command that lists them.
    """
    if not warnings:
        common = [reason for reason, _ in Counter(reasons).most_common(2)]
        why = f", since every tensor stays ({'; '.join(common)})" if common else ""
        return RekernelError(
            f"{where}: the plan changes nothing{why}; pass the weights of a network with convolutions, patches or ",
            Option("a grid: hints=Hints(linear_grid=...)", "a grid: --linear-grid"),
        )
    telling = sorted(warnings, key=names_option, reverse=True)
    more = len(telling) - 3
    rest = f" ({more} more note{'s' if more > 1 else ''}: see the plan.)" if more > 0 else ""
    notes = [part for note in telling[:3] for part in (" Note: ", *parts_of(note), ".")]
    return RekernelError(f"{where}: the plan changes nothing.", *notes, rest)


def refuse_rescaled(source: TensorSource) -> None:
    """Raise if a checkpoint was rescaled before: its layers no longer have the strides that their names imply."""
    recipe = find_recipe(source.metadata)
    if recipe is not None:
        scale = scale_text(recipe.plan.scale)
        raise RekernelError(
            f"{shown_path(source.path)}: was rescaled already (scale {scale}, {shown(recipe.tool)}) "
            f"and its layers no longer have their trained kernels and strides; convert the original instead"
        )


def refuse_recorded(weights: Path, *, whole: bool) -> None:
    """Raise if the `config.json` beside the weights records that they were rescaled, or records guidance for them.

    Parameters
    ----------
    weights : Path
        The file with the weights, or its folder.
    whole : bool
        Whether the whole folder is converted, `config.json` included. A single file is converted without the guidance
        that its folder records.

    Raises
    ------
    RekernelError
        If a conversion would apply the scale a second time.
    """
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    entry: Any = None
    with suppress(RekernelError):  # whose config it is does not matter here
        entry = read_object(path).get(KEY)
    if not isinstance(entry, dict):
        return
    scale = shown(str(entry.get("scale")))
    if "plan" in entry:
        raise RekernelError(
            f"{shown_path(path)}: says that these weights were rescaled already (scale {scale}); convert the original "
            f"instead"
        )
    if whole:
        raise RekernelError(
            f"{shown_path(path)}: records guidance (scale {scale}), which would come on top of rescaled weights; "
            f"convert the original folder, without guidance"
        )
