"""The HTML report of `rekernel verify`: it needs nothing else, escapes foreign text, and shows in a browser."""

import html
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import rekernel.torch as rkt
from rekernel.torch.report.charts import Curve, line_chart

EVIL = '<script>alert(1)</script>\u202e & "quoted" \x1b[2J'
VOID = {"meta", "img", "br", "link", "line", "polyline"}


class Checked(HTMLParser):
    """Tags that are closed in order, unique ids, every picture with a text, and what is fetched from elsewhere."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.foreign, self.bare = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name in ("src", "href"):
            if attributes.get(name) and not attributes[name].startswith("data:image/png;base64,"):
                self.foreign.append(attributes[name])
        if (tag == "img" and not attributes.get("alt")) or (tag == "svg" and not attributes.get("aria-label")):
            self.bare.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.Flatten(),
        nn.Linear(128, 5),
    ).eval()  # fmt: skip
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), mode="supersample", method="cubic", form="dense")
    x = 3 * torch.randn(30, 3, 32, 32)
    names = {number: f"{EVIL}{number}" for number in range(5)}
    return rkt.verify(model, larger, x, labels=torch.arange(30) % 5, classes=names, notes=[EVIL])


def test_the_page_is_whole_needs_nothing_else_and_escapes_what_others_wrote(found):
    page = found.to_html(EVIL)
    checked = Checked(page)
    assert checked.open == [] and checked.foreign == [] and checked.bare == []
    assert "script" not in checked.tags and "\u202e" not in page and "\x1b" not in page
    assert "&lt;script&gt;" in page and "http" not in re.sub(r"http-equiv", "", page)
    assert checked.tags.count("h1") == 1 and checked.tags.count("svg") == 1 + len(found.kernels)
    assert "default-src 'none'" in page and 'lang="en"' in page and "prefers-color-scheme: dark" in page
    assert str(found.verdict).split(".")[0] in html.unescape(page)
    for layer in found.worst[:3]:
        assert f">{layer.name}<" in page


def test_maps_of_a_segmentation_network_are_shown():
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 1, 1)).eval()
    larger = rkt.rescale(maps, 2, torch.zeros(1, 1, 16, 16))
    page = rkt.verify(maps, larger, torch.randn(3, 1, 32, 32)).to_html()
    assert page.count('alt="Output of the rescaled network') == 3 and Checked(page).open == []


def test_a_chart_is_well_formed_svg_inside_its_frame():
    points = np.array([(0.0, 0.0), (1.0, 3.7), (2.0, 1e-9)])
    svg = ET.fromstring(line_chart([Curve(EVIL.replace("\x1b", ""), "old", points)], title="a", text="b", x_label="x",
                                   y_label="y"))  # fmt: skip
    [line] = [element for element in svg if element.tag == "polyline"]
    width, height = map(float, svg.get("viewBox").split()[2:])
    for point in line.get("points").split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= width and 0 <= y <= height
    flat = line_chart([Curve("a", "old", np.zeros((2, 2)))], title="a", text="b", x_label="x", y_label="y")
    assert ET.fromstring(flat) is not None


def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, False), (1280, True)])
def test_a_browser_shows_the_page_without_scrolling_sideways(found, tmp_path, width, dark):
    if browser() is None:
        pytest.skip("no Chromium in PATH")
    # The page forbids scripts, so a page around it looks into it; a window may not be as narrow as a frame.
    page = found.to_html("Report")
    host = (
        '<!doctype html><html style="color-scheme: light dark"><title></title>'
        f'<iframe id="frame" width="{width}" height="3000" style="border: 0" srcdoc="{html.escape(page)}"></iframe>'
        "<script>onload = () => { const page = frame.contentDocument;"
        "const broken = [...page.images].filter(i => !i.complete || !i.naturalWidth).length;"
        "const back = getComputedStyle(page.body).backgroundColor;"
        "const across = page.documentElement.scrollWidth;"
        "document.title = [across, page.images.length, broken, back].join(';') }</script></html>"
    )
    (tmp_path / "host.html").write_text(host, encoding="utf-8")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    colours = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    common = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
              f"--user-data-dir={tmp_path / 'profile'}", *colours]  # fmt: skip
    dumped = subprocess.run(
        [*common, "--window-size=1400,3000", "--dump-dom", (tmp_path / "host.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    across, images, broken, back = re.search(r"<title>(.*?)</title>", dumped)[1].split(";")
    assert 0 < int(across) <= width and int(images) == len(found.examples) + 2 * len(found.kernels) and broken == "0"
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) == dark
    shot = tmp_path / "page.png"
    subprocess.run(
        [*common, "--window-size=1280,2000", f"--screenshot={shot}", (tmp_path / "page.html").as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.std() > 5  # something is drawn: the page's own policy lets styles and pictures through
