"""Markdown tables between the marks `<!-- table:NAME -->` and `<!-- /table:NAME -->` of a page.

Scope: text. Not here: the numbers (see the `tables` script of each benchmark).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first column is text.

    Examples
    --------
    >>> print(markdown(["row", "score"], [["default", "1.0"]]))
    | row | score |
    |---|---:|
    | default | 1.0 |
    """
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|", *lines[1:]])


def rewrite(pages: Iterable[Path], tables: Mapping[str, str]) -> None:
    """Put each table between its marks, on every page that has them."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            pattern = rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)"
            text = re.sub(pattern, lambda m, table=table: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.DOTALL)
        page.write_text(text, encoding="utf-8")
