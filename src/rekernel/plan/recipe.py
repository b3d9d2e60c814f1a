"""The recipe: how a rescaled file says what was done to it, inside its own metadata.

Knows the JSON under one metadata key and nothing of files. Format: docs/recipe.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ..errors import RekernelError
from .plan import Plan

KEY = "rekernel"
"""The metadata key; every other entry of the source's metadata is kept as it is."""
VERSION = 1


@dataclass(frozen=True)
class SourceFile:
    """A file that was converted: what to compare with the Hub's LFS entry, or with `sha256sum`.

    repo, commit, path : where on the Hub it came from; empty for a file of the disk
    """

    nbytes: int
    sha256: str
    repo: str = ""
    commit: str = ""
    path: str = ""

    def to_document(self) -> dict[str, Any]:
        """For JSON; what is empty is left out."""
        known = {"repo": self.repo, "commit": self.commit, "path": self.path}
        return {"bytes": self.nbytes, "sha256": self.sha256} | {key: value for key, value in known.items() if value}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The same back."""
        known = (str(document.get(key, "")) for key in ("repo", "commit", "path"))
        return cls(int(document["bytes"]), str(document["sha256"]), *known)


@dataclass(frozen=True)
class Recipe:
    """What was done, and to what.

    plan : the changes alone; a tensor that is not listed is the source's
    sources : the source's files, in order
    dtype : what floats were cast to, or empty
    tool : name and version of the program
    """

    plan: Plan
    sources: tuple[SourceFile, ...]
    dtype: str = ""
    tool: str = ""

    def to_json(self) -> str:
        """One line of JSON with sorted keys: equal recipes give equal bytes."""
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
        """The recipe that `to_json` wrote.

        Raises
        ------
        RekernelError
            For text that is none, or of a version this rekernel does not read.

        Examples
        --------
        >>> recipe = Recipe(Plan(()), (SourceFile(8, "0" * 64),), tool="rekernel 0.1.0")
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
        """
        try:
            document = json.loads(text)
            version = document["version"]
            if version != VERSION:
                raise RekernelError(f"recipe: version {version!r} is not {VERSION}, the one this rekernel reads")
            sources = tuple(SourceFile.from_document(source) for source in document["sources"])
            plan = Plan.from_json(json.dumps(document["plan"]))
            return cls(plan, sources, str(document["dtype"]), str(document["tool"]))
        except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
            raise RekernelError(f"recipe: metadata key {KEY!r} holds no rekernel recipe ({error})") from None


def find_recipe(metadata: Mapping[str, str]) -> Recipe | None:
    """The recipe in a file's metadata, if it has one.

    Examples
    --------
    >>> find_recipe({"format": "pt"}) is None
    True
    """
    return Recipe.from_json(metadata[KEY]) if KEY in metadata else None
