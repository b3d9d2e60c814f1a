"""Fuzz every reader, each in a process of its own: `python -m tests.fuzz [--seconds N] [--out FOLDER] [TARGET ...]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .engine import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--out", type=Path, default=Path("out/fuzz"), help="folder for inputs that fail")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; they are {', '.join(TARGETS)}")
    failed = []
    for name in asked.targets:
        words = [sys.executable, "-m", "tests.fuzz.engine", name, str(asked.seconds), str(asked.out), str(asked.seed)]
        if subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}; the inputs are in {asked.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
