"""What a file is, told by its first bytes, and formats that are not ours to read."""

from __future__ import annotations

import os
import stat

from ..errors import CheckpointError, Option
from ..escape import shown_path


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
    """What a file of another format is, with the way out, as parts of a message; none if that is unknown."""
    if is_pickle(prefix):
        what = "a torch pickle, not safetensors; convert it to safetensors, or pass "
        return what, ALLOW_PICKLE, " (tensors only)."
    if _is_npz(prefix):
        return ("arrays of NumPy (.npz), not safetensors: save them with safetensors.numpy.save_file first.",)
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next(((message,) for magic, message in _FOREIGN.items() if text.startswith(magic)), ())
