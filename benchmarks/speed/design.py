"""Time the design of `optimal` kernels and grids in two versions of rekernel.

    git worktree add ../before <commit> && python benchmarks/speed/design.py ../before

Each number is the time of a fresh process, imports not included, the smaller of two turns; the versions take turns. A
design that takes more than 2 seconds is measured once. CPU time of one thread, and the wall clock. Writes
results/design.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import machine

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

CASES = {
    "kernel 3 at 2x": "rk.kernel_operator(3, 2.0)",
    "kernel 3 at 4x": "rk.kernel_operator(3, 4.0)",
    "kernel 7 at 2x": "rk.kernel_operator(7, 2.0)",
    "kernel 64 at 2x": "rk.kernel_operator(64, 2.0)",
    "kernel 512 at 2x (CREPE)": "rk.kernel_operator(512, 2.0)",
    "kernel 512 at 4x": "rk.kernel_operator(512, 4.0)",
    "grid 14 to 28": "rk.grid_operator(14, 28)",
    "grid 512 to 1024": "rk.grid_operator(512, 1024)",
    "grid 512 to 700": "rk.grid_operator(512, 700)",
}
TOO_SLOW_BEFORE = {"kernel 512 at 4x"}  # ten minutes and more at 566b4cc
MEASURE = (
    "import sys, time, rekernel as rk\n"
    "rk.kernel_operator(2, 2.0); rk.grid_operator(2, 3)\n"  # imports
    "wall, cpu = time.perf_counter(), time.process_time()\n"
    "R = eval(sys.argv[1])\n"
    "print(time.process_time() - cpu, time.perf_counter() - wall)"
)


def seconds(case: str, version: Path) -> tuple[float, float]:
    """CPU and wall time that one process measured of itself."""
    environment = {**os.environ, "PYTHONPATH": str(version / "src"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, case], env=environment, check=True, capture_output=True, text=True
    )
    cpu, wall = map(float, run.stdout.split())
    return cpu, wall


def least(old: tuple[float, float] | None, new: tuple[float, float]) -> tuple[float, float]:
    return new if old is None else (min(old[0], new[0]), min(old[1], new[1]))


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("before", type=Path, help="a checkout of the other version")
    given = parser.parse_args()
    versions = {"before": given.before.resolve(), "now": ROOT}
    rows = {}
    for label, case in CASES.items():
        best: dict[str, tuple[float, float] | None] = {"before": None, "now": None}
        for _ in range(2):
            for side, path in versions.items():
                measured = best[side]
                if (measured is None or measured[1] < 2) and not (side == "before" and label in TOO_SLOW_BEFORE):
                    best[side] = least(measured, seconds(case, path))
        rows[label] = {side: t and {"cpu_s": round(t[0], 4), "wall_s": round(t[1], 4)} for side, t in best.items()}
        print(f"{label:26s}", *(f"{side} {t and f'{t[0]:9.4f}'}" for side, t in best.items()), "s CPU", flush=True)
    commits = {
        side: subprocess.run(["git", "-C", str(path), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        .stdout.strip()
        for side, path in versions.items()
    }  # fmt: skip
    result = {"processor": given.machine, "cores": os.cpu_count(), "commits": commits}
    machine.write("design", {**result, "rows": rows}, given.results, indent=1)


if __name__ == "__main__":
    main()
