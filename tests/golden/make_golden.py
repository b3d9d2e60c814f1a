"""Plans everything in this folder's case files, and writes or compares the result.

    python -m tests.golden.make_golden               compare what plans decide
    python -m tests.golden.make_golden --wording     compare also what plans say
    python -m tests.golden.make_golden --write       write both anew

Run it in the root of the repository. `--group names` (or trace, onnx) takes one group alone.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
import time
import warnings
from importlib import import_module
from pathlib import Path

from .plan_text import SAME, written

HERE = Path(__file__).parent
GROUPS = ("names", "trace", "onnx")
MOST = 80  # lines of a difference that are shown


def texts(group: str) -> tuple[str, str]:
    """What the plans of a group decide, and what they say."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    module = import_module(f".{group}_cases", __package__)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return written(module.cases(Path(folder)))


def stored(group: str) -> tuple[Path, Path]:
    """The files of a group."""
    return HERE / f"{group}.txt", HERE / f"{group}-wording.txt"


def difference(file: Path, now: str) -> list[str]:
    """The lines that differ from a stored file, each with the case it belongs to; empty where none does."""
    before, after = _lines(file.read_text()), _lines(now)
    found = [x for x in difflib.unified_diff(before, after, "stored", "now", n=0, lineterm="") if x[:2] != "@@"]
    more = [f"... and {len(found) - MOST} lines more"] if len(found) > MOST else []
    return [*found[:MOST], *more]


def _lines(text: str) -> list[str]:
    """Each line behind the title of its case, whole."""
    lines, title, before = [], "", ""
    for line in text.splitlines():
        if line.startswith("== "):
            title = line.removeprefix("== ")
        head, _, rest = line.partition(" | ")
        if rest == SAME:
            line = f"{head} | {before}"
        elif rest:
            before = rest
        if line:
            lines.append(f"[{title}] {line}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the files anew")
    parser.add_argument("--wording", "--check-wording", action="store_true", help="compare reasons and warnings, too")
    parser.add_argument("--group", choices=GROUPS, action="append")
    asked = parser.parse_args()
    import rekernel

    sys.stdout.write(f"rekernel of {Path(rekernel.__file__).parent}\n")
    differs = False
    for group in asked.group or GROUPS:
        start = time.perf_counter()
        made = texts(group)
        took = time.perf_counter() - start
        for i, (file, now) in enumerate(zip(stored(group), made, strict=True)):
            if asked.write:
                file.write_text(now)
            elif i == 0 or asked.wording:
                lines = difference(file, now)
                differs |= bool(lines)
                sys.stdout.write("".join(f"{line}\n" for line in lines))
        cases = made[0].count("\n== ") + 1
        sys.stdout.write(f"{group}: {cases} cases in {took:.1f} s\n")
    return int(differs)


if __name__ == "__main__":
    raise SystemExit(main())
