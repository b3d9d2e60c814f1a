"""Read a repository on the Hub through a stand-in folder, whose files hold headers only.

Scope: listings, headers and downloads. Not here: which files a conversion needs (see `conversion.downloads`). The files
of the stand-in have the same names as in the repository, so code for folders works on repositories too. Reading data
that was not downloaded is an error; it never gives zeros.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.discover import PICKLE_SUFFIXES
from ..checkpoint.header import MAX_HEADER
from ..checkpoint.open_local import open_checkpoint
from ..checkpoint.paths import plain_parts
from ..checkpoint.shard import Shard, shard_of_header
from ..checkpoint.tensor_source import TensorSource
from ..escape import shown
from ..version import __version__
from .address import Address
from .hub_client import HubError, NotTheHubError, api, explained, hub, is_away, is_foreign, is_offline
from .place import Place
from .remote_header import whole_header

_PATIENCE = 10.0  # seconds to wait for an answer: the default of huggingface_hub
_SMALL = re.compile(r"(^|/)(model_index\.json|[^/]+\.safetensors\.index(\.[\w-]+)?\.json)$")
BY_HEADER = (".safetensors", ".json")


@dataclass(frozen=True)
class RemotePlace(Place):
    """A source on the Hub. `path` is its stand-in.

    address : address of the source
    commit : commit that the revision of the address names
    root : stand-in of the whole repository, which contains `path`
    files : size in bytes of every file of the repository at this commit, by name
    fetched : folders of the client's cache that hold the downloaded files
    """

    address: Address
    commit: str
    root: Path
    files: dict[str, int]
    fetched: set[Path] = field(default_factory=set)

    def open(self, path: Path, *, allow_pickle: bool = False) -> TensorSource:
        """Open a checkpoint and fetch its headers by range requests; a pickle has no header and is downloaded."""
        if allow_pickle and (pickle := _only_pickle(path)) is not None:
            name = pickle.relative_to(self.root).as_posix()
            return open_checkpoint(self.fetch([name]) / name, allow_pickle=True)
        return open_checkpoint(path, allow_pickle=allow_pickle, read_shard=self._shard)

    def here(self, path: Path) -> Path:
        """Download a file, and return its path."""
        name = path.relative_to(self.root).as_posix()
        return self.fetch([name]) / name

    def complete(self, path: Path) -> None:
        """Download a small file, if the repository has it, into its stand-in."""
        if not path.is_relative_to(self.root):
            return  # beside a pickle, which was downloaded
        name = path.relative_to(self.root).as_posix()
        if 0 < self.files.get(name, 0) <= MAX_HEADER and path.is_file() and not path.stat().st_size:
            path.write_bytes(self._download(name).read_bytes())

    def named(self, path: Path) -> str:
        """Return the address of a path in the stand-in."""
        inside = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else self.address.path
        return str(Address(self.address.repo, self.address.revision, "" if inside == "." else inside))

    def fetch(self, names: Sequence[str]) -> Path:
        """Download files of this commit into the client's cache; return the folder they are in.

        Cached files are not downloaded again, and an interrupted download is resumed.
        """
        client = hub()
        with explained(self.address):
            folder = Path(
                client.snapshot_download(
                    self.address.repo,
                    revision=self.address.revision or None,  # by name, so that the cache finds the revision offline too
                    allow_patterns=[_literal(name) for name in names],
                    library_name="rekernel",
                    library_version=__version__,
                )
            )
        if folder.name != self.commit:
            raise HubError(
                f"{self.address}: the repository got a new commit while rekernel read it; run the same again."
            )
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            why = "HF_HUB_OFFLINE is set" if is_offline() else "the Hub does not answer"
            raise HubError(f"{self.address}: {shown(missing[0])} is not in the cache, and {why}.")
        self.fetched.add(folder)
        return folder

    def _shard(self, path: Path) -> Shard:
        """Read the header of a file into its stand-in, which never holds data."""
        name = path.relative_to(self.root).as_posix()
        raw = path.read_bytes()  # not empty if the header was fetched before
        if not raw:
            raw = self._header(name)
            path.write_bytes(raw)
        return shard_of_header(path, raw, self.files[name], self.named(path))

    def _header(self, name: str) -> bytes:
        cached = self._cached(name)
        size = self.files[name]
        if cached is not None:
            with cached.open("rb") as file:
                return whole_header(file.read, size, self.named(self.root / name))
        client = hub()
        url = client.hf_hub_url(self.address.repo, name, revision=self.commit)
        position = 0

        def read(count: int) -> bytes:
            nonlocal position
            headers = {**_caller(client), "Accept-Encoding": "identity"}
            headers["Range"] = f"bytes={position}-{position + count - 1}"
            answer = client.utils.http_backoff("GET", url, headers=headers, timeout=_PATIENCE)
            client.utils.hf_raise_for_status(answer)
            start, position = position if answer.status_code == 200 else 0, position + count
            return bytes(answer.content[start : start + count])  # a server without range requests sent the whole file

        with explained(Address(self.address.repo, self.address.revision, name)):
            return whole_header(read, size, self.named(self.root / name))

    def _cached(self, name: str) -> Path | None:
        found = hub().try_to_load_from_cache(self.address.repo, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def _download(self, name: str) -> Path:
        with explained(Address(self.address.repo, self.address.revision, name)):
            found = hub().hf_hub_download(
                self.address.repo, name, revision=self.commit, library_name="rekernel", library_version=__version__
            )
            return Path(found)


def remote_place(address: Address, root: Path) -> RemotePlace:
    """Fill the empty folder `root` with the stand-in of a repository; download small index files whole."""
    commit, files = _listing(address)
    names = {name: plain_parts(name) for name in files}
    is_file = address.path in files
    prefix = f"{address.path}/" if address.path and not is_file else ""
    if is_file:
        prefix = address.path.rpartition("/")[0]
        prefix += "/" if prefix else ""
    below = {name: path for name, path in names.items() if path is not None and name.startswith(prefix)}
    if address.path and not is_file and not below:
        found = ", ".join(shown(name) for name in sorted({n.partition("/")[0] for n in files})[:8])
        raise HubError(
            f"{address}: this repository does not have such a file or folder; its top level holds {found or 'nothing'}."
        )
    place = RemotePlace(root / address.path, address, commit, root, files)
    for name, path in below.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if _SMALL.search(name) and name.removeprefix(prefix).count("/") < 2 and files[name] <= MAX_HEADER:
            (root / path).write_bytes(place._download(name).read_bytes())
        else:
            (root / path).touch()
    return place


def _listing(address: Address) -> tuple[str, dict[str, int]]:
    """Return the commit of a revision and the size of every file in it; from the cache if the Hub does not answer."""
    client, hf = hub(), api()
    with explained(address):
        try:
            info = hf.model_info(address.repo, revision=address.revision or None, timeout=_PATIENCE)
            tree = hf.list_repo_tree(address.repo, revision=info.sha, recursive=True)
            files = [(file.path, file.size) for file in tree if isinstance(file, client.hf_api.RepoFile)]
            _check_listing(info.sha, files)
            return info.sha, dict(files)
        except Exception as error:
            found = _cached_listing(address) if is_away(error) or is_foreign(error) else None
            if found is None:
                raise
            return found


def _check_listing(commit: Any, files: list[tuple[Any, Any]]) -> None:
    named = isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,64}", commit)
    sized = all(isinstance(path, str) and type(size) is int and size >= 0 for path, size in files)
    if not (named and sized):
        raise NotTheHubError("a listing without a commit, or with a file that has no name or size")


def _cached_listing(address: Address) -> tuple[str, dict[str, int]] | None:
    """Return commit and sizes from the cache: the listing of the last download, or else the files in the cache."""
    client = hub()
    try:
        folder = client.snapshot_download(
            address.repo, revision=address.revision or None, allow_patterns=[], local_files_only=True
        )
    except client.errors.LocalEntryNotFoundError:
        return None
    snapshot = Path(folder)
    listed = getattr(client, "get_cached_repo_tree", None)
    if listed is not None:
        try:
            return snapshot.name, {file.path: file.size for file in listed(address.repo, revision=snapshot.name)}
        except client.errors.CachedRepoTreeNotFoundError:
            pass  # another program downloaded single files
    present = (path for path in snapshot.rglob("*") if path.is_file())
    return snapshot.name, {path.relative_to(snapshot).as_posix(): path.stat().st_size for path in present}


def _only_pickle(path: Path) -> Path | None:
    """Return the pickle that `path` names: the file itself, or the only weights in a folder. None if there is none."""
    if not path.is_dir():
        return path if path.suffix.lower() in PICKLE_SUFFIXES else None
    weights = [p for p in path.iterdir() if p.suffix.lower() in (*PICKLE_SUFFIXES, ".safetensors")]
    return weights[0] if len(weights) == 1 and weights[0].suffix.lower() in PICKLE_SUFFIXES else None


def _caller(client: Any) -> dict[str, str]:
    """Return the HTTP headers that name rekernel and carry the token of the user."""
    return dict(client.utils.build_hf_headers(library_name="rekernel", library_version=__version__))


def _literal(name: str) -> str:
    """Return a glob pattern that matches exactly this name."""
    return re.sub(r"([*?\[])", r"[\1]", name)
