"""Compute digests of a source's files while they are converted; the recipe stores them.

Scope: files and hashing. Not here: what the recipe says about them (see `plan.recipe`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..checkpoint.tensor_source import Checkpoint, TensorSource
from ..plan.recipe import SourceFile
from ..sources.place import Origin

Digests = list[Future[SourceFile]]


@contextmanager
def digesting(source: TensorSource) -> Iterator[Digests]:
    """One future per data file: a single thread reads ahead of the conversion, which finds the pages cached."""
    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(_digest, path, source) for path in data_files(source)]
        try:
            yield futures
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def data_files(source: TensorSource) -> list[Path]:
    """The files that hold tensors: shards, or the pickle itself."""
    return [shard.path for shard in source.shards] or [source.path]


def stand_ins(source: TensorSource, origin: Origin | None = None) -> tuple[SourceFile, ...]:
    """The files with placeholders for their digests, each as long as what will replace it."""
    return tuple(
        SourceFile(path.stat().st_size, placeholder(i), *known_of(path, origin))
        for i, path in enumerate(data_files(source))
    )


def known_of(path: Path, origin: Origin | None) -> tuple[str, ...]:
    """Repository, commit and name of a file that came from the Hub; nothing of another.

    Examples
    --------
    >>> known_of(Path("/cache/net.onnx"), Origin("org/net", "abc", Path("/cache")))
    ('org/net', 'abc', 'net.onnx')
    """
    return (origin.repo, origin.commit, path.relative_to(origin.root).as_posix()) if origin else ()


def resolved(recipe: str, digests: Digests) -> str:
    """A recipe's JSON with every placeholder replaced; waits for the digests."""
    for i, digest in enumerate(digests):
        recipe = recipe.replace(placeholder(i), digest.result().sha256)
    return recipe


def _digest(path: Path, source: TensorSource) -> SourceFile:
    with path.open("rb") as file:
        digest = SourceFile(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    if isinstance(source, Checkpoint):
        source.check_unchanged()  # what was hashed is what was converted
    return digest


def placeholder(index: int) -> str:
    """Stands for the digest of source number `index` until that is known; as long as one, and as unlikely.

    Examples
    --------
    >>> len(placeholder(0)), placeholder(0) == placeholder(1)
    (64, False)
    """
    return hashlib.sha256(f"rekernel: digest of source {index} to follow".encode()).hexdigest()
