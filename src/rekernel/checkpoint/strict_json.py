"""Parse JSON strictly: duplicate keys, NaN and broken text are errors.

Scope: JSON text. Not here: what a file means (see `checkpoint.header`, `checkpoint.shard_index`).
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, NoReturn

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .file_kind import DOWNLOAD_AGAIN, foreign_format, open_regular

LARGEST_CONFIG = 1 << 24
"""Largest size of a configuration in bytes. The largest in use have some hundred thousand."""


def read_object(
    path: str | os.PathLike[str], what: str = "configuration", limit: int = LARGEST_CONFIG
) -> dict[str, Any]:
    """Read the object in a small JSON file.

    Parameters
    ----------
    path : path
    what : str
        Name of this kind of file in messages.
    limit : int
        Largest size of the file in bytes.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is larger than `limit`, or does not hold an object in strict JSON.

    Examples
    --------
    >>> read_object("no/such/config.json")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: no/such/config.json: No such file or directory.
    """
    where = shown_path(path)
    with os.fdopen(open_regular(path), "rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise CheckpointError(f"{where}: has more than {limit} bytes, too many for this kind of file ({what}).")
    if not raw.lstrip().startswith(b"{"):
        why = foreign_format(raw[:512]) or (f"not a JSON object, as the {what} must be.",)
        raise CheckpointError(f"{where}: ", *why)
    parsed = strict_json(raw, where, what)
    assert isinstance(parsed, dict)  # it starts with a brace
    return parsed


def strict_json(raw: bytes, where: str, what: str, advice: str = f"; {DOWNLOAD_AGAIN}") -> object:
    """Parse JSON as in the standard: UTF-8, without duplicate keys, NaN, lone surrogates or very deep nesting.

    `advice` ends the message about bytes that are not JSON.

    Examples
    --------
    >>> strict_json(b'{"a": 1, "a": 2}', "x.json", "index")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: x.json: key a appears twice in one object of the index.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: the {what} is not UTF-8 (byte {error.start}).") from None
    try:
        parsed: object = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer, parse_float=_float
        )
        if "\\u" in text:  # only an escape can spell half a surrogate pair
            _check_text(parsed)
    except _FaultError as error:
        raise CheckpointError(f"{where}: {error} of the {what}.") from None
    except RecursionError:
        raise CheckpointError(f"{where}: the {what} is nested too deeply.") from None
    except json.JSONDecodeError as error:
        fault = f"{shown(error.msg)} at character {error.pos}"
        raise CheckpointError(f"{where}: the {what} is not JSON: {fault}{advice}") from None
    return parsed


def strict_text(text: str, where: str, what: str) -> object:
    """Parse JSON that is text already, as `strict_json` parses bytes.

    Examples
    --------
    >>> strict_text('{"scale": 1e999}', "plan", "text")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: plan: 1e999 overflows 64 bits, in a value of the text.
    """
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{where}: the {what} is not UTF-8 (character {error.start}).") from None
    return strict_json(raw, where, what, advice=".")


class _FaultError(Exception):
    """A fault found by a hook of the JSON parser. `strict_json` adds the name of the file."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _FaultError(f"key {shown(key)} appears twice in one object")
            seen.add(key)
    return found


def _no_constant(token: str) -> NoReturn:
    raise _FaultError(f"{token} is not JSON, yet appears as a value")


def _integer(digits: str) -> int | float:
    if len(digits) > 20:
        raise _FaultError(f"a number of {len(digits)} digits overflows 64 bits, in a value")
    return -0.0 if digits == "-0" else int(digits)  # as the reference implementation does: -0 is not a size


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _FaultError(f"{shown(digits, 40)} overflows 64 bits, in a value")
    return value


def _check_text(value: object) -> None:
    if isinstance(value, str):
        encodable(value, _FaultError)
    elif isinstance(value, dict):
        for key, item in value.items():
            encodable(key, _FaultError)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


def encodable(text: str, error: type[Exception] = CheckpointError) -> str:
    """Return `text`; raise if UTF-8 cannot encode it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise error(f"half of a surrogate pair in {shown(text)}, which no UTF-8 file can hold, in a text") from None
    return text


def quoted(text: str) -> str:
    """Return `text` as a JSON string."""
    # Without ASCII escapes, Python writes every character as serde_json does.
    return json.dumps(encodable(text), ensure_ascii=False)
