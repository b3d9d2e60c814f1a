"""One pass through an ONNX graph: the scale that arrives at every node, and what the node does about it.

Knows the order of nodes. Decisions are those of the torch adapter: everything supersamples, a flatten absorbs, and a
network with attention that gives no image back absorbs in its first convolution.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import RekernelError
from ..escape import shown
from ..plan.changes import LayerChange
from ..planning.settings import Settings
from .axes import grows, image, plain
from .graph import Model, attributes, is_standard, outer_names, wrong_of
from .graph_pass import Asked, Pass, Refusal
from .shape_operators import MOVEMENT
from .weight_operators import WEIGHTS

_HANDLERS = MOVEMENT | WEIGHTS
_WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
_ANSWERS = frozenset({"Shape", "Size"})  # sizes, read when the model runs


def walk(model: Model, asked: Asked) -> Pass:
    """Walk through all nodes of a model.

    Returns
    -------
    Pass
        Its changes and modules are the plan's, its edits the graph's.

    Raises
    ------
    RekernelError
        Naming the node that cannot be rescaled faithfully.
    """
    at = Pass(model, asked)
    if asked.ready is not None:
        at.ready = {change.name: change for change in asked.ready.changed}
    _begin(at)
    for at.index, at.node in enumerate(model.proto.graph.node):
        at.attributes = attributes(at.node)
        try:
            _visit(at)
        except (Refusal, RekernelError) as error:
            where = f"{shown(model.named(at.node))} ({shown(at.node.op_type)})"
            raise RekernelError(f"{where}: {error}") from None
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            if said := wrong_of(at.node, model.proto):
                raise RekernelError(f"{shown(model.named(at.node))} ({shown(at.node.op_type)}): {said}") from None
            raise
    if given_back := at.padded.keys() & {out.name for out in model.outputs}:
        raise RekernelError(f"{shown(min(given_back))}: the model gives back padding that another size would change")
    return at


def _begin(at: Pass) -> None:
    pixels = [g for g in at.model.inputs if len(at.model.shapes.get(g.name, ())) >= 3]
    rank = max((len(at.model.shapes[g.name]) for g in pixels), default=0)
    if not rank:
        raise RekernelError("no input of the model is an image of shape (N, C, ...)")
    for given in pixels:
        shape = at.model.shapes[given.name]
        if len(shape) < rank:
            continue
        if rank == 4 and shape[-1] in (1, 3, 4) and shape[1] > 4:
            raise RekernelError(
                f"{shown(given.name)}: an image of shape {shape} has its channels last; export the model with "
                f"them first, (N, C, H, W)"
            )
        scales = Settings(at.asked.scale).scales(len(shape) - 2)
        if scales is None:
            raise RekernelError(f"scale {at.asked.scale} does not fit input {shown(given.name)} of shape {shape}")
        at.axes[given.name] = image(shape, scales)
        at.fresh.add(given.name)


def _visit(at: Pass) -> None:
    node = at.node
    inner = [n for n in outer_names(node) if n in at.axes and grows(at.axes[n])]
    inputs = [n for n in node.input if n in at.axes]
    if not inner and not any(grows(at.axes[n]) for n in inputs):
        for out in node.output:
            if inputs and out in at.model.shapes:
                at.axes[out] = plain(at.model.shapes[out])
        return
    if node.op_type in _ANSWERS:
        return
    handler = _HANDLERS.get(node.op_type) if is_standard(node) and not inner else None
    if handler is None:
        raise Refusal("reads a grid that grows, and what this operator does with it is not known")
    if any(n in at.padded for n in inputs) and node.op_type != "Conv":
        raise Refusal("reads a grid behind a Pad node, which is known before a convolution alone")
    handler(at)
    if node.op_type not in _WINDOWS and all(n in at.fresh for n in inputs):
        at.fresh.update(node.output)


def kept(model: Model, changes: Mapping[str, LayerChange]) -> tuple[LayerChange, ...]:
    """A change for every constant, those that stay too, in the model's order."""
    listed = []
    for name, tensor in model.constants.items():
        reason = "reads no grid, or one at its trained scale"
        listed.append(changes.get(name) or LayerChange.unchanged(name, model.dtype(name), tuple(tensor.dims), reason))
    return tuple(listed)
