"""Write the page of a study: its figures, what was skipped and why, and the contact sheets.

Scope: results.json and sheets in, HTML out. Text from the study and from records is escaped by the template engine, and
characters that a reader could not see by `shown`. Not here: measuring (see `measuring`). The style is that of the
reports of `rekernel verify`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from contact_sheets import Sheet
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rekernel.escape import shown
from rekernel.version import __version__

HERE = Path(__file__).parent


def report_html(results: dict[str, Any], sheets: Sequence[Sheet]) -> str:
    """The page; the sheets are shown from their files beside it."""
    engine = Environment(
        loader=FileSystemLoader([HERE, str(files("rekernel.torch.report"))]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    groups = [
        (shown(model), f"{area:g}", _heading(list(rows)), [_row(row) for row in rows])
        for (model, area), group in itertools.groupby(results["rows"], lambda row: (row["model"], row["area"]))
        if (rows := list(group))
    ]
    shelves = [
        (shown(model), f"{area:g}", [{"prompt": shown(sheet.prompt, 400), "path": sheet.path} for sheet in group])
        for (model, area), group in itertools.groupby(sheets, lambda sheet: (sheet.model, sheet.area))
    ]
    return engine.get_template("study_report.html.j2").render(
        title=shown(results["title"], 200), heading="a study", setting=_setting(results), grade="same", sign="",
        verdict="", notes=[shown(note, 600) for note in results["notes"]], version=__version__, groups=groups,
        shelves=shelves,
    )  # fmt: skip


def _setting(results: dict[str, Any]) -> str:
    prompts, seeds = results["prompts"], len(results["seeds"])
    each = f"{prompts} prompt{'' if prompts == 1 else 's'} with {seeds} seed{'' if seeds == 1 else 's'} each"
    return f"{each}: {prompts * seeds} pictures a row."


def _heading(rows: list[dict[str, Any]]) -> str:
    """What the rows of one model and size have in common."""
    made = next((row for row in rows if row["pictures"]), None)
    if made is None:
        return "No picture was made."
    area = (made["side"] / made["trained"]) ** 2
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    return shown(
        f"{made['class']} in {made['dtype']}, {made['side']} pixels a side, trained at {made['trained']}: {area:.3g} "
        f"times the area; on {', '.join(made['devices'])}; {versions}.", 400,
    )  # fmt: skip


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """The cells of a row as text; a dash where nothing was measured."""
    repeated = row.get("repetition")
    said = [f"skipped: {row['skipped']}"] if row["skipped"] else []
    said += [f"failed: {reason}" for reason in row["failures"][:3]]
    if row["one_colour"]:
        said.append(f"{row['one_colour']} of one colour")
    return {
        "method": shown(row["method"]), "attached": shown(row.get("attached", ""), 400),
        "pictures": f"{row['pictures']} of {row['of']}",
        "repetition": "-" if not repeated else f"{repeated['ratio']:.2f}",
        "interval": "" if not repeated else f"{repeated['low']:.2f} to {repeated['high']:.2f}",
        "fid": _number(row.get("fid"), ".2f"), "fid_crops": _number(row.get("fid_crops"), ".2f"),
        "kid": _number(row.get("kid_mean"), ".4f"),
        "kid_deviation": "" if row.get("kid_std") is None else f"sd {row['kid_std']:.4f}",
        "clip": _number(row.get("clip"), ".2f"),
        "seconds": _number(row.get("seconds_median"), ".1f"),
        "memory": "-" if "peak_bytes" not in row else f"{row['peak_bytes'] / 2**30:.1f}",
        "said": [shown(text, 600) for text in said],
    }  # fmt: skip


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
