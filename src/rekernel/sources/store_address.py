"""Read addresses in stores that fsspec knows: `s3://bucket/folder/model.safetensors`, `gs://...`, `memory://...`.

Scope: the grammar of an address, and how messages show one. Not here: fsspec (see `sources.store_client`), addresses on
the Hub (see `sources.address`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoint.paths import StrPath
from ..errors import RekernelError
from ..escape import shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter would be a drive of Windows
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+::.*://")
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9]+):[/\\](?![/\\])")  # pathlib turns two slashes into one
_SHORT = re.compile(r"([A-Za-z][A-Za-z0-9]+):(?![/\\:])")
_USER = re.compile(r"^(.*?://[^:/@]*):(?!\d*(?:/|$)).*@")
_COMMON = (
    "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory", "sftp", "ssh", "ftp", "ftps", "smb",
    "hdfs", "webhdfs",
)  # fmt: skip
_OTHERS = ("hf", "http", "https")  # those of `sources.address`
_ON_DISK = ("file", "local")


@dataclass(frozen=True)
class StoreAddress:
    """The address of an object, or of a folder: all objects whose names begin alike.

    url : as it was given, without slashes at its end; it may hold a password, so it is never shown
    inside : path below it, with slashes
    is_folder : whether a slash at the end said that it is a folder

    Examples
    --------
    >>> address = store_address("ftp://me:secret@host/models/")
    >>> print(address / "unet.safetensors", address.is_folder, address.name)
    ftp://me@host/models/unet.safetensors True models
    >>> address
    StoreAddress('ftp://me@host/models')
    """

    url: str
    inside: str = ""
    is_folder: bool = field(default=False, compare=False)

    @property
    def protocol(self) -> str:
        """`s3` of `s3://bucket`."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """Name of the object or folder; empty for the root of a store without buckets."""
        return (self.inside or self.url.partition("://")[2]).rpartition("/")[2]

    @property
    def parent(self) -> StoreAddress:
        """The folder that holds the object or folder."""
        if self.inside:
            return StoreAddress(self.url, self.inside.rpartition("/")[0])
        scheme, _, rest = self.url.partition("://")
        return StoreAddress(f"{scheme}://{rest.rpartition('/')[0]}")

    @property
    def password(self) -> str:
        """The password in the address, which no message may show; empty where there is none."""
        found = _USER.match(self.url)
        return self.url[found.end(1) + 1 : found.end() - 1] if found else ""

    def __truediv__(self, name: str) -> StoreAddress:
        return StoreAddress(self.url, f"{self.inside}/{name}" if self.inside else name)

    def __str__(self) -> str:
        base = _without_password(self.url)
        return f"{base}{'' if base.endswith('/') else '/'}{self.inside}" if self.inside else base

    def __repr__(self) -> str:
        return f"StoreAddress({str(self)!r})"


def store_address(source: StrPath) -> StoreAddress | None:
    """Read `source` as an address in a store; None if `source` is a path, or an address on the Hub.

    Raises
    ------
    RekernelError
        If `source` is a chain of addresses, such as `simplecache::s3://...`, or has a part `.` or `..`.

    Examples
    --------
    >>> str(store_address("s3://bucket/unet.safetensors")), str(store_address(Path("s3://bucket/unet.safetensors")))
    ('s3://bucket/unet.safetensors', 's3://bucket/unet.safetensors')
    >>> store_address("unet.safetensors"), store_address("hf://org/name"), store_address("file:///unet.safetensors")
    (None, None, None)
    """
    text = os.fspath(source)
    collapsed = _COLLAPSED.match(text)
    if collapsed and collapsed[1].lower() in _COMMON and not os.path.lexists(f"{collapsed[1]}:"):
        text = f"{collapsed[1]}://{text[collapsed.end() :]}"
    short = _SHORT.match(text)
    if short and short[1].lower() in _COMMON and not os.path.lexists(text):
        raise RekernelError(
            f"{shown(_without_password(text))}: an address begins with {shown(short[1])}://; for a file of this name "
            f"write ./ before it."
        )
    if _CHAIN.match(text):
        raise RekernelError(
            f"{shown(_without_password(text))}: is a chain of addresses, which rekernel does not follow; pass the "
            f"address in the store itself."
        )
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1].lower() in (*_OTHERS, *_ON_DISK):
        return None
    rest = text[scheme.end() :]
    if "\0" in rest or {".", ".."} & set(rest.split("/")):
        raise RekernelError(
            f"{shown(_without_password(text), 400)}: has a zero byte, or a part . or .., which stores do not resolve; "
            f"write the address without."
        )
    return StoreAddress(scheme[0].lower() + rest.rstrip("/"), "", rest.endswith("/") or not rest)


def _without_password(text: str) -> str:
    return _USER.sub(r"\1@", text)


def on_disk(source: StrPath) -> StrPath:
    """The path of a `file://` address; any other source as it is.

    Examples
    --------
    >>> on_disk("file:///models/unet.safetensors"), on_disk("unet.safetensors")
    ('/models/unet.safetensors', 'unet.safetensors')
    """
    text = os.fspath(source)
    for scheme in _ON_DISK:
        if text.lower().startswith(f"{scheme}://"):
            return text[len(scheme) + 3 :]
        if isinstance(source, Path) and text.startswith(f"{scheme}:{os.sep}") and not os.path.lexists(text):
            return text[len(scheme) + 1 :]
    return source
