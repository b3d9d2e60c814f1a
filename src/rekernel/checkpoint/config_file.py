"""What a denoiser's `config.json` says of rekernel, as far as a conversion has to know: that it says something.

Knows one key of a JSON file; what the entry means is `diffusion.recorded`'s. Format: docs/recipe.md, "Guidance".
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import RekernelError
from ..escape import shown, shown_path

KEY = "_rekernel"
"""The entry of a denoiser's config; diffusers keeps those that begin with an underscore and gives them to no model."""


def refuse_recorded(weights: Path, *, whole: bool) -> None:
    """Raise where the config beside weights says that they are rescaled, or are sampled with rescaled kernels.

    Parameters
    ----------
    weights : file, or the folder it is in
    whole : bool
        Whether the folder is converted with the config in it. Of a file alone, guidance stays behind.

    Raises
    ------
    RekernelError
        Before everything is applied twice.
    """
    path = (weights if weights.is_dir() else weights.parent) / "config.json"
    config: Any = None
    with suppress(OSError, ValueError, RecursionError):  # whose config it is does not matter here
        config = json.loads(path.read_text(encoding="utf-8"))
    entry = config.get(KEY) if isinstance(config, dict) else None
    if not isinstance(entry, dict):
        return
    scale = shown(str(entry.get("scale")))
    if "plan" in entry:
        raise RekernelError(
            f"{shown_path(path)}: says that these weights were rescaled already (scale {scale}); convert the original "
            f"instead"
        )
    if whole:
        raise RekernelError(
            f"{shown_path(path)}: records guidance (scale {scale}), which would come on top of rescaled weights; "
            f"convert the original folder, without guidance"
        )
