"""Compute the digests of a source's files during a conversion; the recipe stores them.

Scope: files and hashing. Not here: the recipe (see `plan.recipe`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..checkpoint.shard import Shard
from ..checkpoint.tensor_source import TensorSource
from ..plan.recipe import SourceFile
from ..sources.place import Origin

Digests = list[Future[SourceFile]]
_PIECE = 1 << 20  # bytes read from a disk at once
_RANGE = 16 << 20  # bytes asked of a store at once


@contextmanager
def digesting(source: TensorSource) -> Iterator[Digests]:
    """Compute digests in one thread, one future per data file.

    The thread reads ahead of the conversion, which then finds the pages in the cache.
    """
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(_digest, path, source) for path in data_files(source)]
        try:
            yield futures
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def check_unchanged(source: TensorSource) -> None:
    """Raise if a file of the source changed since it was opened; for objects in a store, which are not looked at after
    every read, at the end of each file that is written.
    """
    for shard in source.shards:
        shard.check_unchanged()


def data_files(source: TensorSource) -> list[Path]:
    """List the files that hold tensors: the shards, or the pickle itself."""
    return [shard.path for shard in source.shards] or [source.path]


def stand_ins(source: TensorSource, origin: Origin | None = None) -> tuple[SourceFile, ...]:
    """Describe the source files with placeholders, as long as digests, in place of their digests."""
    return tuple(
        SourceFile(size, placeholder(i), *known_of(path, origin)) for i, (path, size) in enumerate(_sizes(source))
    )


def known_of(path: Path, origin: Origin | None) -> tuple[str, ...]:
    """Return repository, commit and name of a file from the Hub; an empty tuple for any other file.

    Examples
    --------
    >>> known_of(Path("/cache/net.onnx"), Origin("org/net", "abc", Path("/cache")))
    ('org/net', 'abc', 'net.onnx')
    """
    return (origin.repo, origin.commit, path.relative_to(origin.root).as_posix()) if origin else ()


def resolved(recipe: str, digests: Digests) -> str:
    """Wait for the digests, and put them into the JSON of a recipe in place of the placeholders."""
    return with_digests(recipe, [digest.result().sha256 for digest in digests])


def with_digests(recipe: str, digests: Sequence[str]) -> str:
    """Put digests into the JSON of a recipe in place of the placeholders.

    Examples
    --------
    >>> with_digests(f'["{placeholder(0)}"]', ["abc"])
    '["abc"]'
    """
    for i, digest in enumerate(digests):
        recipe = recipe.replace(placeholder(i), digest)
    return recipe


def _sizes(source: TensorSource) -> list[tuple[Path, int]]:
    return [(shard.path, shard.nbytes) for shard in source.shards] or [(source.path, source.path.stat().st_size)]


def _digest(path: Path, source: TensorSource) -> SourceFile:
    shard = next((shard for shard in source.shards if shard.path == path), None)
    if shard is not None:
        return SourceFile(shard.nbytes, digest_of(shard))
    with path.open("rb") as file:
        return SourceFile(path.stat().st_size, sha256_of(file))


def digest_of(shard: Shard) -> str:
    """The SHA-256 of a safetensors file, on this disk or in a store, in hexadecimal digits."""
    if shard.reader is None:
        with shard.path.open("rb") as file:
            digest = sha256_of(file)
    else:
        found = hashlib.sha256()
        for start in range(0, shard.nbytes, _RANGE):
            found.update(shard.reader.read(start, min(start + _RANGE, shard.nbytes)))
        digest = found.hexdigest()
    shard.check_unchanged()  # the file that was hashed is the file that was converted
    return digest


def sha256_of(file: BinaryIO) -> str:
    """The digest of what is left of a file, in hexadecimal digits.

    `hashlib.file_digest` reads a quarter of a megabyte at a time: beside other threads, the interpreter's lock then
    changes hands too often.

    Examples
    --------
    >>> import io
    >>> sha256_of(io.BytesIO(b"")) == hashlib.sha256(b"").hexdigest()
    True
    """
    found, memory = hashlib.sha256(), memoryview(bytearray(_PIECE))
    while size := file.readinto(memory):  # type: ignore[attr-defined]  # every binary file has this method
        found.update(memory[:size])
    return found.hexdigest()


def placeholder(index: int) -> str:
    """Return the text that stands for the digest of source file number `index` until that is known.

    The text is as long as a digest, and no other text in a header equals it.

    Examples
    --------
    >>> len(placeholder(0)), placeholder(0) == placeholder(1)
    (64, False)
    """
    return hashlib.sha256(f"rekernel: digest of source {index} to follow".encode()).hexdigest()
