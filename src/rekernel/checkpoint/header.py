"""The header of a safetensors file: parsed strictly, written exactly as the reference implementation writes it.

Knows bytes, JSON and offsets; no array, no framework, and never the data behind the header.
Stricter than the reference where a file means two things at once (duplicate keys) or nothing (unknown fields):
tests/hostile/README.md lists each case.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from ..errors import CheckpointError, Option
from ..escape import shown, shown_path

MAX_HEADER = 100_000_000
_MAX_SIZE = 2**63 - 1
_FIELDS = ("dtype", "shape", "data_offsets")

# Bits per element. The order is the reference's order of alignment: files are laid out from the last to the first.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_RANK = {dtype: rank for rank, dtype in enumerate(DTYPE_BITS)}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file, without its data.

    `start` and `end` are byte offsets into the data section: `end - start` is exactly what dtype and shape need.
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
    """A whole header.

    tensors : in the order of their data; together they cover the data section, once.
    metadata : the `__metadata__` map; empty where there was none (`has_metadata` tells an empty map from none).
    data_start : where the data section begins in the file.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int
    has_metadata: bool = field(default=True)

    @property
    def data_size(self) -> int:
        """Bytes of the data section."""
        return max((info.end for info in self.tensors.values()), default=0)


def tensor_nbytes(dtype: str, shape: Sequence[int], where: str) -> int:
    """Bytes that a tensor takes; `where` begins the message if it cannot exist.

    Examples
    --------
    >>> tensor_nbytes("BF16", (2, 3), "w"), tensor_nbytes("F4", (2,), "w"), tensor_nbytes("F32", (), "w")
    (12, 1, 4)
    """
    if dtype not in DTYPE_BITS:
        raise CheckpointError(f"{where}: unknown dtype {shown(dtype)}; known are {', '.join(DTYPE_BITS)}.")
    bits, empty = DTYPE_BITS[dtype], False
    for size in shape:
        if type(size) is not int or size < 0 or size > _MAX_SIZE:
            raise CheckpointError(f"{where}: shape has {_described(size)} where a size from 0 to 2**63 - 1 belongs.")
        empty = empty or size == 0
        bits *= size or 1  # an overflow beside a 0 is still refused, whatever the order
        if bits > _MAX_SIZE:
            raise CheckpointError(f"{where}: shape {shape_text(shape)} of {dtype} overflows 63 bits.")
    if not empty and bits % 8:
        raise CheckpointError(f"{where}: shape {shape_text(shape)} of {dtype} ends inside a byte ({bits} bits).")
    return 0 if empty else bits // 8


def build_header(
    tensors: Iterable[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, dict[str, TensorInfo]]:
    """Header bytes (length, JSON, padding) for tensors given as (name, dtype, shape), and where each tensor goes.

    Byte for byte what `safetensors.serialize` writes; metadata keys, which it leaves in a random order, are sorted.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape)
        In any order: they are laid out by descending alignment, then name.
    metadata : mapping of str to str, or None
        None writes no `__metadata__` at all; an empty mapping writes an empty one.

    Returns
    -------
    raw : bytes, a multiple of 8 long; the data section follows it
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
            raise CheckpointError("__metadata__: reserved by the format; give the tensor another name.")
        nbytes = tensor_nbytes(dtype, shape, shown(_encodable(name)))
        entries.append((-_RANK[dtype], name, dtype, tuple(shape), nbytes))
    entries.sort(key=lambda entry: entry[:2])
    for one, other in pairwise(sorted(entry[1] for entry in entries)):
        if one == other:
            raise CheckpointError(f"{shown(one)}: two tensors of this name in one file; rename one.")

    parts: list[str] = []
    if metadata is not None:
        for key, value in metadata.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise CheckpointError(f"metadata {shown(str(key))}: {_described(value)} where text belongs; use str().")
        pairs = (f"{_quoted(key)}:{_quoted(metadata[key])}" for key in sorted(metadata))
        parts.append('"__metadata__":{' + ",".join(pairs) + "}")
    infos: dict[str, TensorInfo] = {}
    offset = 0
    for _, name, dtype, shape, nbytes in entries:
        start, offset = offset, offset + nbytes
        infos[name] = TensorInfo(name, dtype, shape, start, offset)
        sizes = ",".join(map(str, shape))
        parts.append(f'{_quoted(name)}:{{"dtype":"{dtype}","shape":[{sizes}],"data_offsets":[{start},{offset}]}}')
    text = ("{" + ",".join(parts) + "}").encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"header of {len(text)} bytes, over the format's {MAX_HEADER}: shorten the metadata.")
    return len(text).to_bytes(8, "little") + text, infos


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a safetensors file; its data is not read, but the file's size has to fit.

    Examples
    --------
    >>> read_header("no/such/file.safetensors")
    Traceback (most recent call last):
    rekernel.checkpoint.header.CheckpointError: no/such/file.safetensors: No such file or directory.
    """
    fd = open_regular(path)
    try:
        return read_header_from(fd, shown_path(path))
    finally:
        os.close(fd)


def read_header_from(fd: int, where: str) -> Header:
    """As `read_header`, from a file descriptor at position 0; `where` begins every message."""
    size = os.fstat(fd).st_size
    with open(fd, "rb", closefd=False) as file:
        prefix = file.read(512)
        length = header_length(prefix, size, where)
        raw = prefix[: 8 + length] + file.read(max(0, 8 + length - len(prefix)))
    return parse_header(raw, size=size, where=where)


def open_regular(path: str | os.PathLike[str]) -> int:
    """A descriptor for reading `path`, which has to be a regular file: a pipe waits, a device never ends."""
    where = shown_path(path)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        fd = os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"{where}: {reason}.") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointError(f"{where}: not a regular file; pass a .safetensors file.")
    return fd


def header_length(prefix: bytes, size: int, where: str) -> int:
    """Length of the JSON text, out of the file's first bytes (some hundred, to name what the file is instead)."""
    if size < 8 or len(prefix) < 8:
        short = _count(min(size, len(prefix)))
        raise CheckpointError(f"{where}: {short}, shorter than the 8 of a header length: {_AGAIN}")
    length = int.from_bytes(prefix[:8], "little")
    if length > MAX_HEADER or length > size - 8:
        if foreign := foreign_format(prefix):
            raise CheckpointError(f"{where}: ", *foreign)
        if length > MAX_HEADER:
            raise CheckpointError(f"{where}: header length {length}, over the format's {MAX_HEADER}: not safetensors.")
        raise CheckpointError(f"{where}: header of {length} bytes in a file of {size}, cut short: {_AGAIN}")
    if length == 0:
        raise CheckpointError(f"{where}: header length 0: not safetensors, or never finished being written.")
    return length


def is_pickle(prefix: bytes) -> bool:
    """Whether a file's first bytes are those of a torch checkpoint: a zip archive, or a bare pickle."""
    if _is_npz(prefix):
        return False
    return prefix.startswith(b"PK\x03\x04") or (prefix[:1] == b"\x80" and prefix[1:2] in (b"\2", b"\3", b"\4", b"\5"))


def _is_npz(prefix: bytes) -> bool:
    """Whether a zip archive begins with an array of NumPy's, as its first entry's name tells."""
    name = prefix[30 : 30 + int.from_bytes(prefix[26:28], "little")]
    return prefix.startswith(b"PK\x03\x04") and name.endswith(b".npy")


ALLOW_PICKLE = Option("allow_pickle=True", "--allow-pickle")
"""What lets a pickle be read."""

_AGAIN = "download or copy it again."
_FOREIGN = {
    b"version https://git-lfs.github.com/spec": "a Git LFS pointer, not the weights: run `git lfs pull` in its folder.",
    b"gguf": "a GGUF file, not safetensors: pass the original safetensors weights.",
    b"\x89hdf\r\n": "an HDF5 file, not safetensors: save its tensors with safetensors first.",
    b"<!doctype html": f"an HTML page saved as weights (a login or error page?): {_AGAIN}",
    b"<html": f"an HTML page saved as weights (a login or error page?): {_AGAIN}",
    b"<?xml": f"an XML page saved as weights (an error answer?): {_AGAIN}",
    b"{": "JSON text without the 8-byte length of a safetensors file: pass the weights, or a *.safetensors.index.json.",
}


def foreign_format(prefix: bytes) -> tuple[str | Option, ...]:
    """What a file that is no safetensors file is instead, with the way out, as parts of a message; none if unknown."""
    if is_pickle(prefix):
        what = "a torch pickle, not safetensors; convert it to safetensors, or pass "
        return what, ALLOW_PICKLE, " (tensors only)."
    if _is_npz(prefix):
        return ("arrays of NumPy (.npz), not safetensors: save them with safetensors.numpy.save_file first.",)
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next(((message,) for magic, message in _FOREIGN.items() if text.startswith(magic)), ())


def parse_header(raw: bytes, *, size: int | None = None, where: str = "header") -> Header:
    """The header at the beginning of `raw`, checked in full against a file of `size` bytes.

    Parameters
    ----------
    raw : bytes
        The beginning of a file: length, JSON and possibly some data.
    size : int, optional
        Size of the whole file; that of `raw` if not given.
    where : str
        Begins every message.

    Raises
    ------
    CheckpointError
        For each fault its own message.

    Examples
    --------
    >>> raw, _ = build_header([("w", "F16", (2, 2))])
    >>> parse_header(raw + bytes(8)).tensors["w"]
    TensorInfo(name='w', dtype='F16', shape=(2, 2), start=0, end=8)
    >>> parse_header(raw + bytes(7), where="in.safetensors")
    Traceback (most recent call last):
    rekernel.checkpoint.header.CheckpointError: in.safetensors: 1 byte of data missing, cut short: download or copy it again.
    """
    size = len(raw) if size is None else size
    length = header_length(raw, size, where)
    text = raw[8 : 8 + length]
    if len(text) < length:
        raise CheckpointError(f"{where}: the header was cut short while it was read: {_AGAIN}")
    if not text.startswith(b"{"):
        raise CheckpointError(f"{where}: the header starts with {ascii(text[:1])[1:]}, not with '{{': not safetensors.")
    parsed = strict_json(text, where, "header")
    assert isinstance(parsed, dict)  # it starts with a brace
    has_metadata = "__metadata__" in parsed
    metadata = _checked_metadata(parsed.pop("__metadata__", {}), where)
    infos = [_checked_tensor(name, entry, where) for name, entry in parsed.items()]
    infos.sort(key=lambda info: (info.start, info.end))
    _check_coverage(infos, size - 8 - length, where)
    return Header({info.name: info for info in infos}, metadata, 8 + length, has_metadata)


def strict_json(raw: bytes, where: str, what: str) -> object:
    """JSON as the standard has it: UTF-8, no duplicate keys, no NaN, no lone surrogates, no bottomless nesting.

    Examples
    --------
    >>> strict_json(b'{"a": 1, "a": 2}', "x.json", "index")
    Traceback (most recent call last):
    rekernel.checkpoint.header.CheckpointError: x.json: key a appears twice in one object of the index.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: the {what} is not UTF-8 (byte {error.start}).") from None
    try:
        parsed: object = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer, parse_float=float
        )
        if "\\u" in text:  # only an escape can spell half a surrogate pair
            _check_text(parsed)
    except _FaultError as error:
        raise CheckpointError(f"{where}: {error} of the {what}.") from None
    except RecursionError:
        raise CheckpointError(f"{where}: the {what} is nested too deep: not a checkpoint's.") from None
    except json.JSONDecodeError as error:
        fault = f"{shown(error.msg)} at character {error.pos}"
        raise CheckpointError(f"{where}: the {what} is not JSON: {fault}.") from None
    return parsed


class _FaultError(Exception):
    """Found by a hook inside the JSON parser, which does not know the file's name."""


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
    return -0.0 if digits == "-0" else int(digits)  # as the reference: -0 is no size


def _check_text(value: object) -> None:
    if isinstance(value, str):
        _encodable(value, _FaultError)
    elif isinstance(value, dict):
        for key, item in value.items():
            _encodable(key, _FaultError)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


def _encodable(text: str, error: type[Exception] = CheckpointError) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise error(f"half of a surrogate pair in {shown(text)}, which no UTF-8 file can hold, in a text") from None
    return text


def _quoted(text: str) -> str:
    # Python without ASCII escaping and serde_json agree on every character.
    return json.dumps(_encodable(text), ensure_ascii=False)


def _checked_metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: __metadata__ is {_described(value)}, not a map of text to text.")
    for key, item in value.items():
        if not isinstance(item, str):
            raise CheckpointError(f"{where}: __metadata__ {shown(key)} is {_described(item)}, not text.")
    return value


def _checked_tensor(name: str, entry: object, where: str) -> TensorInfo:
    where = f"{where}: tensor {shown(name)}"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: {_described(entry)} where dtype, shape and data_offsets belong.")
    for key in _FIELDS:
        if key not in entry:
            raise CheckpointError(f"{where}: no {key}.")
    if len(entry) > len(_FIELDS):
        extra = next(key for key in entry if key not in _FIELDS)
        raise CheckpointError(f"{where}: unknown field {shown(extra)}; only {', '.join(_FIELDS)} belong here.")
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
            f"{where}: {dtype} of shape {shape_text(shape)} takes {nbytes} bytes, data_offsets span {end - start}."
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
            raise CheckpointError(f"{where}: a hole, bytes {end} to {info.start}, before tensor {shown(info.name)}.")
        end, previous = info.end, info.name
    if end > available:
        raise CheckpointError(f"{where}: {_count(end - available)} of data missing, cut short: {_AGAIN}")
    if end < available:
        raise CheckpointError(f"{where}: {_count(available - end)} behind the last tensor belong to none: {_AGAIN}")


def _count(n: int) -> str:
    return f"{n} byte{'' if n == 1 else 's'}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape for a message; of a very long one its beginning."""
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
