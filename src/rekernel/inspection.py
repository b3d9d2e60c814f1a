"""Looking at a checkpoint or an ONNX model: what its header or graph says, and nothing of its weights."""

from __future__ import annotations

import os

from .formats.info import Info
from .formats.recognise import model_files
from .sources.opening import open_location

__all__ = ["Info", "inspect"]


def inspect(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> Info:
    """Read the headers of a file, a sharded set, a folder or a pipeline, or the graph of an ONNX model.

    Parameters
    ----------
    path : path or address
        Anything `open_checkpoint` takes, a diffusers pipeline folder, or an ONNX model or its folder. Of an `hf://`
        address headers are all that is fetched; of an ONNX model, which has none, the file of its graph, and none of
        the files that hold its tensors.
    allow_pickle : bool
        As for `open_checkpoint`.

    Returns
    -------
    Info

    Raises
    ------
    RekernelError
        Where there is no readable checkpoint.

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
