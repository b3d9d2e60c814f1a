"""Escape names from a file, so that they are harmless on a terminal line or in a Markdown table.

Scope: text. The author of a checkpoint chooses tensor names, metadata and file names, so they are untrusted data: every
message must escape them with the functions here. Not here: the markup of a Rich console, which also reads square
brackets (see `rekernel_cli.terminal`, which turns markup off).
"""

from __future__ import annotations

import os
import re
import shlex

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
# All characters with a meaning in CommonMark, GitHub's tables and autolinks, HTML or TeX. Written as numeric
# references, these characters are always plain text.
_MARKUP = re.compile(r"[\\`*{}\[\]<>&|~#!$@:\"'^]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=www)\.|^[-+=]", re.IGNORECASE)


def shown(name: str, limit: int = 120) -> str:
    r"""Return `name` as one line of printable text, of at most `limit` characters.

    Control characters (ANSI sequences, newlines), bidirectional and zero-width marks, lone surrogates and the
    backslash are escaped as in a Python string. A longer name keeps both ends, where tensor names differ.

    Parameters
    ----------
    name : str
        Any text, from any source.
    limit : int
        Largest length of the result; at least 8.

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
    # Only the ends are escaped: a name may have 100 MB.
    pieces = [_escaped(c) for c in (name if len(name) <= 2 * limit else name[:limit] + name[-limit:])]
    if len(name) <= limit and sum(map(len, pieces)) <= limit:
        return "".join(pieces)
    room = (limit - 3) // 2
    head, tail = _fitted(pieces, room), _fitted(pieces[::-1], room)[::-1]
    return "".join([*head, "...", *tail])


def cause(error: BaseException, limit: int = 200) -> str:
    """Return the first line of an error that code of others raised, as part of a sentence; its kind if it is empty.

    Examples
    --------
    >>> cause(ValueError("no such size.\\nlong explanation")), cause(AssertionError())
    ('no such size', 'an AssertionError without a message')
    """
    text = str(error).strip().partition("\n")[0].rstrip(" .;:")
    kind = type(error).__name__
    return shown(text, limit) if text else f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind} without a message"


def finding(error: BaseException, limit: int = 200) -> str:
    """Return what one of our own errors says first, as part of a note: the advice behind it is not for its reader.

    Examples
    --------
    >>> finding(ValueError("conv: gives a grid of (8, 8). Choose another size")), finding(ValueError("a; b"))
    ('conv: gives a grid of (8, 8)', 'a')
    """
    return shown(re.split(r"[.;] ", str(error), maxsplit=1)[0], limit)


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path for a message: like `shown`, with a larger limit.

    Examples
    --------
    >>> shown_path("models/unet.safetensors")
    'models/unet.safetensors'
    """
    return shown(os.fspath(path), 400)


def shell_word(name: str | os.PathLike[str], limit: int = 1000) -> str:
    r"""Return a name as a shell reads it as one word, for a command in a message.

    Text that a terminal may not be shown is escaped in the quotes $'...' of bash, zsh and POSIX 2024. A longer name
    than `limit` is shortened as by `shown`.

    Examples
    --------
    >>> print(shell_word("a/unet.safetensors"), shell_word("my unet"), shell_word("it's"), shell_word("-x"))
    a/unet.safetensors 'my unet' 'it'"'"'s' ./-x
    >>> print(shell_word("a\x1b[2J\n"), shell_word("\udcc3"))
    $'a\x1b[2J\n' $'\xc3'
    """
    text = os.fspath(name)
    text = f"./{text}" if text.startswith("-") else text
    if len(text) > limit:
        return shlex.quote(shown(text, limit))
    if text.isprintable():
        return shlex.quote(text)
    pieces = [f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else _escaped(c) for c in text]
    return "$'" + "".join(pieces).replace("'", "\\'") + "'"


def inert(text: str, limit: int = 2000) -> str:
    r"""Text whose names are escaped already, as it is; where it is not one printable line, escaped as a whole.

    Examples
    --------
    >>> print(inert("conv: left as it is"), inert("a\x1b[2Jb"))
    conv: left as it is a\x1b[2Jb
    """
    return text if len(text) <= limit and text.isprintable() else shown(text, limit)


def shown_markdown(name: str, limit: int = 120) -> str:
    """Like `shown`, and inert in Markdown: the text cannot end a table cell or begin HTML, a link or a formula.

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
    """Return the longest beginning of `pieces` of at most `room` characters; no escape is cut in two."""
    kept: list[str] = []
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return kept
