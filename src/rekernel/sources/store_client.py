"""Import fsspec on demand, and turn the errors of a store into one line that names the address and the remedy.

Scope: fsspec and its exceptions. Not here: reading and writing objects (see `sources.store_file`,
`sources.store_object`). fsspec and the package of the store find credentials and endpoints themselves, in the
environment and in their configuration files; rekernel neither reads nor shows them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from ..errors import RekernelError
from ..escape import cause, shown
from .store_address import StoreAddress

_ONE_AT_A_TIME = threading.RLock()
_WITH_HOST = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "sftp", "ssh", "ftp", "ftps", "smb")
_VERSION = (
    "ETag", "etag", "VersionId", "generation", "md5Hash", "LastModified", "last_modified", "updated", "mtime",
    "modified", "modify", "modificationTime", "created", "ino",
)  # fmt: skip
"""What stores tell of the version of an object: an object that is written again differs in one of these."""

_LISTED_TOO = ("ETag", "etag", "generation", "md5Hash", "mtime", "created")
"""Those of them that a listing writes as a look at the object itself does."""

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs"}

Version = tuple[str, ...]


class StoreError(RekernelError):
    """A store refused a request, cannot be reached or holds something else. The message names the address."""


def shown_address(address: StoreAddress) -> str:
    """The address as messages show it, without a password."""
    return shown(str(address), 400)


def opened_store(address: StoreAddress) -> tuple[Any, str]:
    """Return the file system of an address, and the path that the file system uses for the address.

    Raises
    ------
    StoreError
        If fsspec or the package of this store is not installed, or fsspec does not know the protocol.
    """
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise StoreError(
            f"{shown_address(address)}: an address in a store needs packages: pip install {_packages(address)}"
        ) from None
    if address.protocol in _WITH_HOST and not address.url.partition("://")[2].partition("/")[0]:
        raise StoreError(
            f"{shown_address(address)}: names no bucket or host; write {shown(address.protocol)}://bucket/folder."
        )
    with explained(address):
        try:
            kind = fsspec.get_filesystem_class(address.protocol)
        except ImportError as error:
            how = f"pip install {_packages(address)}" if address.protocol in _PACKAGES else cause(error)
            raise StoreError(
                f"{shown_address(address)}: {shown(address.protocol)}:// needs a package that is not installed: {how}"
            ) from None
        except ValueError:
            raise StoreError(
                f"{shown_address(address)}: fsspec does not know the protocol {shown(address.protocol)}://; write "
                f"s3://bucket/folder, gs://bucket/folder, or a path."
            ) from None
        try:  # not `url_to_fs`, which reads `::` in the name of an object as a chain of addresses
            fs = kind(**kind._get_kwargs_from_urls(address.url))
            path = str(kind._strip_protocol(address.url))
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            raise StoreError(
                f"{shown_address(address)}: fsspec cannot open this address ({_said(error, address)}); check it, and "
                f"the FSSPEC_ variables in the environment."
            ) from None
    return fs, f"{path.rstrip('/')}/{address.inside}" if address.inside else path


@contextmanager
def requests(address: StoreAddress, *, about: StoreAddress | None = None) -> Iterator[tuple[Any, str]]:
    """Give file system and path for requests in the body of the `with` block; errors become a `StoreError`.

    Requests of file systems that are not made for threads wait for each other. `about` is the address in messages, if
    not `address`.
    """
    fs, path = opened_store(address)
    with explained(about or address):
        if getattr(fs, "async_impl", False):
            yield fs, path
        else:
            with _ONE_AT_A_TIME:
                yield fs, path


def info_of(address: StoreAddress) -> dict[str, Any] | None:
    """What the store says now of an object or folder: `type`, `size` and more; None if there is none."""
    with requests(address) as (fs, path):
        try:
            for place in (path, fs._parent(path)):  # some file systems answer from the listing of the folder
                fs.invalidate_cache(place)
            return dict(fs.info(path))
        except FileNotFoundError:
            return None


def version_of(info: dict[str, Any]) -> Version:
    """What tells the version of an object from another one, as text."""
    return tuple(f"{key}={info[key]}" for key in _VERSION if info.get(key) is not None)


def is_as_listed(info: dict[str, Any], listed: dict[str, Any]) -> bool:
    """Whether a listing can be of the version of an object that `info` tells of.

    Examples
    --------
    >>> is_as_listed({"size": 1, "ETag": '"a"', "VersionId": "x"}, {"size": 1, "ETag": '"a"'})
    True
    >>> is_as_listed({"size": 1, "ETag": '"a"'}, {"size": 1, "ETag": '"b"'})
    False
    """
    both = [key for key in _LISTED_TOO if info.get(key) is not None and listed.get(key) is not None]
    return info.get("size") == listed.get("size") and all(_plain(info[key]) == _plain(listed[key]) for key in both)


def _plain(value: Any) -> str:
    """A time or an ETag, as text of one form."""
    return str(value.timestamp()) if isinstance(value, datetime) else str(value).strip('"')


def _packages(address: StoreAddress) -> str:
    """What pip has to install for an address."""
    return " ".join(("fsspec", *filter(None, [_PACKAGES.get(address.protocol)])))


def remove(address: StoreAddress) -> None:
    """Remove an object, if it is there."""
    with requests(address) as (fs, path):
        try:
            fs.invalidate_cache(path)
            fs.rm_file(path)
        except FileNotFoundError:
            pass


@contextmanager
def explained(address: StoreAddress) -> Iterator[None]:
    """Turn every error of fsspec, or of the package of a store, into a `StoreError` about `address`."""
    try:
        yield
    except RekernelError:
        raise
    except Exception as error:
        raise StoreError(f"{shown_address(address)}: {_line(error, address)}.") from None


def _line(error: Exception, address: StoreAddress) -> str:
    """Describe an error and its remedy."""
    said = _said(error, address)
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"no such object, folder or bucket ({said})"
    if isinstance(error, PermissionError):
        return f"the store does not permit this ({said}); check the credentials in the environment and their rights"
    if "Credentials" in kind:
        return f"the store needs credentials ({said}); set them in the environment"
    if isinstance(error, ConnectionError | TimeoutError) or "Connect" in kind or "Timeout" in kind:
        return f"the store cannot be reached ({said}); check the network and the endpoint, then try again"
    if isinstance(error, ValueError):
        return (
            f"the request cannot be made ({said}); check the address, and the endpoint in AWS_ENDPOINT_URL or in the "
            f"FSSPEC_ variables"
        )
    if isinstance(error, NotImplementedError):
        return f"this store does not support what a conversion needs ({kind}: {said}); copy the files yourself"
    return f"the store failed ({kind}: {said}); try again"


def _said(error: Exception, address: StoreAddress) -> str:
    """The first line of an error, without the password of the address."""
    said = str(error).replace(address.url, str(address))
    if len(address.password) > 2:
        said = said.replace(address.password, "...")
    return cause(Exception(said)) if said else cause(error)
