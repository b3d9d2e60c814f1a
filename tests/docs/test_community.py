"""What surrounds the code: the citation, the pages for contributors, and pip lines that install what is meant."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
WRITTEN = [
    *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb"),
    *(ROOT / "integrations").rglob("*.md"), *(ROOT / "integrations").rglob("*.py"), *(ROOT / "src").rglob("*.py"),
    *(ROOT / "cli").rglob("*.py"), *(ROOT / "examples").rglob("*.md"),
]  # fmt: skip
PIP = re.compile(r"pip install ((?:'[^'\n]+'|[^\s`'\")]+)(?: (?:'[^'\n]+'|(?![&(#\"])[\w.\[\]/-]+))*)")


def pip_lines():
    """(file, what pip is asked for) of everything that tells a reader to install something."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in WRITTEN}
    return [(path, asked) for path, text in texts.items() for asked in PIP.findall(text)]


def test_no_pip_line_asks_an_index_for_rekernel():
    """The name is free there: whoever registers it would be installed instead."""
    assert len(pip_lines()) > 12
    for path, asked in pip_lines():
        for word in re.findall(r"'[^']+'|\S+", asked):
            name = word.strip("'")
            assert not re.match(r"rekernel(\[[\w,]+\])?$", name), f"{path}: pip install {asked}"


def test_messages_ask_for_packages_that_pyproject_names():
    extras = [Requirement(line).name for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for path, asked in pip_lines():
        if path.startswith(("src/", "cli/")):
            if asked.startswith("{_packages("):  # of store_client.py, whose packages the table there names
                continue
            words = [word.strip(",.;") for word in asked.split() if word not in ("or", "and")]
            assert set(words) <= set(extras), f"{path}: pip install {asked}"


def test_the_citation_names_this_version_and_licence():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert citation["title"] == PROJECT["name"] and citation["license"] == PROJECT["license"]
    assert citation["version"] == PROJECT["version"] and citation["abstract"] == PROJECT["description"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_target_that_contributors_read_of_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"`make ([\w-]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) >= 7
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_demo_installs_no_package_of_development():
    """`make demo` is what a newcomer types first: torch, rekernel and a library for its figure."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [ready] = re.findall(r"^demo: (\S+)", makefile, re.MULTILINE)
    [rule] = re.findall(rf"^{re.escape(ready)}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    installed = re.findall(r"pip install -q (.*)", rule)
    assert installed == ["$(TORCH)", "-e '.[torch]' matplotlib"]
