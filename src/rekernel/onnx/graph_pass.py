"""Where a pass through an ONNX graph is: the node, what is known of its inputs, and what was decided so far.

Knows constants and shapes; what an operator does is `movement`'s and `weights`', their order `walk`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..escape import shown
from ..plan.changes import LayerChange, Mode, ModuleChange
from ..plan.plan import Plan
from ..planning.by_name import RESAMPLED_DTYPES
from ..planning.settings import Settings
from .axes import Axes, new_shape, old_shape, plain, scale_of
from .graph import Model


class Refusal(Exception):  # noqa: N818 - becomes a RekernelError that names the node
    """Why a node cannot be rescaled."""


@dataclass
class Edits:
    """What to change in a graph besides weights.

    attributes : by the node's position, new values by name; None removes one
    constants : by (node, input): what replaces the constant that the node reads there
    padding : by the node's position, -inf to put around its input, as Pad counts it: onnxruntime wants a maximum
        pooling's own padding to be smaller than its kernel, however far its taps are spread
    """

    attributes: dict[int, dict[str, Any]] = field(default_factory=dict)
    constants: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict)
    padding: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What was asked of a conversion.

    scale : new pixels per old one; one number, or one per spatial axis
    settings : of a weight, by its name
    left : names that stay
    mode : of a weight's layer by name: 'supersample', 'absorb', or None for the usual one
    ready : a plan to carry out instead of making one
    """

    scale: Any
    settings: Callable[[str], Settings]
    left: frozenset[str] = frozenset()
    mode: Callable[[str], Mode | None] = lambda name: None
    ready: Plan | None = None


@dataclass
class Pass:
    """The state of a pass.

    axes : of every tensor that came from the image
    changes, modules, notes : of the plan
    edits : of the graph
    fresh : tensors that no convolution or pooling has touched yet
    padded : results of Pad nodes: the node's position, its padding by axis, whether with zeros
    ready : changes by name, of a plan that is carried out
    index, node, attributes : where the pass is
    """

    model: Model
    asked: Asked
    axes: dict[str, Axes] = field(default_factory=dict)
    changes: dict[str, LayerChange] = field(default_factory=dict)
    modules: list[ModuleChange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    edits: Edits = field(default_factory=Edits)
    fresh: set[str] = field(default_factory=set)
    padded: dict[str, tuple[int, tuple[tuple[int, int], ...], bool]] = field(default_factory=dict)
    ready: dict[str, LayerChange] | None = None
    index: int = 0
    node: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> Axes:
        """The axes of a tensor, which need not come from the image."""
        if name in self.axes:
            return self.axes[name]
        if name not in self.model.shapes:
            raise Refusal(f"the shape of {shown(name)} is not known beforehand")
        return plain(self.model.shapes[name])

    def out(self, axes: Axes, position: int = 0) -> None:
        """Note the axes of what the node gives."""
        name = self.node.output[position]
        known = self.model.shapes.get(name)
        if known is not None and known != old_shape(axes):
            raise Refusal(f"gives {known}, where its inputs tell {old_shape(axes)}")
        self.axes[name] = axes

    def shape_out(self, position: int = 0) -> tuple[int, ...]:
        """The old shape of what the node gives."""
        name = self.node.output[position]
        if name not in self.model.shapes:
            raise Refusal(
                "the shape of what it gives is not known beforehand; export the model with a fixed input size"
            )
        return self.model.shapes[name]

    def constant(self, position: int) -> NDArray[Any] | None:
        """A constant input's values; None where there is none, or it is computed."""
        inputs = self.node.input
        name = inputs[position] if position < len(inputs) else ""
        return self.model.array(name) if name in self.model.constants else None

    def opset(self) -> int:
        """The version of ONNX's own operators."""
        return max((o.version for o in self.model.proto.opset_import if o.domain in ("", "ai.onnx")), default=13)

    def dtype(self, name: str) -> str:
        """Of a constant that is to be resampled."""
        dtype = self.model.dtype(name)
        if dtype not in RESAMPLED_DTYPES:
            raise Refusal(f"{shown(name)} has dtype {shown(dtype)}, which is not resampled; convert before quantising")
        return dtype

    def change(self, name: str, make: Callable[[], LayerChange]) -> LayerChange:
        """The change of a constant: the plan's where one was given, the same for every node that reads it."""
        change = make() if self.ready is None else self._planned(name, self.ready)
        before = self.changes.get(name)
        if before is not None and (before.operators, before.new_geometry) != (change.operators, change.new_geometry):
            raise Refusal(f"{shown(name)} serves layers that need it at different sizes")
        self.changes[name] = change
        return change

    def _planned(self, name: str, ready: Mapping[str, LayerChange]) -> LayerChange:
        """The change that a plan made before has for a constant, which has to be as the plan knows it."""
        shape, dtype = tuple(self.model.constants[name].dims), self.dtype(name)
        change = ready.get(name)
        if change is None or (change.shape, change.dtype) != (shape, dtype):
            raise Refusal(f"the plan does not change {shown(name)} {list(shape)} as this model needs; plan again")
        return change

    def keep(self, name: str, reason: str) -> None:
        """Note a constant that stays."""
        shape = tuple(self.model.constants[name].dims)
        self.changes[name] = LayerChange.unchanged(name, self.model.dtype(name), shape, reason)

    def say(self, note: str) -> None:
        """A note for the plan, once."""
        if note not in self.notes:
            self.notes.append(note)

    def resize_constant(self, position: int, target: NDArray[Any], axes: Axes) -> None:
        """A constant shape: its entries for axes that grow; 0 and -1 mean what they meant."""
        pairs = zip(target.tolist(), axes, new_shape(axes), strict=True)
        new = np.array([n if n < 1 or scale_of(axis) == 1 else m for n, axis, m in pairs], target.dtype)
        if not np.array_equal(new, target):
            self.edits.constants[self.index, position] = new
