"""Pages as a reader uses them: the blocks to type, in order; those marked `notest` need what is not here."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
HOW_TO = sorted(path.stem for path in (DOCS / "how-to").glob("*.md"))

_BLOCK = re.compile(r"^```(console|python)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    language : 'console' or 'python'
    runs : whether it is not marked `notest`
    """

    language: str
    runs: bool
    text: str

    def commands(self) -> list[list[str]]:
        """The lines that begin with `$`, split as a shell splits them, comments gone."""
        lines = [line[2:] for line in self.text.splitlines() if line.startswith("$ ")]
        return [shlex.split(line, comments=True) for line in lines]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    assert all(marks.strip() in ("", "notest") for _, marks, _ in found), page
    return [Block(language, "notest" not in marks, text) for language, marks, text in found]
