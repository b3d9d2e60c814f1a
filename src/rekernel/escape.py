"""Names that come from a file, made harmless for a terminal line or a Markdown table.

Knows text alone. Tensor names, metadata and file names are chosen by whoever wrote the checkpoint: they are data, and
every message shows them through here. A Rich console reads square brackets as markup on top of that; its own
`rich.markup.escape` stays the caller's business.
"""

from __future__ import annotations

import os
import re

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Everything with a meaning in CommonMark, GitHub's tables and autolinks, HTML or TeX; as numeric references these
# characters are text by definition and cannot open a structure.
_MARKUP = re.compile(r"[\\`*{}\[\]<>&|~#!$@:\"'^]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=www)\.|^[-+=]", re.IGNORECASE)


def shown(name: str, limit: int = 120) -> str:
    r"""One line of printable text that stands for `name`, at most `limit` characters long.

    Control characters (ANSI sequences, newlines), bidirectional and zero-width marks, lone surrogates and the
    backslash are escaped as Python writes them. Of a longer name both ends are kept, since tensor names differ there.

    Parameters
    ----------
    name : str
        Any text, hostile or not.
    limit : int
        Greatest length of the result; at least 8.

    Examples
    --------
    >>> print(shown("conv_in.weight"), shown("a\x1b[2Jb\u202ec\n"), shown(""))
    conv_in.weight a\x1b[2Jb\u202ec\n ''
    >>> shown("block." * 30 + "weight", limit=30)
    'block.block.b....block.weight'
    """
    if name == "":
        return "''"
    if len(name) <= limit and name.isprintable() and "\\" not in name:
        return name
    # Nobody has to escape a name of 100 MB to print its ends.
    pieces = [_escaped(c) for c in (name if len(name) <= 2 * limit else name[:limit] + name[-limit:])]
    if len(name) <= limit and sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    room = (limit - 3) // 2
    head, tail = _fitted(pieces, room), _fitted(pieces[::-1], room)[::-1]
    return "".join([*head, "...", *tail])


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path for a message: `shown`, with room for a long one.

    Examples
    --------
    >>> shown_path("models/unet.safetensors")
    'models/unet.safetensors'
    """
    return shown(os.fspath(path), 400)


def inert(text: str, limit: int = 2000) -> str:
    r"""Text whose names are escaped already, as it is; where it is not one printable line, escaped as a whole.

    Examples
    --------
    >>> print(inert("conv: left as it is"), inert("a\x1b[2Jb"))
    conv: left as it is a\x1b[2Jb
    """
    return text if len(text) <= limit and text.isprintable() else shown(text, limit)


def shown_markdown(name: str, limit: int = 120) -> str:
    """Like `shown`, and inert in Markdown: no table cell ends, no HTML, link, mention, emphasis or formula begins.

    Examples
    --------
    >>> shown_markdown("down_blocks.0.conv_in.weight")
    'down_blocks.0.conv_in.weight'
    >>> shown_markdown("a|b<img>[x](http://y)")
    'a&#124;b&#60;img&#62;&#91;x&#93;(http&#58;//y)'
    """
    return _MARKUP.sub(lambda match: f"&#{ord(match.group())};", shown(name, limit))


def _escaped(c: str) -> str:
    if c in _SHORT:
        return _SHORT[c]
    if c.isprintable():
        return c
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _fitted(pieces: list[str], room: int) -> list[str]:
    """The longest beginning of `pieces` within `room` characters; an escape is never cut in two."""
    kept: list[str] = []
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return kept
