"""The tensors of a file under the names of the module they go into.

Knows a file, which of its names is whose, and tensors that another library splits or joins on the way in; not how that
library decides it (`transformers_names`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...checkpoint.tensor_source import TensorSource
from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import LayerChange
from ...plan.plan import Plan
from ..dtypes import TORCH_DTYPES


@dataclass(frozen=True)
class Converted:
    """Tensors of a file that become others of the module.

    files : their names in the file
    convert : what makes the module's of them, by name; it takes tensors on the meta device too
    made : the module's tensors, on the meta device
    """

    files: tuple[str, ...]
    convert: Callable[[Sequence[Tensor]], Mapping[str, Tensor]]
    made: Mapping[str, Tensor]


class Incoming:
    """What a file holds for a module.

    Parameters
    ----------
    source : of the tensors
    names : the file's name of each tensor, by the module's; those of a tensor nobody knows are the same
    converted : those that are split or joined
    """

    def __init__(self, source: TensorSource, names: Mapping[str, str], converted: Sequence[Converted] = ()) -> None:
        self._source = source
        self.files = names
        """The file's names by the module's, of what is taken as it is."""
        self._converted = {name: group for group in converted for name in group.made}
        self._ready: dict[str, Tensor] = {}
        self.shapes = {name: source.tensors[file].shape for name, file in names.items()}
        self.shapes |= {name: tuple(group.made[name].shape) for name, group in self._converted.items()}

    def origin(self, name: str) -> str:
        """The name for a message, with that in the file where it is another."""
        files = self._converted[name].files if name in self._converted else (self.files.get(name, name),)
        return shown(name) if files == (name,) else f"{shown(name)} (in the file {', '.join(map(shown, files))})"

    def foreign(self) -> tuple[str, str] | None:
        """A tensor, and its dtype that torch does not have."""
        for name, info in self._source.tensors.items():
            if info.dtype not in TORCH_DTYPES:
                return name, info.dtype
        return None

    def take(self, name: str) -> Tensor:
        """The value of one of the module's tensors; what a conversion made beside it is kept until it is taken."""
        if name not in self._converted:
            return self._read(self.files[name])
        if name not in self._ready:
            group = self._converted[name]
            self._ready |= group.convert([self._read(file) for file in group.files])
        return self._ready.pop(name)

    def renamed(self, plan: Plan) -> Plan:
        """The plan of the file's tensors as one of the module's.

        Raises
        ------
        RekernelError
            Where it changes a tensor that is split or joined: which of the new ones changed is not known.
        """
        if plan.origin == "trace":
            return plan  # made of the module itself
        modules = {file: name for name, file in self.files.items()}
        groups = {file: group for group in self._converted.values() for file in group.files}
        changes: list[LayerChange] = []
        for change in plan.changes:
            if change.name not in groups:
                changes.append(replace(change, name=modules.get(change.name, change.name)))
            elif not change.kept:
                made = ", ".join(map(shown, groups[change.name].made))
                raise RekernelError(
                    f"{shown(change.name)}: was rescaled, and this model splits or joins it to {made}; load the "
                    f"original weights and use rekernel.torch.rescale"
                )
        return replace(plan, changes=tuple(changes))

    def _read(self, file: str) -> Tensor:
        info = self._source.tensors[file]
        dtype = TORCH_DTYPES[info.dtype]
        data = self._source.read(file)
        return (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).reshape(info.shape)
