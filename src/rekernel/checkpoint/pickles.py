"""Read pickled torch checkpoints with `weights_only=True`, and only if the caller allows it.

Scope: `torch.load` behind the interface `TensorSource`. torch is imported when a file is opened. Not here: safetensors
(see `checkpoint.tensor_source`). A pickle is a program. `weights_only=True` runs a small, fixed set of instructions;
torch refuses every other instruction.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import CheckpointError
from ..escape import shown, shown_path
from .dtypes import OF_TORCH
from .file_kind import ALLOW_PICKLE, open_regular
from .header import TensorInfo, build_header
from .shard import Shard


class PickleCheckpoint:
    """A .bin, .pt, .pth or .ckpt file, read as a `TensorSource`.

    Parameters
    ----------
    path : path
    allow_pickle : bool
        Whether the caller allows pickles. If False, nothing is read.

    Attributes
    ----------
    tensors : dict of str to TensorInfo, with the offsets that a safetensors file of these tensors would have
    skipped : names of the entries that are not tensors (epoch, optimizer states, ...)
    shared : groups of names of tensors that share one storage; each tensor is read in full, since safetensors has no
        sharing
    metadata, shards, index : empty, empty and None, since a pickle does not have them

    Notes
    -----
    Entries under `state_dict` (Lightning) are unwrapped. torch maps the zip format into memory, so the file must not be
    truncated while it is open.

    Examples
    --------
    >>> PickleCheckpoint("weights.ckpt", allow_pickle=False)
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: weights.ckpt: a pickle, which can run code when loaded; convert it to safetensors,
    or pass allow_pickle=True (tensors only).
    """

    kind = "pickle"
    index: dict[str, object] | None = None

    def __init__(self, path: str | os.PathLike[str], *, allow_pickle: bool) -> None:
        self.path = Path(path)
        self._where = shown_path(path)
        if not allow_pickle:
            raise CheckpointError(
                f"{self._where}: a pickle, which can run code when loaded; convert it to safetensors, or pass ",
                ALLOW_PICKLE,
                " (tensors only).",
            )
        self.metadata: dict[str, str] = {}
        self.shards: tuple[Shard, ...] = ()
        loaded = self._load()
        self._values: dict[str, Any]
        self._values, self.skipped = _split(loaded, self._where)
        size = self.path.stat().st_size
        listed = [self._listed(name, tensor, size) for name, tensor in self._values.items()]
        self.tensors: dict[str, TensorInfo] = build_header(listed)[1]
        self.shared = _shared(self._values)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file itself."""
        return (self.path,)

    def read(self, name: str) -> bytearray:
        """Return a copy of the bytes of tensor `name`, contiguous."""
        return bytearray(self._bytes(name))

    def read_range(self, name: str, start: int, stop: int) -> bytearray:
        """Return a copy of bytes `start` to `stop` of tensor `name`."""
        source = self._bytes(name)
        if not 0 <= start <= stop <= source.nbytes:
            raise CheckpointError(
                f"{self._where}: bytes {start} to {stop} lie outside tensor {shown(name)} of {source.nbytes} bytes."
            )
        return bytearray(source[start:stop])

    def send_range(self, name: str, start: int, stop: int, target: int, position: int) -> int:
        """Copy nothing, and return 0: where a tensor lies in a pickle is not known."""
        return 0

    def close(self) -> None:
        """Release the tensors, and with them the mapped file."""
        self._values = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self) -> Any:
        os.close(open_regular(self.path))  # for a clear message about a missing file, a pipe or a folder
        try:
            import torch
        except ImportError:
            raise CheckpointError(
                f"{self._where}: reading a pickle needs torch; pip install torch, "
                "or convert the file on a machine that has torch."
            ) from None
        entries = _entries(self.path)
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise CheckpointError(
                f"{self._where}: a TorchScript archive, which is a program; save the state_dict of the model that it "
                f"was made from, as safetensors."
            )
        packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:  # a kilobyte may unpack to gigabytes
            raise CheckpointError(
                f"{self._where}: its entry {shown(packed.filename, 60)} is compressed, which torch.save never does; "
                f"save the tensors again with torch.save, or as safetensors."
            )
        # torch can map only the zip format, and it reads a file called *.safetensors as safetensors.
        mapped = bool(entries) and self.path.suffix.lower() != ".safetensors"
        try:
            with self.path.open("rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of older protocols: what matters is whether it loads
                return torch.load(self.path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
        except MemoryError:
            raise
        except Exception as error:  # a broken pickle can raise any error
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            if "Weights only load failed" in reason:
                reason = "the file holds more than tensors, and torch refuses to load the rest with weights_only=True"
            raise CheckpointError(
                f"{self._where}: {shown(reason, 160)}; convert it to safetensors on a machine where you trust its code."
            ) from None

    def _listed(self, name: str, tensor: Any, file_size: int) -> tuple[str, str, tuple[int, ...]]:
        where = f"{self._where}: tensor {shown(name)}"
        if str(tensor.layout) != "torch.strided" or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(
                f"{where}: is sparse, quantized or without data; safetensors holds plain tensors only."
            )
        dtype = OF_TORCH.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None:
            raise CheckpointError(f"{where}: dtype {tensor.dtype} does not exist in safetensors; cast it first.")
        # With a stride of 0, a file of a kilobyte can claim a petabyte. Files of torch are not compressed.
        if tensor.nbytes > max(file_size, 1 << 20):
            raise CheckpointError(f"{where}: claims {tensor.nbytes} bytes in a file of {file_size} bytes; refused.")
        return name, dtype, tuple(tensor.shape)

    def _bytes(self, name: str) -> memoryview:
        if name not in self._values:
            reason = "is closed" if name in self.tensors else f"has no tensor {shown(name)}"
            raise CheckpointError(f"{self._where}: {reason}.")
        import torch

        tensor = self._values[name].detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return memoryview(tensor.view(torch.uint8).numpy()) if tensor.nbytes else memoryview(b"")


def _split(loaded: Any, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the tensors, and the names of all other entries. An outer `state_dict` is unwrapped."""
    import torch

    if not isinstance(loaded, dict):
        raise CheckpointError(f"{where}: holds a {type(loaded).__name__}, not a map of names to tensors.")
    others: list[str] = []
    if isinstance(loaded.get("state_dict"), dict):
        others = [str(key) for key in loaded if key != "state_dict"]
        loaded = loaded["state_dict"]
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    others += [str(key) for key in loaded if key not in tensors]
    if not tensors:
        raise CheckpointError(f"{where}: has no tensors at its top level or under state_dict (found: {_some(others)}).")
    return tensors, tuple(others)


def _entries(path: Path) -> list[zipfile.ZipInfo]:
    """The entries of a zip archive; none for another file, and for a broken archive, which torch will describe."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception:  # a broken archive can raise any error
        return []


def _some(names: list[str]) -> str:
    return ", ".join(shown(name, 40) for name in names[:5]) or "nothing"


def _shared(tensors: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.nbytes:
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
