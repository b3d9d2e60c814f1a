"""Looking at a checkpoint or an ONNX model: what its header or graph says, and nothing of its weights.

Knows how to count and to ask `architecture` and `recipe`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .architectures.detect import architecture
from .checkpoint.discover import onnx_of
from .checkpoint.header import TensorInfo
from .checkpoint.pipeline_folder import find_pipeline
from .errors import RekernelError
from .escape import shown_path
from .plan.recipe import Recipe, find_recipe
from .sources.opening import open_location
from .sources.place import Place

if TYPE_CHECKING:
    from .onnx import Value


@dataclass(frozen=True)
class Info:
    """A checkpoint from the outside.

    path, kind : what was opened, a path or an address: 'file', 'sharded', 'pickle', 'pipeline' or 'ONNX model'
    nbytes, parameters : of all tensors
    dtypes : count and bytes of tensors by dtype
    tensors : in the order of the data
    metadata : `__metadata__` of the (first) file
    family, presets : the architecture recognised from the keys, and the selections it offers
    recipe : how it was rescaled, if it was
    recipe_error : why the metadata's recipe cannot be read, or empty
    components : for a pipeline, each component that has weights
    inputs, outputs : of an ONNX model: name, dtype and shape of each
    """

    path: Path | str
    kind: str
    nbytes: int = 0
    parameters: int = 0
    dtypes: dict[str, tuple[int, int]] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    family: str = ""
    presets: tuple[str, ...] = ()
    recipe: Recipe | None = None
    recipe_error: str = ""
    components: dict[str, Info] = field(default_factory=dict)
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()


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
    >>> import tempfile, numpy as np, safetensors.numpy as st
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> st.save_file({"w": np.zeros((2, 3), np.float32)}, path)
    >>> info = inspect(path)
    >>> info.kind, info.parameters, info.dtypes
    ('file', 6, {'F32': (1, 24)})
    """
    with open_location(path) as place:
        return _inspect(place, allow_pickle)


def _inspect(place: Place, allow_pickle: bool) -> Info:
    model = onnx_of(place.path)
    if model is not None:
        return _onnx(place, model)
    pipeline = find_pipeline(place.path)
    if pipeline is None:
        return _checkpoint(place, place.path, allow_pickle)
    components = {
        name: _checkpoint(place, component.checkpoint, allow_pickle)
        for name, component in pipeline.components.items()
        if component.checkpoint is not None
    }
    if not components:
        raise RekernelError(f"{shown_path(place.path)}: a pipeline folder without safetensors weights")
    return Info(
        place.named(place.path),
        "pipeline",
        nbytes=sum(info.nbytes for info in components.values()),
        parameters=sum(info.parameters for info in components.values()),
        components=components,
    )


def _checkpoint(place: Place, path: Path, allow_pickle: bool) -> Info:
    with place.open(path, allow_pickle=allow_pickle) as opened:
        tensors = tuple(opened.tensors.values())
        found = architecture({info.name: info.shape for info in tensors}, opened.metadata)
        family, shapes = found.family, found.shapes
        return replace(
            _counted(place.named(opened.path), opened.kind, tensors, opened.metadata),
            family=family.name if family else "",
            presets=tuple(sorted(family.presets(shapes))) if family else ("all",),
        )


def _onnx(place: Place, path: Path) -> Info:
    from .onnx import FAMILY, list_model

    found = list_model(place.here(path))
    return replace(
        _counted(place.named(path), "ONNX model", found.tensors, found.metadata),
        family=FAMILY,
        inputs=found.inputs,
        outputs=found.outputs,
    )


def _counted(path: Path | str, kind: str, tensors: tuple[TensorInfo, ...], metadata: Mapping[str, str]) -> Info:
    """What tensors and metadata say, whatever they come from."""
    recipe, recipe_error = None, ""
    try:
        recipe = find_recipe(metadata)
    except RekernelError as error:  # looking must not fail on what it could show
        recipe_error = str(error)
    dtypes: dict[str, tuple[int, int]] = {}
    for info in tensors:
        count, nbytes = dtypes.get(info.dtype, (0, 0))
        dtypes[info.dtype] = (count + 1, nbytes + info.nbytes)
    return Info(
        path,
        kind,
        nbytes=sum(info.nbytes for info in tensors),
        parameters=sum(math.prod(info.shape) for info in tensors),
        dtypes=dict(sorted(dtypes.items())),
        tensors=tensors,
        metadata=dict(metadata),
        recipe=recipe,
        recipe_error=recipe_error,
    )
