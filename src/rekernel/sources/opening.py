"""Open a local path, an address on the Hub, or an address in a store.

Scope: the choice between them. Not here: the Hub (see `sources.hub_place`), stores (see `sources.store_place`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoint.open_local import open_checkpoint
from ..checkpoint.paths import StrPath
from ..checkpoint.tensor_source import TensorSource
from ..errors import RekernelError
from ..escape import shown
from ..messages.arguments import check_path
from .address import Address, address_of
from .hub_place import BY_HEADER, RemotePlace, remote_place
from .place import Place
from .store_address import StoreAddress, on_disk, store_address
from .store_client import StoreError, shown_address
from .store_place import store_place


@contextmanager
def open_location(source: StrPath) -> Iterator[Place]:
    """Open a local path or an address. For an address, only headers are fetched; error messages show the address.

    Raises
    ------
    HubError
        If the repository, revision or file does not exist, needs permission, or cannot be reached.
    StoreError
        If an address in a store does not exist, needs permission, or cannot be reached.

    Examples
    --------
    >>> with open_location("unet.safetensors") as place:
    ...     place.path.name
    'unet.safetensors'
    """
    check_path(source, "source")
    stored = store_address(source)
    if stored is not None:
        with stand_in_of(stored) as root:
            yield store_place(stored, root)
        return
    source = on_disk(source)
    address = address_of(source)
    if address is None:
        yield Place(Path(source))
        return
    with tempfile.TemporaryDirectory(prefix="rekernel-") as folder:
        root = Path(folder).resolve()
        fetched: set[Path] = set()
        try:
            place = remote_place(address, root)
            fetched = place.fetched
            yield place
        except RekernelError as error:
            whole = str(Address(address.repo, address.revision))
            raise type(error)(*(_renamed(part, (root, *fetched), whole) for part in error.args)) from None


@contextmanager
def stand_in_of(address: StoreAddress) -> Iterator[Path]:
    """Make an empty folder that stands for the folder around an address, and is removed at the end.

    Error messages show addresses in place of paths in the folder.
    """
    whole = shown_address(address.parent).removesuffix("/")  # "s3:/" for a bucket, to which a slash is added
    with tempfile.TemporaryDirectory(prefix="rekernel-") as folder:
        root = Path(folder).resolve() / "stand-in"
        root.mkdir()  # with the usual permissions, which the result gets
        try:
            yield root
        except RekernelError as error:
            raise type(error)(*(_renamed(part, (root,), whole) for part in error.args)) from None
        except OSError as error:
            where = _renamed(shown(str(error.filename), 2000), (root,), whole)
            if str(root) not in str(error.filename):
                raise
            said = f"{error.strerror}, for the file that stands for it on this disk"
            raise StoreError(f"{shown(where, 400)}: {said}; use another name.") from None


def _renamed(part: Any, folders: Iterable[Path], whole: str) -> Any:
    """Replace the stand-in folders in a part of a message by the address."""
    if isinstance(part, str):
        for folder in folders:
            part = part.replace(f"{folder}{os.sep}", f"{whole}/").replace(str(folder), whole)
    return part


def local_path(source: StrPath, *, allow_pickle: bool = False) -> Path:
    """Return a path on the disk. For an address, its file or only checkpoint is downloaded first.

    Parameters
    ----------
    source : path or address
    allow_pickle : bool
        As for `open_checkpoint`.

    Examples
    --------
    >>> local_path("unet.safetensors").name
    'unet.safetensors'
    """
    refuse_stored(source)
    source = on_disk(source)
    if address_of(source) is None:
        return Path(source)
    with open_location(source) as place:
        assert isinstance(place, RemotePlace)
        inside = place.path.relative_to(place.root)
        if inside.as_posix() in place.files and not inside.name.endswith(BY_HEADER):
            return place.fetch([inside.as_posix()]) / inside
        with place.open(place.path, allow_pickle=allow_pickle) as opened:
            if not opened.path.is_relative_to(place.root):  # a pickle, which was downloaded to be opened
                return opened.path
            names = [path.relative_to(place.root).as_posix() for path in opened.files]
            chosen = opened.path.relative_to(place.root)
        return place.fetch(names) / chosen


def refuse_stored(source: StrPath) -> None:
    """Raise for an address in a store, where a whole model has to be on this disk."""
    if (stored := store_address(source)) is not None:
        raise StoreError(
            f"{shown_address(stored)}: is in a store, from which models are inspected, planned and converted; copy it "
            f"to this disk for anything else."
        )


def open_source(source: StrPath, *, allow_pickle: bool = False) -> TensorSource:
    """Open a checkpoint from a local path, or from an `hf://` address whose weights are downloaded first.

    Parameters
    ----------
    source : path or address
    allow_pickle : bool
        As for `open_checkpoint`.

    Examples
    --------
    >>> open_source("weights.safetensors")
    Traceback (most recent call last):
    rekernel.errors.CheckpointError: weights.safetensors: no such file or folder.
    """
    return open_checkpoint(local_path(source, allow_pickle=allow_pickle), allow_pickle=allow_pickle)
