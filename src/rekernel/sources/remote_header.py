"""Read the header of a safetensors file on a server, with as few requests as possible.

Scope: one header. Not here: requests (see `sources.hub_place`, `sources.store_place`).
"""

from __future__ import annotations

from collections.abc import Callable

from ..checkpoint.header import header_length
from ..errors import CheckpointError
from ..escape import shown_path

_FIRST = 100_000  # bytes of the first request: nearly every header fits, as in huggingface_hub


def whole_header(read: Callable[[int], bytes], size: int, where: str) -> bytes:
    """Read the length and text of a header, in at most two reads.

    Parameters
    ----------
    read : callable (count) -> bytes
        Returns the next `count` bytes of the file.
    size : int
        Size of the file in bytes.
    where : str
        Name of the file in messages.

    Examples
    --------
    >>> import io
    >>> from rekernel.checkpoint.header import build_header
    >>> raw, _ = build_header([("w", "F16", (2, 2))])
    >>> whole_header(io.BytesIO(raw + bytes(8)).read, len(raw) + 8, "net.safetensors") == raw
    True
    """
    where = shown_path(where)
    raw = read(min(size, _FIRST)) if size else b""
    end = 8 + header_length(raw[:512], size, where)
    if len(raw) < end:
        raw += read(end - len(raw))
    if len(raw) < end:
        raise CheckpointError(f"{where}: the server sent only a part of the header; try again.")
    return raw[:end]
