"""A checkpoint or an ONNX model from the outside: the record, and the counts that any tensors and metadata give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.header import TensorInfo
from ..errors import RekernelError
from ..escape import inert, shown, shown_path
from ..messages.display import Displayed, Table
from ..plan.recipe import KEY, Recipe, find_recipe
from ..text import byte_size, dims
from ..text import counted as number

if TYPE_CHECKING:
    from ..diffusion.pipelines.record import Recorded
    from ..onnx import Value


@dataclass(frozen=True, repr=False)
class Info(Displayed):
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

    def _line(self) -> str:
        what = f"{len(self.components)} components" if self.components else f"{number(len(self.tensors), 'tensor')}"
        sizes = f"{byte_size(self.nbytes)}, {what}, {self.parameters:,} parameters"
        family = "" if self.components else f"; {inert(self.family, 80) or 'no family recognised'}"
        rescaled = f"; rescaled: {self.recipe._line()}" if self.recipe else ""
        return f"{shown_path(self.path)}: {self.kind}, {sizes}{family}{rescaled}"

    def _tables(self) -> Iterator[Table]:
        components = [(shown(name), component._line()) for name, component in self.components.items()]
        yield Table(number(len(components), "component"), ("component", "what"), components)
        dtypes = [(dtype, f"{count:,}", byte_size(nbytes)) for dtype, (count, nbytes) in self.dtypes.items()]
        yield Table(number(len(dtypes), "dtype"), ("dtype", "tensors", "size"), dtypes)
        others = [(shown(key, 80), shown(value, 200)) for key, value in sorted(self.metadata.items()) if key != KEY]
        yield Table("metadata", ("key", "value"), others)
        tensors = [(shown(t.name), t.dtype, dims(t.shape), f"{t.nbytes:,}") for t in self.tensors]
        yield Table(number(len(tensors), "tensor"), ("tensor", "dtype", "shape", "bytes"), tensors)


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
