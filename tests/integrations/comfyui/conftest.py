"""The folder of the nodes on the path of imports, as a package called `comfyui`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "integrations"))
