"""Count the tokens of a vision transformer that are not patches of the image, by the names of their tensors.

Scope: names and shapes. Not here: the grid of the patches (see `planning.position_grid`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod

from ..escape import shown
from .base import Shapes

_AHEAD = re.compile(r"(^|[._/])(cls|class|dist|distill|distillation)_?(tokens?|tok|embed(ding)?|emb)(:0)?$")
_REGISTER = re.compile(r"(^|[._/])(reg|regs|register|registers)_?(tokens?|tok|embed(ding)?|emb)(:0)?$")
_BEHIND = re.compile(r"(^|[._/])(det|detection)_?tokens?(:0)?$")
_POSITIONS = re.compile(
    r"(^|[._/])(pos|position|positional|spatial_pos)_?(embed|embeds|embedding|embeddings|encoding|table|emb)"
    r"([._/](weight|embeddings))?(:0)?$"
)


@dataclass(frozen=True)
class Tokens:
    """Tokens beside the patches, as a file shows them.

    ahead : {name of a tensor: number of tokens} for class and distillation tokens, which stand in front
    registers : the same for register tokens, which stand in front and need not have positions
    behind : the same for tokens of detections, which stand behind the patches
    """

    ahead: dict[str, int] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)

    def in_front(self) -> tuple[int, ...]:
        """The numbers of positions that may belong to tokens in front, the least first.

        Class tokens may lack positions, too, but then the file does not show whether they do.

        Examples
        --------
        >>> Tokens({"cls_token": 1}, {"register_tokens": 4}).in_front()
        (1, 5)
        """
        least, more = sum(self.ahead.values()), sum(self.registers.values())
        return (least, least + more) if more else (least,)

    def __str__(self) -> str:
        """The tokens for a note."""
        named = {**self.ahead, **self.registers, **self.behind}
        return ", ".join(f"{shown(name)} ({count})" for name, count in named.items())


def tokens_beside(table: str, shapes: Shapes) -> Tokens:
    """The tokens that a table of positions may have entries for: those of its own network and width.

    Parameters
    ----------
    table : str
        Name of the table.
    shapes : mapping
        Shapes of all tensors.

    Examples
    --------
    >>> shapes = {"pos_embed": (1, 129, 8), "cls_token": (1, 1, 8), "mask_token": (1, 1, 8), "t.cls_token": (1, 1, 4)}
    >>> tokens_beside("pos_embed", shapes)
    Tokens(ahead={'cls_token': 1}, registers={}, behind={})
    """
    width, found = shapes[table][-1], Tokens()
    for name, shape in shapes.items():
        if not 1 <= len(shape) <= 3 or shape[-1] != width or not _together(name, table):
            continue
        if _REGISTER.search(name):
            found.registers[name] = prod(shape[:-1])
        elif _AHEAD.search(name):
            found.ahead[name] = prod(shape[:-1])
        elif _BEHIND.search(name):
            found.behind[name] = prod(shape[:-1])
    return found


def is_table(name: str) -> bool:
    """Whether a tensor has the name of a table of positions.

    Examples
    --------
    >>> is_table("vit.embeddings.position_embeddings"), is_table("visual.positional_embedding"), is_table("pos_drop.p")
    (True, True, False)
    """
    return _POSITIONS.search(name) is not None


def _together(one: str, other: str) -> bool:
    """Whether two tensors belong to one network: the module of one lies in that of the other."""
    first, second = (re.split(r"[./]", name)[:-1] for name in (one, other))
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter]
