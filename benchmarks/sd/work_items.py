"""List the pictures of a study, name each by its settings, and split the list over processes.

Scope: names, digests and records on disk. Not here: making pictures (see `generation`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from study import Method, Model, Study

from rekernel.checkpoint.atomic_file import write_atomic

FORMAT = 1
"""Raised when the same settings make another picture, so that pictures of both are never mixed."""

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
_NOT_SETTINGS = ("name", "only")  # a renamed model or method keeps its pictures


@dataclass(frozen=True)
class Item:
    """One picture of a study."""

    model: Model
    area: float
    method: Method
    prompt: str
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the picture depends on, as JSON holds it."""
        model, method = (
            {name: value for name, value in asdict(part).items() if name not in _NOT_SETTINGS}
            for part in (self.model, self.method)
        )
        return {
            "format": FORMAT, "model": model, "area": self.area, "method": method, "prompt": self.prompt,
            "seed": self.seed,
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name the settings; other settings have another digest."""
        text = json.dumps(_as_json(self.settings), sort_keys=True, ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _as_json(value: Any) -> Any:
    """Mappings with keys as text: a mapping of YAML may have numbers, and JSON sorts keys of one kind alone."""
    if isinstance(value, dict):
        return {str(key): _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, list | tuple) else value


def items_of(study: Study) -> list[Item]:
    """All pictures, in the order in which one process would make them: model by model, and method by method.

    A model is loaded once, and a method attached once. Prompts and seeds are innermost, so that each share of
    `share_of` holds about as many pictures of a slow method as any other.
    """
    return [
        Item(model, area, method, prompt, seed)
        for model in study.models
        for area in study.areas
        for method in study.methods
        for prompt in study.prompts
        for seed in study.seeds
    ]


def share_of(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """The part of process `index` of `count`; the parts of all are disjoint, and together they are the list."""
    return list(items[index::count])


@dataclass(frozen=True)
class Store:
    """Pictures and records in a folder; both are named by the digest, and neither is ever half written.

    The record is written after the picture: with the record of a made picture, the picture is whole.
    """

    folder: Path

    def picture(self, item: Item) -> Path:
        return self.folder / "pictures" / f"{item.digest}.png"

    def record_path(self, item: Item) -> Path:
        return self.folder / "pictures" / f"{item.digest}.json"

    def keep(self, item: Item, picture: bytes | None, record: dict[str, Any]) -> None:
        """Write the picture, if there is one, and then the record."""
        self.picture(item).parent.mkdir(parents=True, exist_ok=True)
        if picture is not None:
            write_atomic(self.picture(item), picture, force=True)
        text = json.dumps({"settings": _as_json(item.settings), **record}, indent=1, allow_nan=False)
        write_atomic(self.record_path(item), f"{text}\n".encode(), force=True)

    def record(self, item: Item) -> dict[str, Any] | None:
        """What was written about a picture; None where nothing was, or where a made picture is gone."""
        try:
            found = json.loads(self.record_path(item).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(found, dict) or found.get("state") not in (DONE, SKIPPED, FAILED):
            return None
        return None if found["state"] == DONE and not self.picture(item).is_file() else found

    def missing(self, items: Sequence[Item], *, retry: bool = False) -> list[Item]:
        """The pictures still to be made: those without a record, those that failed, and with `retry` skipped ones."""
        final = (DONE,) if retry else (DONE, SKIPPED)
        return [item for item in items if (found := self.record(item)) is None or found["state"] not in final]

    def recorded(self, items: Sequence[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        """The pictures that have a record, with it."""
        return ((item, found) for item in items if (found := self.record(item)) is not None)
