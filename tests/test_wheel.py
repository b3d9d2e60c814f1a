"""What the wheel holds: every module and the demo's example, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_holds_the_modules_and_the_example_of_the_demo(tmp_path):
    pins = {"PIP_BUILD_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, env={**os.environ, **pins})
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {
        path.relative_to(base).as_posix()
        for base in (ROOT / "src", ROOT / "cli")
        for path in base.rglob("*")
        if path.suffix in (".py", ".j2") or path.name == "py.typed"
    }
    examples = {name for name in held if name.startswith("rekernel_cli/examples/")}
    assert held == modules | examples
    assert {Path(name).name for name in examples} >= {"cnn.safetensors", "mlp.safetensors", "test.npz"}
    assert wheel.stat().st_size < 2 << 20
