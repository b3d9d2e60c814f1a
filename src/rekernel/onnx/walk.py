"""Walk through an ONNX graph: find the scale that arrives at every node, and decide what the node does about it.

Scope: the order of nodes. Not here: what an operator does (see `onnx.shape_operators` and `onnx.weight_operators`), and
the mode of the network (see `onnx.reading`).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Option, RekernelError
from ..escape import shown
from ..plan.changes import LayerChange
from ..planning.layers import NOT_RESCALED
from ..planning.roles import ABSORB, SUPERSAMPLE
from ..planning.rules import offset_note, shrinking_note
from .axes import grows, plain, scale_of
from .graph import Model, attributes, is_standard, outer_names, wrong_of
from .graph_pass import Asked, GraphPass, Reading, Refusal
from .reading import begin, network_of, reading
from .resample_image import resampled
from .shape_operators import MOVEMENT
from .weight_operators import WEIGHTS

_HANDLERS = MOVEMENT | WEIGHTS
_WINDOWS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize", "Upsample"})
_ANSWERS = frozenset({"Shape", "Size"})  # they give the sizes that the model has when it runs


def walk(model: Model, asked: Asked) -> GraphPass:
    """Walk through all nodes of a model, or decide that the image is resampled in front of it.

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
    begin(at)
    if asked.ready is not None:
        at.ready = {change.name: change for change in asked.ready.changed}
        at.ready_modules = {module.name: module for module in asked.ready.modules}
        front = next((module for module in asked.ready.modules if module.kind == "resample"), None)
        return _through(at) if front is None else resampled(at, front)
    at.network = network_of(model, max(map(len, at.axes.values())))
    at.reading = reading(model, asked, at.network)
    if at.reading.resamples:
        return resampled(at)
    if not at.reading.keeps_patch:
        return _through(at)
    unable = at.reading.unable
    try:
        return _through(at)
    except RekernelError as error:
        at = GraphPass(model, asked, network=at.network, reading=Reading(ABSORB, unable=f"{unable}; and {error}"))
        begin(at)
        return resampled(at)


def _through(at: GraphPass) -> GraphPass:
    for index, node in enumerate(at.model.proto.graph.node):
        at.index, at.node, at.attributes = index, node, attributes(node)
        try:
            _visit(at)
        except (Refusal, RekernelError) as error:
            where = f"{shown(at.model.named(node))} ({shown(node.op_type)})"
            raise RekernelError(f"{where}: ", *error.args, *_way_out(at)) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            if said := wrong_of(node, at.model.proto):
                raise RekernelError(f"{shown(at.model.named(node))} ({shown(node.op_type)}): {said}") from None
            raise
    if given_back := at.padded.keys() & {out.name for out in at.model.outputs}:
        raise RekernelError(
            f"{shown(min(given_back))}: an output of the model is the result of a Pad node, which another size would "
            f"change"
        )
    for where, offset in sorted({at.offsets[out.name] for out in at.model.outputs if out.name in at.offsets}):
        at.say(offset_note(shown(where), offset))
    if any(change.kind == "conv" and change.mode == SUPERSAMPLE for change in at.changes.values()):
        scales = [scale_of(axis) for given in at.model.inputs for axis in at.axes.get(given.name, ())]
        if note := shrinking_note(scales):
            at.say(note)
    return at


def _way_out(at: GraphPass) -> tuple[str | Option, ...]:
    """What to do where a node of a network that supersamples cannot be rescaled; empty for other networks."""
    if at.ready is not None or at.reading.per_layer or at.reading.keeps_patch or at.reading.mode != SUPERSAMPLE:
        return ()
    leaves = " leaves this node as it was trained, and the output at its trained size"
    return "; ", Option("mode='absorb'", "--mode absorb"), leaves


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
    if node.op_type not in _WINDOWS and (moved := at.offset())[1]:
        at.offsets.update({out: moved for out in node.output if out in at.axes and grows(at.axes[out])})
    if node.op_type not in _WINDOWS and any(n in at.fresh and grows(at.axes[n]) for n in inputs):
        at.fresh.update(node.output)


def kept(model: Model, changes: Mapping[str, LayerChange]) -> tuple[LayerChange, ...]:
    """A change for every constant, also for those that stay, in the order of the model."""
    listed = []
    for name, tensor in model.constants.items():
        listed.append(
            changes.get(name) or LayerChange.unchanged(name, model.dtype(name), tuple(tensor.dims), NOT_RESCALED)
        )
    return tuple(listed)
