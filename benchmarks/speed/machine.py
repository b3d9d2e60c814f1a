"""The machine that measures, and result files that keep several machines side by side.

Scope: the machine's name, the options that every script has, and JSON files whose keys are such names. Not here: what
is measured.
"""

from __future__ import annotations

import argparse
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


def parser(doc: str | None, *, machine: bool = True) -> argparse.ArgumentParser:
    """The command line of a script: `--results`, and `--machine` where the result depends on the machine."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if machine:
        made.add_argument("--machine", default=processor(), metavar="NAME", help="the name under which the result is "
                          "stored, and whose rows it replaces; default: the processor's name, '%(default)s', which "
                          "many machines share")  # fmt: skip
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where result files are kept; "
                      "default: the folder results beside the script, of which tables.py makes the tables")  # fmt: skip
    return made


def write(name: str, found: Mapping[str, Any], folder: Path, *, indent: int = 2) -> None:
    """Replace the result file `name` in a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=indent) + "\n")


def setting(**more: Any) -> dict[str, Any]:
    """What a result file says about the machine and its software."""
    import numpy as np

    return {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__, **more}


def stored(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The result file `name`: an entry {"setting", "rows"} for each machine. Empty where there is no file yet."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def store(
    name: str, setting: Mapping[str, Any], rows: Mapping[str, Any], *, machine: str, folder: Path = RESULTS
) -> None:
    """Put rows beside those that a machine has already. Rows of another name stay as they are."""
    entries = stored(name, folder)
    old = entries.get(machine, {"rows": {}})
    entries[machine] = {"setting": dict(setting), "rows": {**old["rows"], **rows}}
    write(name, entries, folder)
