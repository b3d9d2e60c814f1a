"""Keep the rows that were measured on one device in a JSON file, which is whole after every row.

Scope: the file. Not here: the rows (see `run`).
"""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import torch


def device_name(device: str) -> str:
    """What the maker calls the device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if "model name" in x), platform.processor() or "CPU")


def file_name(name: str) -> str:
    """The name of a device as that of its result file.

    Examples
    --------
    >>> file_name("NVIDIA H100 80GB HBM3"), file_name("Intel(R) Xeon(R) Processor")
    ('nvidia-h100-80gb-hbm3.json', 'intel-r-xeon-r-processor.json')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json"


class Results:
    """The rows of one device by their keys.

    Parameters
    ----------
    path : the JSON file, which is read if it exists
    setting : what was measured with; a later run replaces it
    """

    def __init__(self, path: Path, setting: dict[str, Any]) -> None:
        self.path = path
        held = json.loads(path.read_text()) if path.exists() else {}
        self.rows: dict[str, dict[str, Any]] = held.get("rows", {})
        self.setting = setting

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a row, and replace the file by one that has it."""
        self.rows[key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"setting": self.setting, "rows": self.rows}, indent=1) + "\n")
        new.replace(self.path)
