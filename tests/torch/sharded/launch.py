"""Run a module of this folder in several real processes, which find each other as those of torchrun do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PATHS = [str(ROOT), str(ROOT / "src"), str(ROOT / "cli")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def surroundings() -> dict[str, str]:
    paths = os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "ACCELERATE_USE_CPU": "yes"}
    return {**os.environ, "PYTHONPATH": paths, **own}


def run(module: str, folder: Path, processes: int, *options: str, seconds: float = 300) -> list[dict[str, Any]]:
    """What each process wrote to `<rank>.json`; if one fails or hangs, all are ended and their output is shown."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        with (folder / f"{rank}.log").open("wb") as log:
            env = {**surroundings(), **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", f"tests.torch.sharded.{module}", str(folder), *options]
            started.append(subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
    end = time.monotonic() + seconds
    try:
        while any(p.poll() is None for p in started) and not any(p.poll() for p in started) and time.monotonic() < end:
            time.sleep(0.05)
        codes = [p.poll() for p in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    logs = "\n".join((folder / f"{rank}.log").read_text(errors="replace")[-3000:] for rank in range(processes))
    assert codes == [0] * processes, f"{codes} (None: it hung)\n{logs}"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
