"""The benchmarks are scripts that import each other by name, from their own folder."""

import sys
from pathlib import Path

for folder in (".", "accuracy", "diffusion", "real", "soak", "zoo", "mutants", "sd", "speed", "gpu"):
    sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / folder))
