"""Walk through an ONNX graph: find the scale that arrives at every node, and decide what the node does about it.

Scope: the order of nodes. Not here: what an operator does (see `onnx.shape_operators` and `onnx.weight_operators`), and
the default mode of a layer, which all planners share (see `planning.roles`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import RekernelError
from ..escape import shown
from ..plan.changes import LayerChange
from ..planning.layers import NOT_RESCALED
from ..planning.settings import Settings
from .axes import grows, image, plain
from .graph import Model, attributes, is_standard, outer_names, wrong_of
from .graph_pass import Asked, GraphPass, Refusal
from .shape_operators import MOVEMENT
from .weight_operators import WEIGHTS

_HANDLERS = MOVEMENT | WEIGHTS
_WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})
_ANSWERS = frozenset({"Shape", "Size"})  # they give the sizes that the model has when it runs


def walk(model: Model, asked: Asked) -> GraphPass:
    """Walk through all nodes of a model.

    Returns
    -------
    GraphPass
        Its changes and modules belong to the plan, its edits to the graph.

    Raises
    ------
    RekernelError
        If a node cannot be rescaled faithfully; the message names the node.
    """
    at = GraphPass(model, asked)
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
        raise RekernelError(
            f"{shown(min(given_back))}: an output of the model is the result of a Pad node, which another size would "
            f"change"
        )
    return at


def _begin(at: GraphPass) -> None:
    pixels = [g for g in at.model.inputs if len(at.model.shapes.get(g.name, ())) >= 3]
    rank = max((len(at.model.shapes[g.name]) for g in pixels), default=0)
    if not rank:
        raise RekernelError("the model has no input that is an image of shape (N, C, ...)")
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


def _visit(at: GraphPass) -> None:
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
        raise Refusal("reads a grid that grows, and rekernel does not know what this operator does with it")
    if any(n in at.padded for n in inputs) and node.op_type != "Conv":
        raise Refusal("reads the result of a Pad node, which is only supported before a convolution")
    handler(at)
    if node.op_type not in _WINDOWS and all(n in at.fresh for n in inputs):
        at.fresh.update(node.output)


def kept(model: Model, changes: Mapping[str, LayerChange]) -> tuple[LayerChange, ...]:
    """A change for every constant, also for those that stay, in the order of the model."""
    listed = []
    for name, tensor in model.constants.items():
        listed.append(
            changes.get(name) or LayerChange.unchanged(name, model.dtype(name), tuple(tensor.dims), NOT_RESCALED)
        )
    return tuple(listed)
