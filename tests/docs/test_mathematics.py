"""The derivations run: every doctest of docs/mathematics.md passes, and what the sources point to exists."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "mathematics.md"
TEXT = PAGE.read_text(encoding="utf-8")
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
POINTER = re.compile(r"docs/mathematics\.md,\s+((?:\"[^\"]+\"(?:,?\s+and\s+|,\s+)?)+)")


def titles() -> set[str]:
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE))


def pointers() -> list[tuple[str, str]]:
    """(file, title) of every pointer to a section in the sources; a pointer may run over a line's end."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for names in POINTER.findall(path.read_text(encoding="utf-8")):
            name = str(path.relative_to(ROOT))
            found += [(name, " ".join(title.split())) for title in re.findall(r'"([^"]+)"', names)]
    return found


def test_every_example_on_the_page_runs() -> None:
    parser, shared = doctest.DocTestParser(), {"__name__": "mathematics"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for block in FENCED.finditer(TEXT):
        line = TEXT.count("\n", 0, block.start(1))
        test = parser.get_doctest(block.group(1), shared, PAGE.name, str(PAGE), line)
        test.globs = shared  # the blocks go on from each other
        runner.run(test, out=report.append, clear_globs=False)
    assert runner.tries > 40
    assert runner.failures == 0, "".join(report)


def test_every_python_block_holds_examples() -> None:
    blocks = [block.group(1) for block in FENCED.finditer(TEXT)]
    assert len(blocks) == len(re.findall(r"^```python", TEXT, flags=re.MULTILINE))
    assert all(block.startswith(">>> ") for block in blocks)


@pytest.mark.parametrize(("path", "title"), pointers())
def test_the_section_a_source_points_to_exists(path: str, title: str) -> None:
    assert title in titles(), f"{path} points to {title!r}; {PAGE.name} has {sorted(titles())}"


def test_the_sources_point_to_the_page() -> None:
    pointed = {path for path, _ in pointers()}
    names = ("arrays", "filters", "geometry", "hidden", "least_squares", "operators")
    assert {f"src/rekernel/resampling/{name}.py" for name in names} <= pointed


def test_every_figure_exists_and_is_small() -> None:
    figures = re.findall(r"!\[[^\]]+\]\((figures/[^)]+)\)", TEXT)
    assert len(figures) == 4
    for figure in figures:
        assert 0 < (PAGE.parent / figure).stat().st_size < 150_000


def test_no_line_break_splits_a_formula() -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"\$\$.*?\$\$", "", prose, flags=re.DOTALL)
    odd = [line for line in prose.splitlines() if line.count("$") % 2]
    assert odd == []
