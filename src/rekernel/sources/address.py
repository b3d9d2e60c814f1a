"""Read addresses on the Hugging Face Hub: `hf://org/name[@revision][/folder or file]`.

Scope: the grammar of an address, and whether a local path exists. Not here: the client and the network (see
`sources.hub_client`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ..checkpoint.paths import StrPath, plain_parts
from ..errors import RekernelError
from ..escape import shown

_SCHEME = re.compile(r"hf:/{1,2}")  # pathlib turns two slashes into one
_NAME = re.compile(r"\w(?:[\w.-]{0,94}\w)?", re.ASCII)
_REFERENCE = re.compile(r"refs/(?:pr/\d+|convert/[\w.-]+)(?=/|$)", re.ASCII)
_FILE = re.compile(r"\.(safetensors|json|bin|pt|pth|ckpt|onnx|gguf|h5|msgpack|npz|txt|md|py|keras)$", re.IGNORECASE)
_FORM = "write hf://org/name, hf://org/name@revision or hf://org/name/folder"


@dataclass(frozen=True)
class Address:
    """The address of a model repository, or of a folder or file in it.

    repo : organisation/name
    revision : branch, tag or commit; empty for the default branch
    path : folder or file in the repository; empty for the whole repository
    """

    repo: str
    revision: str = ""
    path: str = ""

    def __str__(self) -> str:
        # A slash in a revision is quoted, or it would begin the path; references that the Hub knows need no quotes.
        plain = _REFERENCE.fullmatch(self.revision)
        revision = f"@{self.revision if plain else quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + (f"/{self.path}" if self.path else "")


def address_of(source: StrPath) -> Address | None:
    """Read `source` as an address; None if `source` is a path.

    Text without `hf://` is an address if it has the form `org/name`, neither `org/name` nor `org` exists on the disk,
    and `name` does not have the ending of a file. So a mistyped path does not make rekernel ask a server.

    Parameters
    ----------
    source : str or path

    Raises
    ------
    RekernelError
        If `source` begins like an address but is not a valid one.

    Examples
    --------
    >>> address_of("hf://org/name@v1.0/unet")
    Address(repo='org/name', revision='v1.0', path='unet')
    >>> str(address_of("org/name")), address_of("unet.safetensors")
    ('hf://org/name', None)
    """
    text = os.fspath(source)
    if text.startswith(("https://", "http://")):
        raise RekernelError(f"{shown(text)}: is a web address, which rekernel does not read; {_FORM}.")
    scheme = _SCHEME.match(text)
    if scheme:
        return _parsed(text[scheme.end() :].strip("/"), text)
    if not isinstance(source, str) or text.count("/") != 1 or os.path.lexists(text) or _FILE.search(text):
        return None
    organisation, name = text.split("/")
    if not (is_repo(text) and name) or os.path.lexists(organisation):
        return None
    return Address(text)


def is_repo(name: str) -> bool:
    """Whether `name` is a valid name of a repository.

    Examples
    --------
    >>> is_repo("org/name"), is_repo("name"), is_repo("org/a--b")
    (True, False, False)
    """
    parts = name.split("/")
    plain = all(_NAME.fullmatch(part) and "--" not in part and ".." not in part for part in parts)
    return len(parts) == 2 and plain and not name.endswith(".git")


def _parsed(text: str, whole: str) -> Address:
    kind, _, rest = text.partition("/")
    if kind in ("datasets", "spaces", "kernels", "buckets") and "/" in rest:
        raise RekernelError(f"{shown(whole)}: rekernel reads only model repositories, not {kind}.")
    if kind == "models" and "/" in rest:
        text = rest
    organisation, _, rest = text.partition("/")
    name, at, rest = _until_revision(rest)
    revision = ""
    if at:
        reference = _REFERENCE.match(rest)
        revision = reference[0] if reference else rest.partition("/")[0]
        rest = rest[len(revision) :].removeprefix("/")
        revision = unquote(revision)
        if not revision:
            raise RekernelError(f"{shown(whole)}: the revision after the @ is missing; {_FORM}.")
    if not is_repo(f"{organisation}/{name}"):
        raise RekernelError(f"{shown(whole)}: is not a valid name of a repository; {_FORM}.")
    if rest and plain_parts(rest) is None:
        raise RekernelError(f"{shown(whole)}: the path inside the repository is not a plain path; {_FORM}.")
    return Address(f"{organisation}/{name}", revision, rest)


def _until_revision(text: str) -> tuple[str, str, str]:
    """Split text into the name, '@' if a revision follows, and the rest."""
    found = re.match(r"([^/@]*)(@|/|$)", text)
    assert found is not None  # the pattern matches empty text too
    return found[1], "@" if found[2] == "@" else "", text[found.end() :]
