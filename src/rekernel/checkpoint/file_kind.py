"""Tell the format of a file by its first bytes, and explain formats that rekernel does not read.

Scope: first bytes and regular files. Not here: file names (see `checkpoint.discover`).
"""

from __future__ import annotations

import os
import stat

from ..errors import CheckpointError, Option
from ..escape import shown_path


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading, and return its descriptor.

    Pipes and devices are refused: reading a pipe may wait for ever, and a device may not end.
    """
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


def is_pickle(prefix: bytes) -> bool:
    """Whether the first bytes of a file are those of a torch checkpoint: a zip archive, or a bare pickle."""
    if prefix.startswith(_ZIP):
        entry = _first_entry(prefix)  # torch.save puts every entry into a folder
        return len(entry) == 0 or b"/" in entry
    return prefix[:1] == b"\x80" and prefix[1:2] in (b"\2", b"\3", b"\4", b"\5")


def _first_entry(prefix: bytes) -> bytes:
    """The name of the first entry of a zip archive; empty where the prefix ends before it."""
    return prefix[30 : 30 + int.from_bytes(prefix[26:28], "little")]


ALLOW_PICKLE = Option("allow_pickle=True", "--allow-pickle")
"""The option that allows pickles to be read."""


DOWNLOAD_AGAIN = "download or copy it again."
"""End of a message about a damaged file."""

_ZIP = b"PK\x03\x04"
_KERAS = (b"metadata.json", b"config.json", b"model.weights.h5")  # each may be the first
_FOREIGN = {
    b"version https://git-lfs.github.com/spec": "a Git LFS pointer, not the weights: run `git lfs pull` in its folder.",
    b"gguf": "a GGUF file, not safetensors: pass the original safetensors weights.",
    b"\x93numpy": "a NumPy array, not safetensors: save it under its name with safetensors.numpy.save_file first.",
    b"\x89png": "a picture, not weights: pass a .safetensors file.",
    b"\xff\xd8\xff": "a picture, not weights: pass a .safetensors file.",
    b"\x1f\x8b": "a compressed file, not safetensors: unpack it first.",
    b"\x28\xb5\x2f\xfd": "a compressed file, not safetensors: unpack it first.",
    b"\x89hdf\r\n": "an HDF5 file, not safetensors: save its tensors with safetensors first.",
    b"<!doctype html": f"an HTML page saved as weights (a login or error page?): {DOWNLOAD_AGAIN}",
    b"<html": f"an HTML page saved as weights (a login or error page?): {DOWNLOAD_AGAIN}",
    b"<?xml": f"an XML page saved as weights (an error answer?): {DOWNLOAD_AGAIN}",
    b"{": "JSON text without the 8-byte length of a safetensors file: pass the weights, or a *.safetensors.index.json.",
}


def foreign_format(prefix: bytes) -> tuple[str | Option, ...]:
    """Name the format of a file that is not safetensors and the remedy, as parts of a message; empty if unknown."""
    if is_pickle(prefix):
        what = "a torch pickle, not safetensors; convert it to safetensors, or pass "
        return what, ALLOW_PICKLE, " (tensors only)."
    if prefix.startswith(_ZIP):
        entry = _first_entry(prefix)
        if entry.endswith(b".npy"):
            return ("a NumPy archive (.npz), not safetensors: save its arrays with safetensors.numpy.save_file first.",)
        if entry in _KERAS:
            how = "save {w.path: numpy.asarray(w) for w in model.weights} with safetensors.numpy.save_file first."
            return (f"a Keras archive, not safetensors: load it with Keras, and {how}",)
        return ("a zip archive, not safetensors: unpack it, and pass the weights in it.",)
    if _msgpack_map(prefix):
        return ("Flax's msgpack, not safetensors: save its parameters with safetensors.flax.save_file first.",)
    if prefix[4:8] == b"TFL3":
        return ("a TensorFlow Lite model, not safetensors: pass the weights that it was made from.",)
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next(((message,) for magic, message in _FOREIGN.items() if text.startswith(magic)), ())


def _msgpack_map(prefix: bytes) -> bool:
    """Whether a file begins with a msgpack map whose first key is a short text, as Flax writes parameters."""
    head, key = prefix[:1], prefix[1:2]
    if not (b"\x80" < head <= b"\x8f" and b"\xa1" <= key <= b"\xbf"):
        return False
    name = prefix[2 : 2 + key[0] - 0xA0]
    return name.isascii() and name.decode().isidentifier()
