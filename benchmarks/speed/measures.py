"""The measures with limits: what is divided by what, out of which result file.

Scope: numbers. Not here: the table (see `tables`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from machine import RESULTS, stored

Row = Mapping[str, Any]
Ratio = Callable[[Row], float]
CONVERT = "convert.py --folder DIR"


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    key : its name in results/reported.json
    text : what is measured
    limit : a number that may not be passed, or None
    least : whether the limit is the least, not the most
    command : the script of this folder
    file, row : where the numbers are
    ours, rival : the ratios of a row
    """

    key: str
    text: str
    limit: float | None
    command: str
    file: str
    row: str
    ours: Ratio
    rival: Ratio | None = None
    least: bool = False

    @property
    def limit_text(self) -> str:
        if self.limit is None:
            return "-"
        return f"{'at least' if self.least else 'at most'} {self.limit:g}"

    def met(self, ours: float) -> bool:
        """Whether the number is within the limit, as it is shown: to two decimals."""
        if self.limit is None:
            return True
        return round(ours, 2) >= self.limit if self.least else round(ours, 2) <= self.limit


def per_floor(side: str) -> Ratio:
    return lambda r: r[side] / (r["cp"] + r["fill"])


def per_peak(side: str) -> Ratio:
    return lambda r: r[f"{side}_peak"] / (250e6 + 2 * r["largest"])


def over(side: str, base: str) -> Ratio:
    return lambda r: r[side] / r[base]


def _conversion(row: str, what: str, limit: float | None) -> Measure:
    text, numbers = f"convert {what} / (cp + fill)", (per_floor("ours"), per_floor("script"))
    return Measure(f"convert {row}", text, limit, CONVERT, "convert", row, *numbers)


def _script(row: str, what: str) -> Measure:
    return Measure(
        f"script {row}", f"script / convert {what}", 3, CONVERT, "convert", row, over("script", "ours"), None, True
    )


def _peak(row: str, what: str) -> Measure:
    text, numbers = f"peak of convert {what} / (250 MB + 2 largest tensors)", (per_peak("ours"), per_peak("script"))
    return Measure(f"peak {row}", text, 1, CONVERT, "convert", row, *numbers)


def _resample(row: str, rival: bool = False) -> list[Measure]:
    other = over("interpolate", "fill") if rival else None
    sides = (("resample", "NumPy array", "numpy", other), ("torch", "torch tensor", "torch", other))
    return [
        Measure(
            f"{key} {row}",
            f"resample a {kind}, {row} / fill",
            1.5,
            "resample.py",
            "resample",
            row,
            over(side, "fill"),
            r,
        )
        for key, kind, side, r in sides
    ]


def _form(name: str) -> Measure:
    text, row = f"3x3 layers in the {name} form / untouched, 2x", "all"
    numbers = (over(name, "untouched"), over("ScaleCrafter-style", "untouched"))
    return Measure(name, text, None, "inference.py", "inference-cpu", row, *numbers)


def _guided(row: str, text: str) -> Measure:
    return Measure(row, f"{text} / unguided", None, "guidance.py", "guidance", row, over("guided", "plain"))


_SDXL = (("default", "SDXL, default", 1.15), ("bicubic full", "SDXL, bicubic full", 1.3))
_OTHERS = (
    ("small checkpoint", "SD1.5, default", 1.15),
    ("small checkpoint, cast to bfloat16", "SD1.5, cast to bfloat16", None),
    ("one tensor changes", "SDXL, one tensor changes", 1.15),
)
MEASURES = [
    *(_conversion(row, what, limit) for row, what, limit in _SDXL),
    *(_conversion(row, what, limit) for row, what, limit in _OTHERS),
    *(_script(row, what) for row, what, _ in _SDXL),
    *(_script(row, what) for row, what, _ in _OTHERS[:2]),
    *(_peak(row, what) for row, what, _ in _SDXL),
    *(_peak(row, what) for row, what, _ in _OTHERS),
    *_resample("float32, linear, 5 taps", True),
    *_resample("float32, linear, 7 taps", True),
    *_resample("float32, cubic, 11 taps", True),
    *_resample("float32, optimal, 5 taps", True),
    *_resample("float16, optimal, 5 taps"),
    *_resample("bfloat16, optimal, 5 taps"),
    *map(_form, ("factored", "dilated")),
    _guided("guidance (1, 1)", "a guided step at 2x, (1, 1)"),
    _guided("nested guidance", "a step of nested guidance at 4x"),
]


@cache
def results(file: str) -> dict[str, dict[str, Row]]:
    """The rows of a result file by processor and name."""
    if file in ("inference-cpu", "guidance"):  # of one machine, in lists
        found = json.loads((RESULTS / f"{file}.json").read_text())
        rows = {r["name"]: r for r in found["rows"]} if file == "guidance" else {"all": _total(found["rows"])}
        return {found["setting"]["device"]: rows}
    return {cpu: entry["rows"] for cpu, entry in stored(file).items()}


def _total(rows: list[Row]) -> Row:
    chosen = [r for r in rows if r["scale"] == 2]
    return {
        key: sum(r[key] for r in chosen)
        for key in chosen[0]
        if key not in ("layer", "scale") and all(key in r for r in chosen)
    }


def machines() -> list[str]:
    """Processors with results of this version, then those of which figures were reported."""
    files = dict.fromkeys(m.file for m in MEASURES)
    return list(dict.fromkeys([cpu for file in files for cpu in results(file)] + list(stored("reported"))))


def value(measure: Measure, machine: str, side: str) -> float | None:
    """The ratio of a side, 'ours' or 'rival', on a machine; None where it was not measured."""
    reported = stored("reported")
    if machine in reported:
        found: float | None = reported[machine]["rows"].get(measure.key, {}).get(side)
        return found
    row, ratio = results(measure.file).get(machine, {}).get(measure.row), getattr(measure, side)
    return None if row is None or ratio is None else ratio(row)
