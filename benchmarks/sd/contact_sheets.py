"""Lay the pictures of one prompt out on a sheet: methods across, seeds down.

Scope: tiles, labels and files. Not here: the page that shows the sheets (see `study_report`).
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from study import Model, Study
from work_items import DONE, Item, Store

from rekernel.checkpoint.atomic_file import write_atomic
from rekernel.escape import shown

GAP, LINE, LEFT = 6, 16, 72  # pixels: between tiles, of a line of text, of the column with the seeds
_BACK, _EMPTY, _TEXT = "white", "#dddddd", "#1b1b1b"
_QUALITY = 90
_LINES = 6  # of a column's name


@dataclass(frozen=True)
class Sheet:
    """One sheet of a study.

    path : relative to the folder of the results
    """

    model: str
    area: float
    prompt: str
    path: str


def write_sheets(study: Study, store: Store) -> list[Sheet]:
    """Write the sheets of all prompts for which a picture exists, as JPEG files in `sheets`."""
    made = []
    for m, model in enumerate(study.models, 1):
        for area in study.areas:
            for number, prompt in enumerate(study.prompts, 1):
                sheet = sheet_of(study, store, model, area, prompt)
                if sheet is None:
                    continue
                # Numbers, not names: a name of a model or a prompt may hold what no file name can.
                path = Path("sheets", f"model{m}-{area:g}x-prompt{number:03}.jpg")
                (store.folder / path).parent.mkdir(parents=True, exist_ok=True)
                held = io.BytesIO()
                sheet.save(held, "JPEG", quality=_QUALITY)
                write_atomic(store.folder / path, held.getvalue(), force=True)
                made.append(Sheet(model.name, area, prompt, path.as_posix()))
    return made


def sheet_of(study: Study, store: Store, model: Model, area: float, prompt: str) -> Image.Image | None:
    """The sheet of one prompt; a method that was skipped for this model has no column. None without a picture."""
    columns = []
    for method in study.methods:
        items = [Item(model, area, method, prompt, seed) for seed in study.seeds]
        paths = [
            store.picture(item) if (record := store.record(item)) is not None and record["state"] == DONE else None
            for item in items
        ]
        if any(paths):
            columns.append((method.name, paths))
    if not columns:
        return None
    return laid_out(columns, [f"seed {seed}" for seed in study.seeds], prompt, study.tile)


def laid_out(
    columns: Sequence[tuple[str, Sequence[Path | None]]], rows: Sequence[str], title: str, tile: int
) -> Image.Image:
    """Tiles in columns with a name above each, and rows with a name at the left; a missing picture is a grey tile.

    Parameters
    ----------
    columns : name, and one path for each row
    tile : side in pixels

    Returns
    -------
    The sheet; the tile of column i and row j begins at (LEFT + i (tile + GAP), top + j (tile + GAP)), where `top` is
    its height without the rows
    """
    letters = max(8, tile // 7)
    heads = [textwrap.wrap(shown(name), letters)[:_LINES] for name, _ in columns]
    width = LEFT + len(columns) * (tile + GAP)
    above = textwrap.wrap(shown(title, 400), max(8, (width - 2 * GAP) // 7))
    top = GAP + LINE * (len(above) + max(map(len, heads))) + 2 * GAP
    sheet = Image.new("RGB", (width, top + len(rows) * (tile + GAP)), _BACK)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for line, text in enumerate(above):
        draw.text((GAP, GAP + line * LINE), text, _TEXT, font)
    for j, name in enumerate(rows):
        draw.text((GAP, top + j * (tile + GAP)), "\n".join(textwrap.wrap(name, 9)), _TEXT, font)
    for i, (_, paths) in enumerate(columns):
        left = LEFT + i * (tile + GAP)
        for line, text in enumerate(heads[i]):
            draw.text((left, 2 * GAP + LINE * (len(above) + line)), text, _TEXT, font)
        for j, path in enumerate(paths):
            sheet.paste(_tile(path, tile), (left, top + j * (tile + GAP)))
    return sheet


def _tile(path: Path | None, side: int) -> Image.Image:
    if path is None:
        return Image.new("RGB", (side, side), _EMPTY)
    with Image.open(path) as file:
        return file.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
