"""Renew the pins: constraints.txt, the newest of everything, and constraints-lowest.txt, the lowest that we promise.

Run by `make upgrade`, which installs uv: it resolves for several Pythons and platforms at once, and reads nothing but
metadata. torch keeps the pin that constraints.txt has, since make installs it first and by itself; what only builds of
torch for CUDA need is left out. No address of a package index is written.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS, LOWEST = ROOT / "constraints.txt", ROOT / "constraints-lowest.txt"
LEAST_PYTHON = "3.11"
BUILD = ("hatchling", "editables")  # what pip builds rekernel with
OF_CUDA = re.compile(r"(torch|triton|nvidia|cuda)\b")

PINS_HEAD = """\
# What `make` installs, for Python 3.11 to 3.13. Written by `make upgrade`; change only the line of torch by hand.
# torch is installed first and pinned: any other way of asking for it may bring gigabytes of CUDA.
"""
LOWEST_HEAD = """\
# What `make test-lowest` installs on Python 3.11: the lowest versions that pyproject.toml admits of what it names
# itself. Written by `make upgrade`.
# torch's own lower bound is not tested: of its older releases the registry has builds for CUDA alone, of gigabytes.
"""


def resolved(torch: str, *options: str, more: Sequence[str] = ()) -> list[str]:
    """name==version lines, of pyproject's requirements and `more`, beside the given torch."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--no-header", "--no-annotate",
        "--no-emit-index-url", "--no-emit-find-links", "--python-version", LEAST_PYTHON, *options,
        "pyproject.toml", "-",
    ]  # fmt: skip
    asked = "\n".join([torch, *more])
    done = subprocess.run(command, cwd=ROOT, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return [line for line in done.stdout.splitlines() if line and not OF_CUDA.match(line)]


def main() -> None:
    [torch] = [line for line in PINS.read_text().splitlines() if line.startswith("torch==")]
    newest = resolved(torch, "--universal", "--extra", "dev", more=BUILD)
    PINS.write_text(PINS_HEAD + "\n".join([torch, *newest]) + "\n")
    lowest = ["--resolution", "lowest-direct", "--python-platform", "x86_64-manylinux_2_28"]
    extras = [word for name in ("torch", "onnx", "hub", "test") for word in ("--extra", name)]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    LOWEST.write_text(LOWEST_HEAD + "\n".join([torch, *resolved(torch, *lowest, *extras, more=build)]) + "\n")


if __name__ == "__main__":
    main()
