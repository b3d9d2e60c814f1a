"""Fill the page of the report with what `verify` measured.

Scope: a `Verification`, and the template beside this file. Names from files are escaped twice: characters that a reader
could not see by `shown`, and markup by the template engine. Not here: curves and pictures (see `report.charts`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RekernelError
from ...escape import shown
from ...text import dims
from ...version import __version__
from ..measure.kernel_views import KernelView
from ..measure.verdict import percent

_SIGNS = {
    "same": "=",
    "close": "\N{ALMOST EQUAL TO}",
    "changed": "\N{NOT EQUAL TO}",
    "no better": "\N{MULTIPLICATION SIGN}",
}
_WORST = 5


def filled(template: str, *, title: str, grade: str, notes: Sequence[str], **values: Any) -> str:
    """A page from one of the templates beside this file.

    Raises
    ------
    RekernelError
        If Jinja or Pillow is not installed.
    """
    try:
        import PIL.Image  # noqa: F401
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise RekernelError(f"the report needs {error.name}: pip install jinja2 pillow") from None
    engine = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return engine.get_template(template).render(
        title=shown(title, 400), grade=grade, sign=_SIGNS[grade], notes=[shown(note, 400) for note in notes],
        version=__version__, **values,
    )  # fmt: skip


def page(found: Any, title: str, *, command: bool = False) -> str:
    """The whole page.

    Parameters
    ----------
    found : Verification
        Its module imports this one, so this one does not name the class.
    title : str
    command : bool
        Name options of the command in place of arguments.

    Raises
    ------
    RekernelError
        If Jinja or Pillow is not installed.
    """
    size, new, verdict = dims(found.size), dims(found.new_size), found.verdict
    what = f"{found.count} picture{'' if found.count == 1 else 's'}{'' if found.pictures else ' of smooth noise'}"
    return filled(
        "page.html.j2", title=title, grade=verdict.grade, heading=verdict.title,
        verdict=verdict.on_command_line() if command else str(verdict), setting=f"{new} against {size}, on {what}.",
        notes=found.notes, found=found, size=size, new_size=new, rows=_rows(found), layers=_layers(found),
        worst=[_layer(layer, found) for layer in found.worst[:_WORST]], depth=_by_depth(found),
        kernels=[_kernel(view) for view in found.kernels], pictures=[_picture(example) for example in found.examples],
        scores=[(name, f"{s.accuracy:.1f} %", f"{s.f1:.1f} %") for name, s in found.scores.items()],
    )  # fmt: skip


def _rows(found: Any) -> list[dict[str, Any]]:
    """What was compared with the original on the reduced pictures, the rescaled network first."""
    rows = [
        ("The rescaled network at the new size", found.converted.error, found.converted.kept, "new"),
        ("The original, pictures reduced by a cubic filter", found.by_hand.error, found.by_hand.kept, "old"),
    ]
    one, phase = found.shift, found.phase_shift
    if one is not None and one.change is not None:
        rows.append(("The original, pictures moved by one trained pixel", one.change, one.agreement, "old"))
    if phase is not None and phase.change is not None:
        by = dims(f"{step:g}" for step in dict.fromkeys(found.phase))
        rows.append((f"The original, pictures moved by {by} pixels, as supersampled strides see them", phase.change,
                     phase.agreement, "old"))  # fmt: skip
    if found.untouched is not None:
        rows.append(("The untouched network at the new size", found.untouched.error, found.untouched.kept, "old"))
    most = _largest(error for _, error, _, _ in rows)
    return [
        {"what": what, "error": percent(error), "kept": "" if kept is None or not found.pictures else percent(kept),
         "width": _width(error, most), "style": style}
        for what, error, kept, style in rows
    ]  # fmt: skip


def _layer(layer: Any, found: Any) -> dict[str, str]:
    most = _largest(other.error for other in found.layers)
    return {
        "name": shown(layer.name), "kind": shown(layer.kind), "size": dims(layer.size), "new": dims(layer.new_size),
        "error": percent(layer.error), "width": _width(layer.error, most),
    }  # fmt: skip


def _largest(errors: Iterable[float]) -> float:
    return max((error for error in errors if math.isfinite(error)), default=0.0) or 1.0


def _width(error: float, most: float) -> str:
    """The bar of an error in percent; the whole width where the error is not finite."""
    return f"{100 * error / most if math.isfinite(error) else 100:.1f}"


def _layers(found: Any) -> list[dict[str, str]]:
    return [_layer(layer, found) for layer in found.layers]


def _by_depth(found: Any) -> str:
    """The chart of errors in the order of the layers; empty for fewer than three."""
    if len(found.layers) < 3:
        return ""
    from .charts import Curve, line_chart

    errors = np.array([(number, layer.error) for number, layer in enumerate(found.layers, 1)], np.float64)
    whole = np.array([(0, found.converted.error), (len(errors), found.converted.error)], np.float64)
    worst = found.worst[0]
    return line_chart(
        [Curve("each layer", "new", errors), Curve("whole network", "old", whole)],
        title="Relative error of every layer, in the order in which they run",
        text=f"{len(errors)} layers; the largest error is {percent(worst.error)}, in {shown(worst.name)}; the whole "
        f"network has {percent(found.converted.error)}.",
        x_label="layer, in running order", y_label="relative error",
    )  # fmt: skip


def _kernel(view: KernelView) -> dict[str, Any]:
    from .charts import Curve, heat, line_chart, png

    old, new = (dims(taps.shape) for taps in (view.old, view.new))
    name = shown(view.name)
    beyond = view.new_response[view.new_response[:, 0] > 0.5]
    leak = f"; above the trained band at most {percent(float(beyond[:, 1].max()))}" if len(beyond) else ""
    chart = line_chart(
        [Curve(f"trained, {old} taps", "old", view.old_response), Curve(f"rescaled, {new} taps", "new",
         view.new_response)],
        title=f"Frequency response of {name}",
        text=f"Root mean square over the kernels, relative to the trained ones at frequency 0. At frequency 0 the "
        f"rescaled ones have {percent(float(view.new_response[0, 1]))}{leak}.",
        x_label="cycles per trained pixel (dashed: the end of the trained band)", y_label="response", mark=0.5,
    )  # fmt: skip
    return {"name": name, "kind": view.kind, "method": view.method, "old": png(heat(view.old)), "old_size": old,
            "new": png(heat(view.new)), "new_size": new, "chart": chart}  # fmt: skip


def _picture(example: Any) -> dict[str, Any]:
    from .charts import png

    said = [f"{what}: {shown(name)}" for what, name in (
        ("label", example.truth), ("original", example.original), ("rescaled", example.converted)) if name]  # fmt: skip
    maps = {name: png(pixels) for name, pixels in (example.maps or {}).items()}
    return {"number": example.number, "image": png(example.picture), "changed": example.changed, "said": said,
            "maps": maps}  # fmt: skip
