"""Write the ComfyUI node pack as it is published: the nodes, the library beside them, the licence.

Run by `make comfyui`, which writes to out/comfyui; `comfy node publish` in the written folder publishes it. The package
index does not have rekernel, so the pack brings the library along, and its requirements name only what the index has.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACK, LIBRARY = ROOT / "integrations" / "comfyui", ROOT / "src" / "rekernel"


def write(target: Path) -> Path:
    """Write the pack to the folder `target`, which must not exist, and return it."""
    without = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    shutil.copytree(PACK, target, ignore=without)
    shutil.copytree(LIBRARY, target / "vendor" / "rekernel", ignore=without)
    shutil.copy(ROOT / "LICENSE", target / "LICENSE")
    return target


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(f"Wrote {write(folder)}\n")
