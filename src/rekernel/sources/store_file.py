"""Read one object of a store by ranges, and raise if the object changes meanwhile.

Scope: one object. Not here: what its bytes mean (see `checkpoint.shard`), folders (see `sources.store_place`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .store_address import StoreAddress
from .store_client import StoreError, Version, info_of, is_as_listed, requests, shown_address, version_of

_BLOCK = 4 << 20  # smaller reads share blocks: a network has thousands of tensors of some kilobytes
_KEPT = 8  # blocks
PIECE = 16 << 20
"""Bytes of a request where a whole object is read."""


@dataclass(eq=False)
class StoreFile:
    """An object, which several threads may read at once. A pickled copy reads the same version.

    nbytes : size of the object
    version : what the store says of the version of the object, when the object was first looked at
    """

    address: StoreAddress
    nbytes: int
    version: Version
    _blocks: dict[int, Future[bytes]] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`.

        Raises
        ------
        StoreError
            If the store fails, or the object has fewer bytes now.
        """
        if start >= stop:
            return b""
        if stop - start > _BLOCK:
            return self.fetch(start, stop)
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        found = b"".join(self._block(number) for number in range(first, last + 1))
        return found[start - first * _BLOCK : stop - first * _BLOCK]

    def pieces(self) -> Iterator[bytes]:
        """The whole object in order, and then the check that it did not change."""
        for start in range(0, self.nbytes, PIECE):
            yield self.fetch(start, min(start + PIECE, self.nbytes))
        self.check_unchanged()

    def whole(self) -> bytes:
        """The bytes of a small object."""
        return b"".join(self.pieces())

    def check_unchanged(self) -> None:
        """Raise if the object was changed, replaced or removed since it was first looked at."""
        info = info_of(self.address)
        if info is None:
            raise _removed(self.address)
        if (info.get("size"), version_of(info)) != (self.nbytes, self.version):
            raise _changed(self.address)

    def fetch(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` by a request of its own."""
        try:
            with requests(self.address) as (fs, path):
                data = bytes(fs.cat_file(path, start=start, end=stop))
        except StoreError:
            self.check_unchanged()  # a changed object explains more than a range that it does not have
            raise
        if len(data) != stop - start:
            self.check_unchanged()
            raise StoreError(
                f"{shown_address(self.address)}: the store sent {len(data)} of {stop - start} bytes; try again."
            )
        return data

    def _block(self, number: int) -> bytes:
        with self._lock:
            future = self._blocks.get(number)
            mine = future is None
            if future is None:
                future = self._blocks[number] = Future()
                while len(self._blocks) > _KEPT:
                    del self._blocks[next(iter(self._blocks))]
        if mine:
            try:
                start = number * _BLOCK
                future.set_result(self.fetch(start, min(start + _BLOCK, self.nbytes)))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(number, None)
                future.set_exception(error)
        return future.result()

    def __getstate__(self) -> dict[str, Any]:
        return {"address": self.address, "nbytes": self.nbytes, "version": self.version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def store_file(address: StoreAddress, listed: dict[str, Any] | None = None) -> StoreFile:
    """Look at an object, and remember its version.

    Parameters
    ----------
    listed : dict, optional
        What the store said of the object before.

    Raises
    ------
    StoreError
        If there is no such object, or it is another one than was listed.
    """
    info = info_of(address)
    if listed is not None and info is None:
        raise _removed(address)
    if listed is not None and info is not None and not is_as_listed(info, listed):
        raise _changed(address)
    if info is None or info.get("type") == "directory":
        what = "no such object" if info is None else "is a folder, not an object"
        raise StoreError(f"{shown_address(address)}: {what}; check the name.")
    return StoreFile(address, size_in(info, address), version_of(info))


def _changed(address: StoreAddress) -> StoreError:
    return StoreError(
        f"{shown_address(address)}: the object changed while it was read; wait until its writer has finished, then "
        f"start again."
    )


def _removed(address: StoreAddress) -> StoreError:
    return StoreError(
        f"{shown_address(address)}: the object was removed while it was read; the result is not complete."
    )


def size_in(info: dict[str, Any], address: StoreAddress) -> int:
    """The size that a store gives an object."""
    size = info.get("size")
    if not isinstance(size, int) or size < 0:
        raise StoreError(
            f"{shown_address(address)}: the store does not say how large it is; copy it to this disk first."
        )
    return size
