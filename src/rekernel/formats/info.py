"""A checkpoint or an ONNX model from the outside: the record, and the counts that any tensors and metadata give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.header import TensorInfo
from ..errors import RekernelError
from ..plan.recipe import Recipe, find_recipe

if TYPE_CHECKING:
    from ..diffusion.pipelines.record import Recorded
    from ..onnx import Value


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
    recorded : of a pipeline's denoiser: how its folder says to sample it above the trained size, if it does
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
    recorded: Recorded | None = None
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()


def counted(path: Path | str, kind: str, tensors: tuple[TensorInfo, ...], metadata: Mapping[str, str]) -> Info:
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
