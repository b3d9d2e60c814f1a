"""Inspect a checkpoint or an ONNX model by its header or graph, without reading weights.

Scope: the arguments. Not here: the work for each format (see `formats`).
"""

from __future__ import annotations

import os

from .formats.info import Info
from .formats.recognise import model_files
from .messages.path_errors import explains_paths
from .sources.opening import open_location

__all__ = ["Info", "inspect"]


@explains_paths("path")
def inspect(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> Info:
    """Read the headers of a file, a sharded set, a folder or a pipeline, or the graph of an ONNX model.

    Parameters
    ----------
    path : path or address
        Anything `open_checkpoint` takes, a diffusers pipeline folder, or an ONNX model or its folder. For an `hf://`
        address only headers are downloaded; for an ONNX model the file of its graph, without the files that hold its
        tensors.
    allow_pickle : bool
        As for `open_checkpoint`.

    Returns
    -------
    Info

    Raises
    ------
    RekernelError
        If there is not a readable checkpoint.

    Examples
    --------
    >>> from pathlib import Path
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> st.save_file({"w": np.zeros((2, 3), np.float32)}, path)
    >>> info = inspect(path)
    >>> info.kind, info.parameters, info.dtypes
    ('file', 6, {'F32': (1, 24)})
    """
    with open_location(path) as place:
        return model_files(place).inspect(allow_pickle=allow_pickle)
