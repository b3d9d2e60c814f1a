"""Formulas when the site is built: the LaTeX that arithmatex found becomes MathML, which needs no script.

The site carries the font too: of STIX Two Math, which the package ziamath holds, the characters that the formulas use.
A formula that cannot be converted stops the build. Used by mkdocs alone, see `hooks` in mkdocs.yml.
"""

import html
import io
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from fontTools import subset
from math_core import LatexError, LatexToMathML
from mkdocs.exceptions import PluginError

FONT = "assets/formulas.woff"
"""Where the site holds the font; docs/assets/site.css names it."""

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<display>.*?)\\\])</(?P=tag)>', re.DOTALL
)
_DRAWN = {0x221A, 0x210E, *range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C)}
"""What a browser draws without being given it: roots, and for a variable of one letter its italic letter."""
_LATEX = LatexToMathML(fancy_error=False)
_used: set[str] = set()


def mathml(latex: str, *, display: bool) -> str:
    """A formula as MathML Core.

    Raises
    ------
    LatexError : what LaTeX the converter does not know
    """
    return _LATEX.convert_with_local_state(latex.strip(), displaystyle=display)


def on_page_content(content: str, *, page: Any, **_: object) -> str:
    """The page with MathML in the place of its LaTeX."""

    def drawn(found: re.Match[str]) -> str:
        display = found["display"] is not None
        latex = html.unescape(found["display"] if display else found["inline"])
        try:
            formula = mathml(latex, display=display)
        except LatexError as error:
            raise PluginError(f"{page.file.src_uri}: no formula: {latex}: {error}") from None
        _used.update(html.unescape(re.sub(r"<[^>]*>", "", formula)))
        return f'<div class="formula" tabindex="0">{formula}</div>' if display else formula

    return _FORMULA.sub(drawn, content)


def on_post_build(config: Any, **_: object) -> None:
    """Write the font into the site."""
    target = Path(config.site_dir, FONT)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(font("".join(sorted(_used))))


def font(characters: str) -> bytes:
    """STIX Two Math with these characters, roots, italic letters, and all their sizes, as WOFF."""
    options = subset.Options(flavor="woff", layout_features=["*"], name_IDs=["*"], notdef_outline=True)
    path = distribution("ziamath").locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf")  # its import warns
    loaded = subset.load_font(str(path), options)
    chosen = subset.Subsetter(options)
    chosen.populate(unicodes={*map(ord, characters), *_DRAWN})
    chosen.subset(loaded)
    written = io.BytesIO()
    subset.save_font(loaded, written, options)
    return written.getvalue()
