"""Hold the state of a pass through an ONNX graph: the current node, the axes of its inputs, and the decisions so far.

Scope: constants, shapes and collected changes. Not here: what an operator does (see `onnx.shape_operators` and
`onnx.weight_operators`), and the order of nodes (see `onnx.walk`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.dtypes import FLOATS
from ..escape import shown
from ..plan.changes import LayerChange, Mode, ModuleChange
from ..plan.plan import Plan
from ..planning.roles import AUTO, SUPERSAMPLE, Network, aligned
from ..planning.settings import Settings
from .axes import Axes, grows, new_shape, old_shape, plain, scale_of
from .graph import Model


class Refusal(Exception):  # noqa: N818 - becomes a RekernelError that names the node
    """A node cannot be rescaled, for the reason that the message gives."""


@dataclass
class NodeEdits:
    """Changes of a graph other than weights.

    attributes : new attributes of a node by name, by the position of the node; None removes an attribute
    constants : new values of a constant input, by (position of the node, position of the input)
    padding : padding to insert before a node: amounts in the order of Pad, and the value (None to repeat the last
        pixel), by the position of the node. A convolution pads with zeros alone and does not crop. onnxruntime requires
        the padding of a max pooling to be smaller than its kernel, even if its taps are spread
    averages : channels of an average pooling that becomes a convolution, by the position of the node
    behind : nodes to insert behind a node, in order, by the position of the node: 'Mul' with a factor, or 'Gather' with
        the numbers of entries along an axis
    """

    attributes: dict[int, dict[str, Any]] = field(default_factory=dict)
    constants: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict)
    padding: dict[int, tuple[list[int], float | None]] = field(default_factory=dict)
    averages: dict[int, int] = field(default_factory=dict)
    behind: dict[int, list[tuple[str, NDArray[Any], int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What the caller asked for.

    base : settings of every weight without settings of its own; the scale is that of the image
    each : settings of the weights that have settings of their own, by name
    excluded : names of the constants that were not selected
    mode : mode of the network: 'auto', 'absorb' or 'supersample'
    per_layer : whether the caller gave the modes of single layers
    mode_of : function from the name of a weight to the mode that the caller gave it, or None
    ready : a plan to carry out, instead of making one
    """

    base: Settings
    each: Mapping[str, Settings] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    mode: str = AUTO
    per_layer: bool = False
    mode_of: Callable[[str], Mode | None] = lambda name: None
    ready: Plan | None = None

    def settings(self, weight: str) -> Settings:
        """The settings of a weight."""
        return self.each.get(weight, self.base)


@dataclass(frozen=True)
class Reading:
    """How a network reads an image of the new size.

    mode : 'absorb' or 'supersample'
    readers : positions of the nodes that read the image
    unable : reason why they cannot absorb the scale; empty if they can, or need not
    keeps_patch : whether a vision transformer keeps its patches, so that the number of tokens grows; otherwise the
        image is resampled in front of a network that cannot absorb
    per_layer : whether the caller gave the modes of single layers
    """

    mode: Mode = SUPERSAMPLE
    readers: frozenset[int] = frozenset()
    unable: str = ""
    keeps_patch: bool = False
    per_layer: bool = False

    @property
    def resamples(self) -> bool:
        """Whether the image is resampled in front of the network."""
        return bool(self.unable) and not self.keeps_patch


@dataclass(frozen=True)
class Padded:
    """The padding that a Pad node adds in front of a convolution.

    index : position of the Pad node
    sides : (left, right) for every axis
    zeros : whether it pads with zeros
    """

    index: int
    sides: tuple[tuple[int, int], ...]
    zeros: bool


@dataclass
class GraphPass:
    """The state of a pass through a graph.

    axes : axes of every tensor that comes from the image
    changes, modules, notes : parts of the plan, as far as it is made
    edits : changes of the graph other than weights
    fresh : names of tensors that come from the image without a convolution, pooling or resizing between
    offsets : for features that do not lie at their exact place: the node that moved them, and the distance in new
        pixels, one per spatial axis
    broken : names of the changed constants with values that are NaN or infinite
    padded : the paddings by Pad nodes, by the name of the padded tensor
    ready : changes of the plan that is carried out, by name; None while a plan is made
    ready_modules : module changes of that plan, by name
    network : facts about the network, which decide the methods of its layers
    reading : how the network reads the image
    front : the change that resamples the image in front of the network; None if the image is not resampled
    index, node, attributes : the current node: its position, its message and its attributes
    """

    model: Model
    asked: Asked
    axes: dict[str, Axes] = field(default_factory=dict)
    changes: dict[str, LayerChange] = field(default_factory=dict)
    modules: list[ModuleChange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    edits: NodeEdits = field(default_factory=NodeEdits)
    fresh: set[str] = field(default_factory=set)
    offsets: dict[str, tuple[str, tuple[float, ...]]] = field(default_factory=dict)
    padded: dict[str, Padded] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    ready: dict[str, LayerChange] | None = None
    ready_modules: dict[str, ModuleChange] = field(default_factory=dict)
    network: Network = field(default_factory=Network)
    reading: Reading = field(default_factory=Reading)
    front: ModuleChange | None = None
    index: int = 0
    node: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def aligned(self) -> bool:
        """Whether pixel 0 stays pixel 0 on the grids inside the network."""
        return aligned(self.asked.base, self.network, reads_image=False)[0]

    def of(self, name: str) -> Axes:
        """The axes of a tensor, whether or not it comes from the image."""
        if name in self.axes:
            return self.axes[name]
        if name not in self.model.shapes:
            raise Refusal(f"the shape of {shown(name)} is not known before the model runs")
        return plain(self.model.shapes[name])

    def out(self, axes: Axes, position: int = 0) -> None:
        """Note the axes of an output of the node."""
        name = self.node.output[position]
        known = self.model.shapes.get(name)
        if known is not None and known != old_shape(axes):
            raise Refusal(f"has an output of shape {known}, but its inputs imply {old_shape(axes)}")
        self.axes[name] = axes

    def offset(self) -> tuple[str, tuple[float, ...]]:
        """The largest distance of the features that the node reads from their exact place, and what moved them."""
        read = [name for name in self.node.input if name in self.axes and grows(self.axes[name])]
        found = {self.offsets.get(name, ("", ())) for name in read}
        if len({offset for _, offset in found}) > 1:
            each = sorted(max(map(abs, offset), default=0.0) for _, offset in found)
            listed = ", ".join(f"{n:g}" for n in each)
            self.say(
                f"{shown(self.model.named(self.node))}: joins features that lie {listed} pixels beside their place"
            )
        return max(found, key=lambda moved: max(map(abs, moved[1]), default=0.0), default=("", ()))

    def shape_out(self, position: int = 0) -> tuple[int, ...]:
        """The old shape of an output of the node."""
        name = self.node.output[position]
        if name not in self.model.shapes:
            raise Refusal(
                "the shape of its output is not known before the model runs; export the model with a fixed input size"
            )
        return self.model.shapes[name]

    def constant(self, position: int) -> NDArray[Any] | None:
        """The values of a constant input; None if the input is missing or computed."""
        inputs = self.node.input
        name = inputs[position] if position < len(inputs) else ""
        return self.model.array(name) if name in self.model.constants else None

    def opset(self) -> int:
        """The version of ONNX's operators that the model uses."""
        return max((o.version for o in self.model.proto.opset_import if o.domain in ("", "ai.onnx")), default=13)

    def dtype(self, name: str) -> str:
        """The dtype of a constant; refuses one that is not resampled."""
        dtype = self.model.dtype(name)
        if dtype not in FLOATS:
            raise Refusal(f"{shown(name)} has dtype {shown(dtype)}, which is not resampled; convert before quantising")
        return dtype

    def change(self, name: str, make: Callable[[], LayerChange]) -> LayerChange:
        """Note the change of a constant: that of a given plan, or a new one. All nodes that read it must agree."""
        change = make() if self.ready is None else self._planned(name, self.ready)
        before = self.changes.get(name)
        if before is not None and _asked_of(before) != _asked_of(change):
            raise Refusal(f"{shown(name)} is the weight of several layers, which need it at different sizes")
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
        """Note that a constant stays as it is."""
        shape = tuple(self.model.constants[name].dims)
        self.changes[name] = LayerChange.unchanged(name, self.model.dtype(name), shape, reason)

    def say(self, note: str) -> None:
        """Add a note to the plan, unless it is there already."""
        if note not in self.notes:
            self.notes.append(note)

    def resize_constant(self, position: int, target: NDArray[Any], axes: Axes) -> None:
        """Replace the sizes of axes that grow in a constant shape; 0 and -1 keep their meaning."""
        pairs = zip(target.tolist(), axes, new_shape(axes), strict=True)
        new = np.array([n if n < 1 or scale_of(axis) == 1 else m for n, axis, m in pairs], target.dtype)
        if not np.array_equal(new, target):
            self.edits.constants[self.index, position] = new


def _asked_of(change: LayerChange) -> tuple[Any, ...]:
    """What a change asks of a tensor and of its layer."""
    return change.operators, change.factors, change.new_geometry
