"""Results in a cell: one line as text, and HTML that is short, escaped, folded, and has no colours of its own."""

from __future__ import annotations

import html.parser

import numpy as np
import pytest
import safetensors.numpy

import rekernel as rk
from rekernel.messages.display import MOST, SHORT, Table

LAYERS = 400
HOSTILE = "<script>alert('x')</script>&\x1b[2J.weight"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of a conversion of many layers, one of which has a name that is HTML."""
    folder = tmp_path_factory.mktemp("many")
    names = [HOSTILE, *(f"down_blocks.{i}.resnets.0.conv1.weight" for i in range(LAYERS - 1))]
    safetensors.numpy.save_file({name: np.ones((2, 2, 3, 3), np.float32) for name in names}, folder / "in.safetensors")
    report = rk.convert(folder / "in.safetensors", folder / "out.safetensors", scale=2)
    info = rk.inspect(report.target)
    plan = report.plans[""]
    return {
        "report": report, "plan": plan, "info": info, "recipe": info.recipe, "change": plan.changed[0],
        "estimate": rk.estimate(folder / "in.safetensors", plan),
    }  # fmt: skip


NAMES = ("report", "plan", "info", "recipe", "change", "estimate")


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_one_short_line(name, results):
    said = repr(results[name])
    assert said.startswith(f"<{type(results[name]).__name__}: ") and said.isprintable() and len(said) < 600


@pytest.mark.parametrize("name", NAMES)
def test_its_html_is_short_whole_and_without_colours(name, results):
    class Checker(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.seen, self.text = [], set(), ""

        def handle_starttag(self, tag, attributes):
            self.open.append(tag)
            self.seen.add(tag)
            assert not any("color" in (value or "") for _, value in attributes)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.text += data

    page, checker = results[name]._repr_html_(), Checker()
    checker.feed(page)
    assert checker.open == [] and "script" not in checker.seen and "\x1b" not in page
    assert len(page) < 40_000
    if name in ("report", "plan", "info", "recipe"):
        assert "<script>alert('x')</script>&\\x1b[2J.weight" in checker.text
        assert "<details><summary>" in page and f"and {LAYERS - MOST} more" in checker.text


def test_a_plan_says_what_it_is_what_changes_and_how_many_notes_there_are(results):
    line = repr(results["plan"])
    assert f"scale 2, method optimal: {LAYERS} of {LAYERS} tensors change; " in line and line.endswith("s>")


def test_print_of_a_plan_is_still_the_table(results):
    assert str(results["plan"]).startswith("tensor")


def test_short_tables_are_open_and_long_ones_folded():
    rows = [("a", "b")] * SHORT
    assert Table("t", ("x", "y"), rows).to_html().startswith("<details open>")
    assert Table("t", ("x", "y"), [*rows, ("c", "d")]).to_html().startswith("<details><summary>t</summary>")


def test_what_the_hub_returns_does_not_print_its_card():
    pytest.importorskip("huggingface_hub")
    from rekernel.hub import Pushed

    pushed = Pushed("me/model", (("a", 1), ("<b>", 2)), (), ("note",), "message", "card " * 10_000)
    assert repr(pushed) == "<Pushed: me/model: 2 files, 3 bytes; nothing was uploaded; 1 note>"
    assert "&lt;b&gt;" in pushed._repr_html_() and len(pushed._repr_html_()) < 2000
