"""The page on guidance, run."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "guidance.md"


def test_every_example_on_the_page_runs():
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted >= 6
    assert results.failed == 0
