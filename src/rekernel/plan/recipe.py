"""The recipe: the record of a conversion in the metadata of the converted file.

Scope: the JSON under one metadata key. Not here: files (see `conversion`). Format: docs/recipe.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..checkpoint.strict_json import strict_text
from ..errors import CheckpointError, RekernelError
from ..escape import inert, shown
from ..messages.display import Displayed, Table
from ..text import counted
from .plan import Plan, plan_of

KEY = "rekernel"
"""The metadata key. Every other entry of the source's metadata is copied unchanged."""
VERSION = 1
_NO_RECIPE = f"recipe: metadata key {KEY!r} does not hold a rekernel recipe"
_ORIGIN = ("repo", "commit", "path")


@dataclass(frozen=True)
class SourceFile:
    """A file that was converted. The hash can be compared with the Hub's LFS entry, or with `sha256sum`.

    nbytes, sha256 : size and hash of the file
    repo, commit, path : repository, commit and path of the file on the Hub; empty for a local file
    """

    nbytes: int
    sha256: str
    repo: str = ""
    commit: str = ""
    path: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return the fields for JSON, without the empty ones."""
        known = {key: getattr(self, key) for key in _ORIGIN}
        return {"bytes": self.nbytes, "sha256": self.sha256} | {key: value for key, value in known.items() if value}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read the fields that `to_document` wrote."""
        nbytes, texts = document["bytes"], [document["sha256"], *(document.get(k, "") for k in _ORIGIN)]
        if type(nbytes) is not int or nbytes < 0 or not all(isinstance(text, str) for text in texts):
            raise TypeError("a source has bytes that are not a whole number, or another field that is not text")
        return cls(nbytes, *texts)


@dataclass(frozen=True, repr=False)
class Recipe(Displayed):
    """The plan of a conversion and the files that were converted.

    plan : the plan, without the tensors that stay unchanged
    sources : files of the source, in order
    dtype : dtype to which floats were cast, or empty
    tool : name and version of the program
    """

    plan: Plan
    sources: tuple[SourceFile, ...]
    dtype: str = ""
    tool: str = ""

    def _line(self) -> str:
        cast = f", cast to {self.dtype}" if self.dtype else ""
        return f"{self.plan._line()}{cast}; {counted(len(self.sources), 'source file')}, by {inert(self.tool, 80)}"

    def _tables(self) -> Iterator[Table]:
        files = [(f"{s.nbytes:,}", s.sha256, shown(s.path) if s.path else "") for s in self.sources]
        yield Table(counted(len(files), "source file"), ("bytes", "sha256", "path"), files)
        yield from self.plan._tables()

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys, so equal recipes give equal bytes."""
        document: dict[str, Any] = {
            "version": VERSION,
            "tool": self.tool,
            "dtype": self.dtype,
            "sources": [source.to_document() for source in self.sources],
            "plan": json.loads(self.plan.to_json(kept=False, indent=None)),
        }
        return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe that `to_json` wrote.

        Raises
        ------
        RekernelError
            If the text is not a recipe, or the version is one that this rekernel does not read.

        Examples
        --------
        >>> recipe = Recipe(Plan(()), (SourceFile(8, "0" * 64),), tool="rekernel 0.1.0")
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
        """
        try:
            document = strict_text(text, "it", "text")
        except CheckpointError as error:
            raise RekernelError(f"{_NO_RECIPE} ({str(error).rstrip('.')})") from None
        if not isinstance(document, dict):
            raise RekernelError(f"{_NO_RECIPE} (it is not an object)")
        try:
            version = document["version"]
            if version != VERSION:
                raise RekernelError(
                    f"recipe: version {shown(repr(version), 80)} is not {VERSION}, the one this rekernel reads"
                )
            sources = tuple(SourceFile.from_document(source) for source in document["sources"])
            plan = plan_of(document["plan"])
            dtype, tool = document["dtype"], document["tool"]
            if not isinstance(dtype, str) or not isinstance(tool, str):
                raise TypeError("dtype and tool must be text")
            return cls(plan, sources, dtype, tool)
        except (KeyError, TypeError, AttributeError) as error:
            why = shown(str(error), 200)
            raise RekernelError(f"{_NO_RECIPE} ({why})") from None


def find_recipe(metadata: Mapping[str, str]) -> Recipe | None:
    """Return the recipe in a file's metadata, or None.

    Examples
    --------
    >>> find_recipe({"format": "pt"}) is None
    True
    """
    return Recipe.from_json(metadata[KEY]) if KEY in metadata else None
