"""Write the tables of docs/performance.md out of the result files of this folder.

    python benchmarks/speed/tables.py

Rewrites what stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`.
tests/benchmarks/test_speed_tables.py compares the page with the result files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
sys.path += [str(HERE), str(HERE.parent)]

from convert import CASES  # noqa: E402
from machine import stored  # noqa: E402
from marked_tables import markdown, rewrite  # noqa: E402 - in the folder above
from measures import MEASURES, machines, value  # noqa: E402 - beside this file

Rows = dict[str, Any]


def main() -> None:
    """Rewrite the tables of the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rewrite([PAGE], tables())


def tables() -> dict[str, str]:
    """Every table by name, of the result files that are there."""
    made = {
        "performance": performance,
        "convert": each_machine("convert", convert),
        "rounding": each_machine("rounding", rounding),
        "filesystems": each_machine("filesystems", filesystems),
        "resample": each_machine("resample", resample),
        "inference": inference,
        "sharded": sharded,
    }
    return {name: text for name, make in made.items() if (text := make())}


def performance() -> str:
    """The measures with limits, on each machine seen."""
    seen = machines()
    head = ["measure", "limit", *(f"{part}: {side}" for part in seen for side in ("rival", "ours")), "command"]
    lines = []
    for measure in MEASURES:
        cells = []
        for name in seen:
            rival, ours = value(measure, name, "rival"), value(measure, name, "ours")
            missed = ours is not None and not measure.met(ours)
            cells += [number(rival), f"{number(ours)} **missed**" if missed else number(ours)]
        lines.append([measure.text, measure.limit_text, *cells, f"`{measure.command}`"])
    return markdown(head, lines)


def number(x: float | None) -> str:
    """Two decimals below 10, a dash for nothing."""
    return "-" if x is None else f"{x:.2f}" if x < 10 else f"{x:.0f}"


def each_machine(name: str, table: Any) -> Any:
    """A maker of the tables of all machines of a result file, each below its name."""

    def made() -> str:
        parts = [f"{cpu}, {x['setting']['cores']} cores:\n\n{table(x['rows'])}" for cpu, x in stored(name).items()]
        return "\n\n".join(parts)

    return made


def convert(rows: Rows) -> str:
    """Conversions: ratios, and peaks in MB."""
    head = [
        "conversion",
        "result, GB",
        "ours / (cp + fill)",
        "script / ours",
        "peak, MB",
        "limit, MB",
        "script's peak, MB",
        "rounds",
    ]
    lines = []
    for name, r in sorted(rows.items(), key=lambda item: list(CASES).index(item[0])):
        cells = (r["bytes"] / 1e9, r["ours"] / (r["cp"] + r["fill"]), r["script"] / r["ours"])
        peaks = (r["ours_peak"] / 1e6, 250 + 2 * r["largest"] / 1e6, r["script_peak"] / 1e6)
        lines.append([name, *(f"{x:.2f}" for x in cells), *(f"{x:.0f}" for x in peaks), str(r["rounds"])])
    return markdown(head, lines)


def rounding(rows: Rows) -> str:
    """Nanoseconds a value, and what the import costs."""
    keys = [key for key in next(iter(rows.values())) if not key.startswith("import")]
    head = [
        "rounded by",
        *(f"{key} thread{'s' * (not key.endswith(' 1'))}, ns" for key in keys),
        "import, s",
        "memory, MB",
    ]
    return markdown(
        head,
        [
            [name, *(f"{r[key]:.2f}" for key in keys), f"{r['import_s']:.2f}", f"{r['import_peak'] / 1e6:.0f}"]
            for name, r in rows.items()
        ],
    )


def filesystems(rows: Rows) -> str:
    """Bytes in GB, and the time divided by that of `cp` on the same file system."""
    head = [
        "file system, conversion",
        "result",
        "ours / cp",
        "written",
        "shared",
        "kept",
        "of it congruent",
        "at blocks",
    ]
    lines, cp = [], 1.0
    for name, r in rows.items():
        cp = r.get("cp", cp)  # a row without spaces follows its plain one, whose result is as large
        sizes = [f"{r[key] / 1e9:.2f}" for key in ("written", "shared", "kept", "congruent", "at_blocks")]
        lines.append([name, f"{r['bytes'] / 1e9:.2f}", f"{r['ours'] / cp:.2f}", *sizes])
    return markdown(head, lines)


def resample(rows: Rows) -> str:
    """Times divided by that of filling the result by one thread, or by all cores."""
    head = [
        "dtype, method, taps of 3",
        "NumPy / fill",
        "torch / fill",
        "`F.interpolate` / fill",
        "NumPy / fill by all cores",
    ]
    lines = []
    for name, r in rows.items():
        rival = r["interpolate"] / r["fill"] if "interpolate" in r else None
        ratios = (r["numpy"] / r["fill"], r["torch"] / r["fill"], rival, r["numpy"] / r["fill, all cores"])
        lines.append([name, *map(number, ratios)])
    return markdown(head, lines)


def inference() -> str:
    """Rescaled layers at twice the size, divided by untouched ones."""
    found = json.loads((HERE / "results" / "inference-cpu.json").read_text())
    forms = ["dense same-extent", "dense full cubic", "factored", "dilated", "space-to-batch", "ScaleCrafter-style"]
    rows = [r for r in found["rows"] if r["scale"] == 2]
    total = {key: sum(r[key] for r in rows) for key in ("untouched", *forms) if all(key in r for r in rows)}
    lines = [
        [r["layer"], *(number(r[f] / r["untouched"] if f in r else None) for f in forms)]
        for r in (*rows, {"layer": "all", **total})
    ]
    setting = found["setting"]
    return f"{setting['device']}, {setting['threads']} threads:\n\n{markdown(['3x3 layer, 2x', *forms], lines)}"


def sharded() -> str:
    """Sizes, shards and processes: the time divided by that of `cp` in the same run."""
    path = HERE / "results" / "sharded.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    head = ["GB", "shards", "processes", "ours / cp", "peak, MB"]
    lines = [
        [
            f"{r['gigabytes']:g}",
            str(r["shards"]),
            str(r["jobs"]) if r["jobs"] else "1, all cores",
            "-" if r["sparse"] else f"{r['seconds'] / r['cp_seconds']:.2f}",
            f"{r['peak_mb']:.0f}",
        ]
        for r in found["rows"]
    ]
    return f"{found['setting']['cpu']}, {found['setting']['cores']} cores:\n\n{markdown(head, lines)}"


if __name__ == "__main__":
    main()
