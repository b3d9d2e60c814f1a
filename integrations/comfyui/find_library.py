"""Make the library `rekernel` importable: the copy that comes with the nodes, else an installed one.

Scope: the path of imports. A published pack has the library in `vendor`. A link into a checkout finds it in the
checkout's `src`, so that nodes and library are always of one version and nothing has to be installed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent  # a link into a checkout is followed


def find_library(here: Path = HERE) -> Path | None:
    """Put the folder of the library in front of the path of imports.

    Returns
    -------
    Path or None
        The folder that holds `rekernel`; None for an installed library.

    Raises
    ------
    ModuleNotFoundError
        Where there is neither a copy nor an installed library.
    """
    for folder in (here / "vendor", *(above / "src" for above in here.parents[1:2])):
        if (folder / "rekernel" / "__init__.py").is_file():
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
            return folder
    if importlib.util.find_spec("rekernel") is None:
        raise ModuleNotFoundError(
            "The nodes of rekernel do not find the library rekernel. Link the folder integrations/comfyui from a "
            "checkout instead of copying it, or install the checkout into ComfyUI's Python: "
            "pip install /path/to/checkout. The package index does not have rekernel."
        )
    return None
