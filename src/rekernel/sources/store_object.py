"""Write one object of a store in order, in parts of bounded size; the object appears whole or not at all.

Scope: one object. Not here: its contents (see `checkpoint.writer`), and which objects a conversion writes (see
`conversion.to_store`).

In stores with uploads in parts (S3, Google Cloud Storage) the upload is completed at the end, and aborted after a
failure. Any other store gets an object with a hidden name, which is renamed at the end. There are no locks: of two runs
that write one object, the one that ends last wins.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

from ..checkpoint.atomic_file import PARTIAL
from ..errors import FORCE, RESUME, CheckpointError, RekernelError
from .store_address import StoreAddress
from .store_client import StoreError, explained, info_of, opened_store, requests, shown_address

_PART = 16 << 20
_PARTS = 9_000  # S3 takes 10,000
_HELD = 64 << 20  # bytes that wait in memory for those before them
_IN_PARTS = ("s3", "s3a", "gs", "gcs")
_WITH_FOLDERS = ("sftp", "ssh", "ftp", "ftps", "smb", "hdfs", "arrow_hdfs", "webhdfs")


class StoreObject:
    """An object that is being written, inside its `with` block. It has the interface of `BytesTarget`.

    Parameters
    ----------
    address : StoreAddress
    force : bool
        Replace an existing object.

    Examples
    --------
    >>> from rekernel.sources.store_address import store_address
    >>> from rekernel.sources.store_file import store_file
    >>> address = store_address("memory://example/a.txt")
    >>> with StoreObject(address, force=True) as file:
    ...     file.resize(4)
    ...     file.write_at(2, memoryview(b"cd"))  # waits for the bytes before it
    ...     file.write_at(0, memoryview(b"ab"))
    >>> store_file(address).whole()
    b'abcd'
    """

    fd = -1

    def __init__(self, address: StoreAddress, *, force: bool) -> None:
        self.address, self.force = address, force
        self._in_parts = address.protocol in _IN_PARTS
        self._written = address if self._in_parts else address.parent / f".{address.name}{PARTIAL}"
        self._lock = threading.Lock()
        self._waiting = _Waiting()
        self._next, self._size = 0, 0
        self._file: Any = None

    def check(self) -> None:
        """Raise if the object exists and may not be replaced."""
        if not self.force and info_of(self.address) is not None:
            raise RekernelError(
                f"{shown_address(self.address)}: exists already; pass ", FORCE, " to replace it, ", RESUME,
                " to resume an interrupted conversion, or another destination",
            )  # fmt: skip

    def __enter__(self) -> Self:
        self.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._commit()
            except BaseException:
                self.discard()
                raise
        else:
            self.discard()

    def resize(self, nbytes: int) -> None:
        """Begin to write an object of this size."""
        self._size = nbytes
        part = max(_PART, -(-nbytes // _PARTS // _PART) * _PART)
        with requests(self._written, about=self.address) as (fs, path):
            if self._in_parts:
                self._file = fs.open(path, "wb", block_size=part, autocommit=False)
                with suppress(ValueError):  # a transaction of the whole file system is not for this object
                    fs.transaction.files.remove(self._file)
                return
            if self.address.protocol in _WITH_FOLDERS:
                fs.makedirs(fs._parent(path), exist_ok=True)
            self._file = fs.open(path, "wb", block_size=part)

    def write_at(self, offset: int, view: memoryview) -> None:
        """Write bytes once all bytes before them are written; until then a copy of them waits."""
        with self._lock:
            if offset != self._next:
                self._waiting.put(offset, view)
                return
            self._write(view)
            while (data := self._waiting.take(self._next)) is not None:
                self._write(memoryview(data))

    def discard(self) -> None:
        """Abort the upload, or remove what was written of it. The destination is not changed."""
        self._waiting.close()
        file, self._file = self._file, None
        if file is None:
            return
        with suppress(Exception), requests(self._written) as (fs, path):  # the first error is the one to show
            if self._in_parts:
                file.discard()
            with suppress(Exception):
                file.closed = True  # or the end of the object would write the rest
            if not self._in_parts:
                fs.rm_file(path)

    def explained(self) -> AbstractContextManager[None]:
        """Turn an error of the store into a `StoreError` of one line."""
        return explained(self.address)

    def _write(self, view: memoryview) -> None:
        if self._file is None:
            raise CheckpointError(
                f"{shown_address(self.address)}: not open for writing; use it inside its `with` block."
            )
        with requests(self.address):
            self._file.write(view)
        self._next += view.nbytes

    def _commit(self) -> None:
        if self._file is None:
            self.resize(0)
        if self._next != self._size:
            raise StoreError(f"{shown_address(self.address)}: {self._next} of {self._size} bytes; nothing was saved.")
        self.check()  # the object may have appeared since
        with requests(self._written, about=self.address) as (fs, path):
            self._file.close()
            if self._in_parts:
                self._file.commit()
            else:
                _, target = opened_store(self.address)
                _rename(fs, path, target)
            fs.invalidate_cache(path)
        self._file = None
        self._waiting.close()


@dataclass
class _Waiting:
    """Bytes that came before those that precede them: in memory, and beyond that in a temporary file on this disk."""

    _held: dict[int, bytes] = field(default_factory=dict)
    _spilled: dict[int, tuple[int, int]] = field(default_factory=dict)
    _spill: IO[bytes] | None = None
    _nbytes: int = 0

    def put(self, offset: int, view: memoryview) -> None:
        if self._nbytes + view.nbytes <= _HELD:
            self._held[offset] = bytes(view)
            self._nbytes += view.nbytes
            return
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(prefix="rekernel-")  # noqa: SIM115 - closed by `close`
        place = self._spill.seek(0, 2)
        self._spill.write(view)
        self._spilled[offset] = place, view.nbytes

    def take(self, offset: int) -> bytes | None:
        if (data := self._held.pop(offset, None)) is not None:
            self._nbytes -= len(data)
            return data
        if offset not in self._spilled or self._spill is None:
            return None
        place, size = self._spilled.pop(offset)
        self._spill.seek(place)
        data = self._spill.read(size)
        if not self._spilled:
            self._spill.truncate(0)
        return data

    def close(self) -> None:
        self._held.clear()
        self._spilled.clear()
        if self._spill is not None:
            self._spill.close()
            self._spill = None


def _rename(fs: Any, path: str, target: str) -> None:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

    if type(fs).mv is not AbstractFileSystem.mv:
        fs.mv(path, target)
        return
    # The general `mv` reads `*` and `[` in a name as a pattern.
    fs.cp_file(path, target)
    fs.rm_file(path)


def put(address: StoreAddress, data: bytes, *, force: bool) -> None:
    """Write a small object whole."""
    with StoreObject(address, force=force) as file:
        file.resize(len(data))
        if data:
            file.write_at(0, memoryview(data))


def abandoned(folder: StoreAddress, names: set[str]) -> int:
    """Abort the uploads in parts that a killed run has left for the objects `names` of a folder; return their number.

    The bytes of such an upload are stored, and paid for, until then. A store without a list of uploads has none.
    """
    count = 0
    with suppress(StoreError), requests(folder) as (fs, path):
        if not hasattr(fs, "list_multipart_uploads"):
            return 0
        bucket, _, key = path.strip("/").partition("/")
        wanted = {f"{key}/{name}" if key else name for name in names}
        for upload in fs.list_multipart_uploads(bucket):
            if upload["Key"] in wanted:
                fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
                count += 1
    return count
