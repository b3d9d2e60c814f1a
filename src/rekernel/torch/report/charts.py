"""Draw curves as SVG for the report, and encode pictures as PNG.

Scope: numbers in, markup out. Colours are classes, which the page's style sheet defines for light and dark. Every
figure has a title and a description for those who cannot see it. Not here: the page (see `report.page`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 30, 40
_NEGATIVE, _POSITIVE = (33, 102, 172), (178, 24, 43)  # ColorBrewer's RdBu, which colour-blind people can tell apart
_NICE = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    label : text of the legend
    style : class of the line, which the style sheet colours: 'old' or 'new'
    points : (count, 2) of x and y
    """

    label: str
    style: str
    points: NDArray[np.float64]


def line_chart(
    curves: Sequence[Curve], *, title: str, text: str, x_label: str, y_label: str, mark: float | None = None
) -> Markup:
    """Curves over a common axis from 0, as an SVG figure. Points that are not finite are left out.

    Parameters
    ----------
    title, text : what is drawn, and what it shows, for screen readers
    mark : x of a dashed vertical line, optional

    Examples
    --------
    >>> import numpy as np
    >>> one = Curve("old <b>", "old", np.array([[0.0, 1.0], [0.5, 0.25]]))
    >>> svg = line_chart([one], title="T", text="D", x_label="x", y_label="y")
    >>> svg.startswith("<svg"), "old &lt;b&gt;" in svg
    (True, True)
    """
    drawn = [curve.points[np.isfinite(curve.points).all(1)] for curve in curves]
    across, up = (
        max((float(points[:, i].max()) for points in drawn if len(points)), default=1.0) or 1.0 for i in (0, 1)
    )
    steps, top = _ticks(up)
    inner = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + inner[0] * x / across, 1), round(_TOP + inner[1] * (1 - y / top), 1)

    parts = [_opening(title, text)]
    for y in steps:
        left, height = place(0, y)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            left, _WIDTH - _RIGHT, height, height))  # fmt: skip
        parts.append(_text(left - 6, height + 4, f"{y:g}", "end"))
    below = [x for x in _ticks(across)[0] if x <= across]
    parts += [_text(place(x, 0)[0], _HEIGHT - _BOTTOM + 16, f"{x:g}", "middle") for x in below]
    parts.append(_text(_LEFT + inner[0] / 2, _HEIGHT - 6, x_label, "middle"))
    parts.append(Markup('<text transform="rotate(-90)" x="{}" y="12" text-anchor="middle">{}</text>').format(
        -(_TOP + inner[1] / 2), y_label))  # fmt: skip
    if mark is not None and mark <= across:
        at = place(mark, 0)[0]
        parts.append(Markup('<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            at, at, _TOP, _HEIGHT - _BOTTOM))  # fmt: skip
    for number, curve in enumerate(curves):
        line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in drawn[number].tolist()))
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(curve.style, line))
        x = _LEFT + 200 * number  # the legend stands above the curves
        parts.append(Markup('<line class="{}" x1="{}" x2="{}" y1="12" y2="12"/>').format(curve.style, x, x + 24))
        parts.append(_text(x + 30, 16, curve.label, "start"))
    return Markup("").join([*parts, Markup("</svg>")])


def png(pixels: NDArray[np.uint8]) -> str:
    """Bytes (H, W, 1 or 3) as the data URI of a PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def heat(taps: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The taps of a kernel (rows, columns) as colours: blue below 0, white at 0, red above 0, one pixel each.

    Examples
    --------
    >>> heat(np.array([[0.0, 1.0, -1.0]])).tolist()
    [[[255, 255, 255], [178, 24, 43], [33, 102, 172]]]
    """
    taps = np.nan_to_num(taps, posinf=0.0, neginf=0.0)
    most = float(np.abs(taps).max()) or 1.0
    share = (taps / most)[..., None]
    colour = np.where(share < 0, np.array(_NEGATIVE, float), np.array(_POSITIVE, float))
    found: NDArray[np.uint8] = np.rint(255 + np.abs(share) * (colour - 255)).astype(np.uint8)
    return found


def _ticks(most: float) -> tuple[list[float], float]:
    """Three to six round numbers from 0, and the end of the axis."""
    rough = most / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(float(n * power) for n in _NICE if n * power >= rough * (1 - 1e-9))
    count = int(np.ceil(most / step - 1e-9))
    return [round(i * step, 10) for i in range(count + 1)], count * step


def _opening(title: str, text: str) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>'
    ).format(_WIDTH, _HEIGHT, f"{title}. {text}", title, text)  # fmt: skip


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, escape(text))
