"""Phrases that new users stumbled over stay gone from what they read: the README, the docs, messages and nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READ = [
    ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py"), *(ROOT / "cli").rglob("*.py"),
    *(ROOT / "integrations").rglob("*.py"), *(ROOT / "integrations").rglob("*.md"),
]  # fmt: skip
PHRASES = (
    "delay up to 0.3 cycles", "lets spectral copies through", "on kernels they droop", "u without blocks",
    "hardly mind blur", "where little is left to gain", "takes .26 of the memory", "broken scale", "broken numbers",
    "guarded commit", "also why nothing does", "random weights alone", "dc dev.", "dc deviation", "reads no grid",
    "images that much larger", "octave by octave above",
)  # fmt: skip


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_that_nobody_understood_at_the_first_reading_is_gone(phrase):
    found = [str(path.relative_to(ROOT)) for path in READ if phrase in path.read_text(encoding="utf-8").lower()]
    assert found == []
