"""Parse the header of a safetensors file strictly, and write it exactly as the reference implementation does.

Scope: bytes, JSON and offsets. Not here: the data after the header (see `checkpoint.tensor_source`). The parser is
stricter than the reference where a file has two meanings (duplicate keys) or a part without meaning (unknown fields):
tests/hostile/README.md lists each case.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..errors import CheckpointError
from ..escape import shown
from .dtypes import DTYPE_BITS
from .file_kind import DOWNLOAD_AGAIN, foreign_format
from .strict_json import encodable, quoted, strict_json

MAX_HEADER = 100_000_000
BLOCK = 4096  # bytes of a block of a file system
# A header can list much in few bytes, and all work before the first tensor grows with these counts. The limits are far
# above every checkpoint in use: torch and NumPy compute with up to 64 axes, and a name is a path through a network.
MAX_TENSORS = 1 << 17
MAX_AXES = 128
MAX_NAME = 1 << 16
MAX_METADATA = 1 << 16
_MAX_SIZE = 2**63 - 1
_FIELDS = ("dtype", "shape", "data_offsets")

_RANK = {dtype: rank for rank, dtype in enumerate(DTYPE_BITS)}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The entry of one tensor in a header.

    `start` and `end` are byte offsets into the data section: `end - start` is exactly the size of the data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data; 0 where a dimension is 0."""
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    tensors : entries in the order of their data, which together cover the data section exactly once
    metadata : the `__metadata__` map; empty if the file has none
    data_start : offset of the data section in the file
    has_metadata : whether the file has a `__metadata__` map, which may be empty
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int
    has_metadata: bool = field(default=True)


def tensor_nbytes(dtype: str, shape: Sequence[int], where: str) -> int:
    """Return the size of a tensor in bytes; raise if no tensor can have this dtype and shape.

    `where` begins the message.

    Examples
    --------
    >>> tensor_nbytes("BF16", (2, 3), "w"), tensor_nbytes("F4", (2,), "w"), tensor_nbytes("F32", (), "w")
    (12, 1, 4)
    """
    if dtype not in DTYPE_BITS:
        raise CheckpointError(f"{where}: unknown dtype {shown(dtype)}; known are {', '.join(DTYPE_BITS)}.")
    _check_count(len(shape), MAX_AXES, "axes", where)
    bits, empty = DTYPE_BITS[dtype], False
    for size in shape:
        if type(size) is not int or size < 0 or size > _MAX_SIZE:
            raise CheckpointError(f"{where}: shape has {_described(size)}, not a size from 0 to 2**63 - 1.")
        empty = empty or size == 0
        bits *= size or 1  # an overflow is refused also if another size is 0, in any order
        if bits > _MAX_SIZE:
            raise CheckpointError(f"{where}: shape {shape_text(shape)} of {dtype} overflows 63 bits.")
    if not empty and bits % 8:
        raise CheckpointError(f"{where}: shape {shape_text(shape)} of {dtype} ends inside a byte ({bits} bits).")
    return 0 if empty else bits // 8


def build_header(
    tensors: Iterable[tuple[str, str, Sequence[int]]],
    metadata: Mapping[str, str] | None = None,
    *,
    data_at: int | None = None,
) -> tuple[bytes, dict[str, TensorInfo]]:
    """Build the header (length, JSON, padding) of a file, and decide where each tensor goes.

    The bytes are those that `safetensors.serialize` writes, except that metadata keys are sorted: `serialize` writes
    them in a random order.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape)
        In any order: they are laid out by descending alignment, then name.
    metadata : mapping of str to str, or None
        None writes no `__metadata__` at all; an empty mapping writes an empty one.
    data_at : int, optional
        A multiple of 8 below 4096: spaces make the length of the header this number modulo 4096.

    Returns
    -------
    raw : bytes, whose length is a multiple of 8; the data section follows
    infos : dict of name to TensorInfo, in the order of the data

    Examples
    --------
    >>> raw, infos = build_header([("b", "U8", (3,)), ("w", "F16", (2, 2))], {"format": "pt"})
    >>> len(raw) % 8, [(info.name, info.start, info.end) for info in infos.values()]
    (0, [('w', 0, 8), ('b', 8, 11)])
    """
    entries: list[tuple[int, str, str, tuple[int, ...], int]] = []
    for name, dtype, shape in tensors:
        if name == "__metadata__":
            raise CheckpointError("__metadata__: this name is reserved by the format; give the tensor another name.")
        where = shown(encodable(name))
        _check_count(len(name), MAX_NAME, "characters in its name", where)
        nbytes = tensor_nbytes(dtype, shape, where)
        entries.append((-_RANK[dtype], name, dtype, tuple(shape), nbytes))
    _check_count(len(entries), MAX_TENSORS, "tensors", "this file")
    entries.sort(key=lambda entry: entry[:2])
    for one, other in pairwise(sorted(entry[1] for entry in entries)):
        if one == other:
            raise CheckpointError(f"{shown(one)}: two tensors of this name in one file; rename one.")

    parts: list[str] = []
    if metadata is not None:
        for key, value in metadata.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise CheckpointError(
                    f"metadata {shown(str(key))}: the value is {_described(value)}, not text; use str()."
                )
        pairs = (f"{quoted(key)}:{quoted(metadata[key])}" for key in sorted(metadata))
        parts.append('"__metadata__":{' + ",".join(pairs) + "}")
    infos: dict[str, TensorInfo] = {}
    offset = 0
    for _, name, dtype, shape, nbytes in entries:
        start, offset = offset, offset + nbytes
        infos[name] = TensorInfo(name, dtype, shape, start, offset)
        sizes = ",".join(map(str, shape))
        parts.append(f'{quoted(name)}:{{"dtype":"{dtype}","shape":[{sizes}],"data_offsets":[{start},{offset}]}}')
    text = ("{" + ",".join(parts) + "}").encode()
    text += b" " * (-len(text) % 8 if data_at is None else (data_at - 8 - len(text)) % BLOCK)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"a header of {len(text)} bytes is over the limit of {MAX_HEADER}: shorten the metadata.")
    return len(text).to_bytes(8, "little") + text, infos


def read_header(fd: int, where: str) -> Header:
    """Read and check the header of an open safetensors file at position 0.

    The size of the file is checked too; the data is not read.

    Parameters
    ----------
    where : str
        How every message calls the file.
    """
    size = os.fstat(fd).st_size
    with open(fd, "rb", closefd=False) as file:
        prefix = file.read(512)
        length = header_length(prefix, size, where)
        raw = prefix[: 8 + length] + file.read(max(0, 8 + length - len(prefix)))
    return parse_header(raw, size=size, where=where)


def header_length(prefix: bytes, size: int, where: str) -> int:
    """Return the length of the JSON text, from the first bytes of a file.

    `prefix` needs some hundred bytes, so that the error for a file of another format can name that format.
    """
    if size < 8 or len(prefix) < 8:
        short = _count(min(size, len(prefix)))
        raise CheckpointError(f"{where}: the file has {short}, fewer than the 8 of a header length: {DOWNLOAD_AGAIN}")
    length = int.from_bytes(prefix[:8], "little")
    if length > MAX_HEADER or length > size - 8:
        if foreign := foreign_format(prefix):
            raise CheckpointError(f"{where}: ", *foreign)
        if length > MAX_HEADER:
            if (
                prefix[:8].isascii() and "".join(prefix[:8].decode().split()).isprintable()
            ):  # text: its first letters are not a length
                raise CheckpointError(f"{where}: is not a safetensors file; pass a .safetensors file.")
            raise CheckpointError(
                f"{where}: not a safetensors file: it begins with a header length of {length}, over the limit of "
                f"{MAX_HEADER}; pass a .safetensors file."
            )
        raise CheckpointError(
            f"{where}: a header of {length} bytes in a file of {size} bytes, cut short: {DOWNLOAD_AGAIN}"
        )
    if length == 0:
        raise CheckpointError(f"{where}: header length 0: not a safetensors file, or its writer did not finish.")
    return length


def parse_header(raw: bytes, *, size: int | None = None, where: str = "header") -> Header:
    """Parse the header at the beginning of `raw`, and check it in full against a file of `size` bytes.

    Parameters
    ----------
    raw : bytes
        The beginning of a file: length, JSON and possibly some data.
    size : int, optional
        Size of the whole file; by default the length of `raw`.
    where : str
        Name of the file, which begins every message.

    Raises
    ------
    CheckpointError
        If the header breaks a rule of the format; the message names the rule.

    Examples
    --------
    >>> raw, _ = build_header([("w", "F16", (2, 2))])
    >>> parse_header(raw + bytes(8)).tensors["w"]
    TensorInfo(name='w', dtype='F16', shape=(2, 2), start=0, end=8)
    >>> parse_header(raw + bytes(7), where="in.safetensors")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: in.safetensors: the file was cut short, 1 byte of data is missing: download or
    copy it again.
    """
    size = len(raw) if size is None else size
    length = header_length(raw, size, where)
    text = raw[8 : 8 + length]
    if len(text) < length:
        raise CheckpointError(f"{where}: the file was cut short while its header was read: {DOWNLOAD_AGAIN}")
    if not text.startswith(b"{"):
        raise CheckpointError(
            f"{where}: the header starts with {ascii(text[:1])[1:]}, not with '{{': not a safetensors file."
        )
    parsed = strict_json(text, where, "header")
    assert isinstance(parsed, dict)  # it starts with a brace
    has_metadata = "__metadata__" in parsed
    metadata = _checked_metadata(parsed.pop("__metadata__", {}), where)
    _check_count(len(parsed), MAX_TENSORS, "tensors", where)
    infos = [_checked_tensor(name, entry, where) for name, entry in parsed.items()]
    infos.sort(key=lambda info: (info.start, info.end))
    _check_coverage(infos, size - 8 - length, where)
    return Header({info.name: info for info in infos}, metadata, 8 + length, has_metadata)


def _checked_metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: __metadata__ is {_described(value)}, not a map of text to text.")
    _check_count(len(value), MAX_METADATA, "entries of metadata", where)
    for key, item in value.items():
        if not isinstance(item, str):
            raise CheckpointError(f"{where}: __metadata__ {shown(key)} is {_described(item)}, not text.")
    return value


def _checked_tensor(name: str, entry: object, where: str) -> TensorInfo:
    where = f"{where}: tensor {shown(name)}"
    _check_count(len(name), MAX_NAME, "characters in its name", where)
    if not isinstance(entry, dict):
        raise CheckpointError(
            f"{where}: the entry is {_described(entry)}, not an object with dtype, shape and data_offsets."
        )
    for key in _FIELDS:
        if key not in entry:
            raise CheckpointError(f"{where}: the entry has no {key}.")
    if len(entry) > len(_FIELDS):
        extra = next(key for key in entry if key not in _FIELDS)
        raise CheckpointError(f"{where}: unknown field {shown(extra)}; the fields are {', '.join(_FIELDS)}.")
    dtype, shape, offsets = (entry[key] for key in _FIELDS)
    if not isinstance(dtype, str):
        raise CheckpointError(f"{where}: dtype is {_described(dtype)}, not text.")
    if not isinstance(shape, list):
        raise CheckpointError(f"{where}: shape is {_described(shape)}, not a list.")
    nbytes = tensor_nbytes(dtype, shape, where)
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise CheckpointError(f"{where}: data_offsets is not a list of two offsets.")
    for offset in offsets:
        if type(offset) is not int or not 0 <= offset <= _MAX_SIZE:
            raise CheckpointError(f"{where}: data_offsets has {_described(offset)}, not a number from 0 to 2**63 - 1.")
    start, end = offsets
    if end < start:
        raise CheckpointError(f"{where}: data_offsets [{start}, {end}] run backwards.")
    if end - start != nbytes:
        raise CheckpointError(
            f"{where}: {dtype} of shape {shape_text(shape)} takes {nbytes} bytes, but data_offsets span {end - start}."
        )
    return TensorInfo(name, dtype, tuple(shape), start, end)


def _check_coverage(infos: list[TensorInfo], available: int, where: str) -> None:
    end, previous = 0, ""
    for info in infos:
        if info.start < end:
            raise CheckpointError(
                f"{where}: tensors {shown(previous)} and {shown(info.name)} overlap in bytes {info.start} to {end}."
            )
        if info.start > end:
            raise CheckpointError(
                f"{where}: no tensor covers bytes {end} to {info.start}, before tensor {shown(info.name)}."
            )
        end, previous = info.end, info.name
    if end > available:
        verb = "is" if end - available == 1 else "are"
        raise CheckpointError(
            f"{where}: the file was cut short, {_count(end - available)} of data {verb} missing: {DOWNLOAD_AGAIN}"
        )
    if end < available:
        raise CheckpointError(
            f"{where}: the file has {_count(available - end)} after the last tensor: {DOWNLOAD_AGAIN}"
        )


def _check_count(count: int, most: int, what: str, where: str) -> None:
    if count > most:
        raise CheckpointError(f"{where}: has {count} {what}, over the limit of {most}: not a checkpoint of a network.")


def _count(n: int) -> str:
    return f"{n} byte{'' if n == 1 else 's'}"


def shape_text(shape: Sequence[int]) -> str:
    """Format a shape for a message; a very long shape is cut."""
    sizes = ", ".join(map(str, shape[:16]))
    return f"({sizes}, ... {len(shape)} sizes)" if len(shape) > 16 else f"({sizes})"


def _described(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else type(value).__name__
