"""Run `rekernel sample`: choose how to sample a folder, and write the pictures.

Scope: pipeline folders and PIL. Not here: the sampling itself (see `sampling.pixels`, `sampling.pipeline`).
"""

from __future__ import annotations

import io
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from rekernel.checkpoint.atomic_file import write_atomic
from rekernel.checkpoint.pipeline_folder import find_pipeline
from rekernel.errors import RekernelError
from rekernel.escape import shown_path
from rekernel.text import counted

from .picture_grid import picture_grid
from .pipeline import from_pipeline
from .pixels import from_noise, is_of_pixels
from .request import Request


def make_grid(request: Request, out: Path, *, quiet: bool) -> list[str]:
    """Sample, write the grid, and return the lines to print."""
    diffusers: Any = import_module("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    pipeline = find_pipeline(request.folder)
    if pipeline is None:
        raise RekernelError(
            f"{shown_path(request.folder)}: is not a diffusers pipeline folder (model_index.json is missing)"
        )
    said: list[str] = []
    with ExitStack() as stack:
        if is_of_pixels(pipeline):
            images = from_noise(request, pipeline, stack, said, quiet=quiet)
        else:
            images = from_pipeline(request, pipeline, stack, said)
    buffer = io.BytesIO()
    picture_grid(images).save(buffer, "PNG")
    write_atomic(out, buffer.getvalue(), force=True)
    height, width = images.shape[1:3]
    return [*said, f"{counted(len(images), 'picture')} of {width}x{height} in {shown_path(out)}"]
