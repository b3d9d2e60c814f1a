"""The built site: its formulas are drawn, and it needs nothing from a network. The slow test reads it in a browser."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import unicodedata
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlparse

import pytest

from .browser import chromium, measured

for needed in ("mkdocs", "material", "mkdocstrings", "math_core", "fontTools"):
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parents[2]
WITH_FORMULAS = ("mathematics", "guidance")
WIDTHS = (1280, 400)  # a laptop and a phone, in CSS pixels
SEARCHES = {"Poisson": "/mathematics/", "ScaleCrafter": "/guidance/", "allow-pickle": "/cli/"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    done = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder


@dataclass
class Page(HTMLParser):
    """What a page says outside of code, the formulas that it has, and what it loads."""

    said: list[str] = field(default_factory=list)
    formulas: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "math":
            self.formulas.append("")
        if tag in ("math", "pre", "code", "script", "style"):
            self.inside.append(tag)
        if tag in ("script", "img", "source", "iframe"):
            self.loaded.append(attributes.get("src") or "")
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loaded.append(attributes.get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if "math" in self.inside:
            self.formulas[-1] += data
        elif not self.inside:
            self.said.append(data)


def page(path: Path) -> Page:
    parsed = Page()
    parsed.feed(path.read_text(encoding="utf-8"))
    return parsed


def formulas_of(source: Path) -> int:
    """How many formulas a page's Markdown has."""
    text = re.sub(r"^```.*?^```$", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    displayed = re.findall(r"\$\$.*?\$\$", text, flags=re.DOTALL)
    return len(displayed) + len(re.findall(r"\$[^$]+\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)))


def test_no_page_shows_the_source_of_a_formula(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert [text for text in page(path).said if re.search(r"[$\\]", text)] == [], path
        assert "arithmatex" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", WITH_FORMULAS)
def test_every_formula_of_a_page_is_drawn(site: Path, name: str) -> None:
    drawn = page(site / name / "index.html").formulas
    assert len(drawn) == formulas_of(ROOT / "docs" / f"{name}.md") > 50
    assert all(formula.strip() and "\\" not in formula for formula in drawn)
    html = (site / name / "index.html").read_text(encoding="utf-8")
    assert "<merror" not in html and "<menclose" not in html  # a box is not in MathML Core: browsers leave it out


def test_code_in_a_table_shows_its_bars_without_a_backslash(site: Path) -> None:
    text = (site / "cli" / "index.html").read_text(encoding="utf-8")
    assert "_REKERNEL_COMPLETE=fish_source rekernel | source</code></td>" in text
    for path in site.rglob("*.html"):
        assert not re.search(r"<td><code>[^<]*\\\|", path.read_text(encoding="utf-8")), path


def test_a_formula_that_cannot_be_drawn_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from mkdocs.exceptions import PluginError

    formulas = hook("formulas")
    content = r'<p><span class="arithmatex">\(\frac{a}{b\)</span></p>'
    with pytest.raises(PluginError, match=r"guidance\.md: no formula: \\frac\{a\}\{b"):
        formulas.on_page_content(content, page=type("P", (), {"file": type("F", (), {"src_uri": "guidance.md"})}))


def test_a_formula_keeps_its_signs(site: Path) -> None:
    """`&lt;` of the HTML around the LaTeX is a sign of the formula."""
    assert "<mo>&lt;</mo>" in hook("formulas").mathml("a < b", display=False)
    assert any("|x|<2" in re.sub(r"\s", "", formula) for formula in page(site / "mathematics" / "index.html").formulas)


def test_the_font_has_every_sign_of_the_formulas_and_the_sizes_of_brackets(site: Path) -> None:
    from fontTools.ttLib import TTFont

    written = (site / "assets" / "formulas.woff").read_bytes()
    assert len(written) < 100_000
    font = TTFont(io.BytesIO(written))
    used = {sign for name in WITH_FORMULAS for text in page(site / name / "index.html").formulas for sign in text}
    missing = {sign for sign in used if ord(sign) not in font.getBestCmap() and not sign.isspace()}
    assert {sign for sign in missing if ord(sign) < 0x2061 or ord(sign) > 0x2064} == set()  # invisible operators
    for letter in ("CAPITAL R", "SMALL K", "SMALL TAU", "SMALL LAMDA"):  # as a variable of one letter is shown
        assert ord(unicodedata.lookup(f"MATHEMATICAL ITALIC {letter}")) in font.getBestCmap()
    assert ord("√") in font.getBestCmap()
    assert font["MATH"].table.MathVariants.VertGlyphConstruction
    assert "Open Font License" in font["name"].getDebugName(13)


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        base = f"http://site/{path.relative_to(site).as_posix()}"
        for address in filter(None, page(path).loaded):
            where = urlparse(urljoin(base, address))
            assert where.netloc == "site", f"{path}: {address}"
            assert address.startswith("data:") or (site / where.path.lstrip("/")).is_file(), f"{path}: {address}"
    for path in site.rglob("*.css"):
        assert re.findall(r"url\(\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")) == [], path


@pytest.mark.slow
def test_a_browser_shows_every_page_as_it_is_meant(site: Path, tmp_path: Path) -> None:
    if chromium() is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    pages = sorted(
        f"/{path.parent.relative_to(site).as_posix()}/".replace("/./", "/") for path in site.rglob("index.html")
    )
    report = measured(site, tmp_path, {"pages": pages, "widths": WIDTHS, "searches": list(SEARCHES)})
    assert "error" not in report, report["error"]
    found: dict[str, Any] = {
        f"{path} at {width}: {what}": look[what]
        for path, looks in report["pages"].items()
        for width, look in looks.items()
        for what in ("wide", "latex", "images", "code", "flat", "fonts")
        if look[what]
    }
    assert found == {}
    at = report["pages"]
    for path in pages:  # on a phone long formulas and printed columns scroll in their own boxes
        assert at[path]["1280"]["cut"] == at[path]["1280"]["columns"] == [], path
    for name in WITH_FORMULAS:
        assert all(at[f"/{name}/"][str(width)]["font"] for width in WIDTHS)
        assert at[f"/{name}/"]["400"]["formulas"] > 50 and at[f"/{name}/"]["400"]["pictures"] >= 4
    for words, path in SEARCHES.items():
        assert path in report["searches"][words], f"{words}: {report['searches'][words]}"


def hook(name: str) -> Any:
    """A file of docs/site, as mkdocs loads it."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(f"site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
