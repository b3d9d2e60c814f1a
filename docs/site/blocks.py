"""What mkdocs does to a page before it reads it: what Markdown on a forge and in the tests needs, and here shows."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    r"""```` ```python notest ```` becomes ```` ```python ````, and `a \| b` in a table's code `a | b`."""
    markdown = re.sub(r"^(```\w+) notest$", r"\1", markdown, flags=re.MULTILINE)
    return re.sub(r"^\|.*$", lambda row: re.sub(r"`[^`]*`", _bars, row[0]), markdown, flags=re.MULTILINE)


def _bars(code: re.Match[str]) -> str:
    return code[0].replace(r"\|", "|")
