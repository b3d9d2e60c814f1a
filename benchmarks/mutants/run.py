"""Change the code in 300 places, one at a time, and count how many changes the fast suite notices.

    make mutants

First the suite runs once under coverage.py, which says what test runs which line. Then each mutant is tried in a copy
of the repository by the tests that run its line, the quickest first, until one fails. At most 55 seconds of tests run,
so the whole suite may notice more. survivors.toml names the mutants that change nothing that anyone can see, each with
its reason; they do not count. Exit code 1 below 92 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from covering import run_suite, tests_of
from sites import Mutant, sample
from trial import killed

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BAR = 0.92
COUNT = 300
MODULES = (
    "src/rekernel/resampling/*.py", "src/rekernel/checkpoint/writer.py", "src/rekernel/checkpoint/header.py",
    "src/rekernel/checkpoint/atomic_file.py", "src/rekernel/diffusion/formulas/*_band.py",
    "src/rekernel/diffusion/formulas/matching.py", "src/rekernel/diffusion/formulas/guided.py",
    "src/rekernel/diffusion/formulas/predictions.py", "src/rekernel/planning/rules.py",
)  # fmt: skip
PIECES = ((60, 3.0), (200, 12.0), (1500, 40.0))  # tests that run together, and their seconds: most mutants die at once


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "mutants", help="what coverage.py found stays here")
    parser.add_argument("--again", action="store_true", help="run the suite under coverage.py again")
    parser.add_argument("--only", nargs="*", default=(), metavar="NAME", help="mutants by name")
    parser.add_argument(
        "--survivors", action="store_true", help="only those that survived the last run and are not equivalent"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mutants.json")
    asked = parser.parse_args()
    paths = sorted(str(path.relative_to(ROOT)) for pattern in MODULES for path in ROOT.glob(pattern))
    if asked.again or not (asked.work / "coverage.json").exists():
        run_suite(ROOT, asked.work, paths)
    covered = json.loads((asked.work / "coverage.json").read_text())
    seconds = json.loads((asked.work / "seconds.json").read_text())
    chosen = sample(ROOT, paths, asked.count)
    known: dict[str, dict[str, Any]] = {}
    reasons = tomllib.loads((HERE / "survivors.toml").read_text())
    if asked.survivors or asked.only:
        known = {row["name"]: row for row in json.loads(asked.out.read_text())["mutants"]}
    settled = {name for name, row in known.items() if row["killed by"]} | reasons.get("equivalent", {}).keys()
    again = [m for m in chosen if not known or m.name in asked.only or (asked.survivors and m.name not in settled)]
    rows = {**known, **_try_all(again, covered, seconds, asked.jobs)}
    return _report([rows[m.name] for m in chosen], reasons, asked.out)


def _try_all(
    mutants: list[Mutant], covered: dict[str, Any], seconds: dict[str, float], jobs: int
) -> dict[str, dict[str, Any]]:
    copies: SimpleQueue[Path] = SimpleQueue()
    lock = threading.Lock()
    rows = {}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.splitlines() if (ROOT / name).is_file()]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(jobs):
            copy = Path(folder) / str(number)
            for name in files:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
            copies.put(copy)

        def one(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                row = _try(mutant, copy, tests_of(ROOT, mutant.path, mutant.line, covered), seconds)
            finally:
                copies.put(copy)
            with lock:
                rows[mutant.name] = row
                said = row["killed by"] or "SURVIVED"
                print(f"{len(rows)}/{len(mutants)} {mutant.path}:{mutant.line} {mutant.after} - {said}", flush=True)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, mutants))
    return rows


def _try(mutant: Mutant, copy: Path, tests: list[str], seconds: dict[str, float]) -> dict[str, Any]:
    """One mutant: the test that failed, or None."""
    place = copy / mutant.path
    original = place.read_text()
    place.write_text(mutant.code)
    began = time.monotonic()
    killed_by = None
    try:
        for piece, usual in _pieces(mutant.path, tests, seconds):
            killed_by = killed(copy, piece, 120 + 4 * usual)
            if killed_by is not None:
                break
    finally:
        place.write_text(original)
    return {
        "name": mutant.name, "path": mutant.path, "line": mutant.line, "operator": mutant.operator,
        "before": mutant.before, "after": mutant.after, "tests": len(tests), "killed by": killed_by,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _pieces(path: str, tests: list[str], seconds: dict[str, float]) -> list[tuple[list[str], float]]:
    """Tests in the order in which they are tried: those of the module's own package first, then by time."""
    own = f"tests/{Path(path).parent.relative_to('src/rekernel').parts[0]}/"
    ordered = sorted(tests, key=lambda test: (not test.startswith(own), seconds.get(test, 0.0)))
    left = iter(ordered)
    pieces = []
    for most, limit in PIECES:
        piece, total = [], 0.0
        for test in left:
            piece.append(test)
            total += seconds.get(test, 0.0)
            if total > limit or len(piece) == most:
                break
        if piece:
            pieces.append((piece, total))
    return pieces


def _report(rows: list[dict[str, Any]], reasons: dict[str, dict[str, str]], out: Path) -> int:
    alive = [row for row in rows if row["killed by"] is None]
    equivalent = [row for row in alive if row["name"] in reasons.get("equivalent", {})]
    share = (len(rows) - len(alive)) / (len(rows) - len(equivalent))
    result = {
        "arguments": sys.argv[1:], "mutants": rows, "count": len(rows), "survived": len(alive),
        "equivalent": len(equivalent), "killed of the others": round(share, 4),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    for row in alive:
        reason = next((part[row["name"]] for part in reasons.values() if row["name"] in part), "no reason yet")
        print(f"{row['name']} {row['path']}:{row['line']} {row['operator']}\n  {row['before']}\n  {row['after']}\n"
              f"  {reason}")  # fmt: skip
    print(f"{len(rows)} mutants, {len(alive)} survived, {len(equivalent)} of these change nothing; "
          f"killed {share:.1%} of the others")  # fmt: skip
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
