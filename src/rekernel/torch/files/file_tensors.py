"""Give access to the tensors of a file under the names that they have in a module.

Scope: a file, the names of its tensors in the file and in the module, and tensors that another library splits or joins
when it loads them. Not here: the rules of that library (see `torch.files.transformers_names`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ...checkpoint.tensor_source import TensorSource
from ...errors import RekernelError
from ...escape import shown
from ...plan.changes import LayerChange
from ...plan.plan import Plan
from ...text import few
from ..dtypes import TORCH_DTYPES
from .local_part import Part


@dataclass(frozen=True)
class Converted:
    """Tensors of a file that are split or joined to tensors of the module.

    files : names of the tensors in the file
    convert : function from these tensors to those of the module, by name; it takes tensors on the meta device, too
    made : tensors of the module, on the meta device
    """

    files: tuple[str, ...]
    convert: Callable[[Sequence[Tensor]], Mapping[str, Tensor]]
    made: Mapping[str, Tensor]


class Incoming:
    """The tensors of a file, under the names that they have in a module.

    Parameters
    ----------
    source : TensorSource
        The open file.
    names : mapping of str to str
        For the name of each tensor in the module, its name in the file. An unknown tensor has the same name in both.
    converted : sequence of Converted
        Tensors that are split or joined.
    """

    def __init__(self, source: TensorSource, names: Mapping[str, str], converted: Sequence[Converted] = ()) -> None:
        self._source = source
        self.files = names
        """Names in the file by names in the module, for tensors that are neither split nor joined."""
        self._converted = {name: group for group in converted for name in group.made}
        self._ready: dict[str, Tensor] = {}
        self.shapes = {name: source.tensors[file].shape for name, file in names.items()}
        self.shapes |= {name: tuple(group.made[name].shape) for name, group in self._converted.items()}

    def origin(self, name: str) -> str:
        """The name of a tensor for a message. It adds the name in the file if that is another one."""
        files = self._converted[name].files if name in self._converted else (self.files.get(name, name),)
        return shown(name) if files == (name,) else f"{shown(name)} (in the file {few([*map(shown, files)])})"

    def foreign(self) -> tuple[str, str] | None:
        """The name of a tensor whose dtype torch does not have, and that dtype; None if there is none."""
        for name, info in self._source.tensors.items():
            if info.dtype not in TORCH_DTYPES:
                return name, info.dtype
        return None

    def take(self, name: str, part: Part | None = None) -> Tensor:
        """The value of a tensor of the module, or of a part of one, of which nothing else is read.

        Tensors made by the same conversion are read whole, and kept until they are taken.
        """
        if name not in self._converted:
            return self._read(self.files[name], part)
        if name not in self._ready:
            group = self._converted[name]
            self._ready |= group.convert([self._read(file) for file in group.files])
        whole = self._ready.pop(name)
        return whole if part is None else part.of(whole)

    def with_converted(self, groups: Sequence[Converted]) -> Incoming:
        """The same tensors, with some more that are split or joined."""
        taken = {file for group in groups for file in group.files}
        names = {name: file for name, file in self.files.items() if file not in taken}
        before = {id(group): group for group in self._converted.values()}
        return Incoming(self._source, names, [*before.values(), *groups])

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of a tensor of the module in the file, or as it is split or joined."""
        if name in self._converted:
            return self._converted[name].made[name].dtype
        dtype: torch.dtype = TORCH_DTYPES[self._source.tensors[self.files[name]].dtype]
        return dtype

    def without(self, prefix: str) -> Incoming:
        """The same tensors, without the beginning `prefix` of their names.

        Raises
        ------
        RekernelError
            If the file has a name both with and without the prefix: only one of the tensors is meant.
        """
        for name in self.shapes:
            short = name.removeprefix(prefix)
            if short != name and short in self.shapes:
                raise RekernelError(
                    f"prefix={prefix!r}: the file has both {self.origin(name)} and {self.origin(short)}, which would "
                    f"have one name; remove from the file the one that is not of this model"
                )
        new = Incoming(self._source, {name.removeprefix(prefix): file for name, file in self.files.items()})
        new._converted, new.shapes = self._converted, {n.removeprefix(prefix): s for n, s in self.shapes.items()}
        return new

    def renamed(self, plan: Plan) -> Plan:
        """The plan, with the names that the tensors have in the module.

        Raises
        ------
        RekernelError
            If the plan changes a tensor that is split or joined: the plan does not say how the results change.
        """
        if plan.origin == "trace":
            return plan  # it was made from the module and has its names
        modules = {file: name for name, file in self.files.items()}
        groups = {file: group for group in self._converted.values() for file in group.files}
        changes: list[LayerChange] = []
        for change in plan.changes:
            if change.name not in groups:
                name, direction = (modules.get(n, n) for n in (change.name, change.length_of))
                changes.append(replace(change, name=name, length_of=direction))
            elif not change.kept:
                made = few([*map(shown, groups[change.name].made)])
                raise RekernelError(
                    f"{shown(change.name)}: was rescaled, but this model splits or joins it to {made}; load the "
                    f"original weights and use rekernel.torch.rescale"
                )
        return replace(plan, changes=tuple(changes))

    def _read(self, file: str, part: Part | None = None) -> Tensor:
        info = self._source.tensors[file]
        dtype, shape = TORCH_DTYPES[info.dtype], info.shape
        if part is None:
            data = self._source.read(file)
        else:
            data, shape = part.read(partial(self._source.read_range, file), dtype.itemsize), part.local_shape
        return (torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)).reshape(shape)
