"""The machine that measures, and result files that keep several machines side by side.

Scope: the processor's name, and JSON files whose keys are such names. Not here: what is measured.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def setting(**more: Any) -> dict[str, Any]:
    """What a result file says about the machine and its software."""
    import numpy as np

    return {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__, **more}


def stored(name: str) -> dict[str, Any]:
    """The result file `name`: an entry {"setting", "rows"} for each processor. Empty where there is no file yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def store(name: str, setting: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    """Put rows beside those that this processor has already. Rows of another name stay as they are."""
    entries = stored(name)
    old = entries.get(processor(), {"rows": {}})
    entries[processor()] = {"setting": dict(setting), "rows": {**old["rows"], **rows}}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(entries, indent=2) + "\n")
