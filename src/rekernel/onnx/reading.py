"""Find out from a graph how a network reads its image, and choose the mode of the network.

Scope: the mode of the network, and the nodes that read the image. Not here: what becomes of these nodes (see
`planning.rules`), and the same decision from names (see `planning.reading_by_name`) and from a trace (see
`torch.planning.reading`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RekernelError
from ..escape import shown
from ..planning.roles import ABSORB, AUTO, SMALL_PATCHES, SUPERSAMPLE, Network, gives_image, network_mode
from ..planning.rules import is_patch
from ..planning.settings import Settings
from ..resampling.geometry import is_whole
from .axes import Axis, grows, image, old_shape, scale_of
from .commuting import commutes
from .graph import Model, attributes, is_standard, outer_names
from .graph_pass import Asked, GraphPass, Reading, Refusal
from .layer_changes import KernelWindow
from .shape_operators import MOVEMENT
from .windows import conv_window

_OTHERWISE = "gives another result before a reduction of the image than after it"
_SIZES = frozenset({"Shape", "Size"})
_ATTENTIONS = frozenset({"Attention", "MultiHeadAttention"})


@dataclass(frozen=True)
class _Reader:
    """A node that reads the image.

    index : position of the node
    weight : name of its weight; empty if the node has none, or if the reason does not depend on it
    reason : reason why it cannot absorb the scale; empty if it can
    tiles : whether it cuts the image into adjacent patches, which also fill an image of the new size
    """

    index: int
    weight: str = ""
    reason: str = ""
    tiles: bool = False


def begin(at: GraphPass) -> None:
    """Note the images among the inputs of the model: those with the largest number of axes.

    Raises
    ------
    RekernelError
        If no input is an image, or if the scale does not fit one.
    """
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
        scales = Settings(at.asked.base.scale).scales(len(shape) - 2)
        if scales is None:
            raise RekernelError(f"scale {at.asked.base.scale} does not fit input {shown(given.name)} of shape {shape}")
        at.axes[given.name] = image(shape, scales)
        at.fresh.add(given.name)


def network_of(model: Model, rank: int) -> Network:
    """Whether the graph has attention, and whether its first output is an image like its input of `rank` axes."""
    nodes = model.proto.graph.node
    products = any(n.op_type == "MatMul" and not any(i in model.constants for i in n.input) for n in nodes)
    attends = any(n.op_type in _ATTENTIONS for n in nodes)
    attends |= products and any(n.op_type == "Softmax" for n in nodes)
    out = model.outputs[0].name if model.outputs else ""
    return Network(attends, gives_image(model.shapes.get(out, ()), rank))


def reading(model: Model, asked: Asked, network: Network) -> Reading:
    """Choose the mode of the network, and find the nodes that read the image.

    Parameters
    ----------
    network : Network
        Facts about the network, as `network_of` gives them.

    Returns
    -------
    Reading
    """
    if asked.per_layer and asked.mode == AUTO:
        return Reading(SUPERSAMPLE, per_layer=True)
    mode = network_mode(asked.mode, network)
    at = GraphPass(model, asked)
    begin(at)
    if mode == SUPERSAMPLE or not any(map(grows, at.axes.values())):
        return Reading(SUPERSAMPLE)
    readers = _with_shared_weights(at, list(_readers(at)))
    reasons = [*_uneven(at), *(reader.reason for reader in readers if reader.reason)]
    nodes = frozenset(reader.index for reader in readers)
    if readers and not reasons:
        return Reading(ABSORB, nodes)
    unable = reasons[0] if reasons else "no node was found that reads the image"
    stays = len(readers) == 1 and readers[0].tiles and asked.mode == AUTO and network.attends
    return Reading(ABSORB, nodes, unable, keeps_patch=stays)


def _uneven(at: GraphPass) -> Iterator[str]:
    """The reason why no layer can absorb the scale of an image whose new size is not a whole number."""
    for given in at.model.inputs:
        pixels = at.axes.get(given.name, ())[2:]
        if not all(is_whole(n * scale_of(axis)) for n, axis in zip(old_shape(pixels), pixels, strict=True)):
            yield f"a size of {_by(old_shape(pixels))} times {_by(map(scale_of, pixels))} is not a whole number"


def _readers(at: GraphPass) -> Iterator[_Reader]:
    """The nodes that read the image, or moves of it. The pass follows the image through the nodes that commute."""
    used = _uses(at.model)
    for index, node in enumerate(at.model.proto.graph.node):
        at.index, at.node = index, node
        inner = any(name in at.axes for name in outer_names(node))
        if not inner and not any(name in at.axes and grows(at.axes[name]) for name in node.input):
            continue
        if not any(out in used for out in node.output):
            continue
        at.attributes = attributes(node)
        where = f"{shown(at.model.named(node))} ({shown(node.op_type)})"
        try:
            if is_standard(node) and not inner and node.op_type in _TOLD:
                yield _TOLD[node.op_type](at, where)
            elif is_standard(node) and not inner and node.op_type in _SIZES:
                if _asks_pixels(at, used):
                    yield _Reader(at.index, reason=f"{where}: asks for the size of the image")
            elif is_standard(node) and not inner and not at.padded.keys() & set(node.input) and commutes(at):
                MOVEMENT[node.op_type](at)
            else:
                yield _Reader(at.index, reason=f"{where}: {_OTHERWISE}")
        except (Refusal, RekernelError) as refusal:
            yield _Reader(at.index, reason=f"{where}: {refusal}")
    for out in at.model.outputs:
        if out.name in at.axes:
            yield _Reader(-1, reason=f"{shown(out.name)}: an output of the model is the image itself")


def _conv(at: GraphPass, where: str) -> _Reader:
    given, weight = at.node.input[:2]
    axes = at.of(given)
    if why := _unfit(at, given, weight, where):
        return _Reader(at.index, weight, why)
    if any(scale_of(axis) != 1 for axis in axes[:2]) or not all(map(_one_direction, axes[2:])):
        return _Reader(at.index, weight, f"{where}: reads the pixels of the image in another order")
    window = conv_window(at, at.model.constants[weight].dims[2:], axes)
    scales = tuple(map(scale_of, axes[2:]))
    patch = max(window.kernel) > 1 and is_patch(window.axes(scales, (1.0,) * len(scales)))
    if patch and at.asked.mode == AUTO and min(scales) < 1:
        return _Reader(at.index, weight, f"{where}: {SMALL_PATCHES}")
    sizes = zip(window.size, scales, window.kernel, strict=True)
    tiles = patch and min(scales) >= 1 and all(is_whole(n * scale / k) for n, scale, k in sizes)
    return _Reader(at.index, weight, _told_by_window(window, scales, where, patch=patch), tiles)


def _told_by_window(window: KernelWindow, scales: tuple[float, ...], where: str, *, patch: bool) -> str:
    """The reason why a convolution with this window cannot absorb these scales; empty if it can."""
    strides = [stride * scale for stride, scale in zip(window.stride, scales, strict=True)]
    if not all(is_whole(stride) and stride >= 1 for stride in strides):
        return f"{where}: a stride of {_by(window.stride)} times {_by(scales)} is not a whole number"
    if min(scales) < 1 and not patch:
        return f"{where}: a kernel of {_by(window.kernel)} taps cannot shrink by {_by(scales)}"
    return ""


def _matrix(at: GraphPass, where: str) -> _Reader:
    """A matrix product that sums over all pixels. One that works pixel by pixel does not absorb."""
    left, right = at.node.input[:2]
    given, weight = (left, right) if left in at.axes else (right, left)
    if why := _unfit(at, given, weight, where):
        return _Reader(at.index, weight, why)
    axes = at.of(given)
    summed = -1 if given == left else -2
    turned = at.node.op_type == "Gemm" and (given != left or at.attributes.get("transA"))
    if turned or any(scale_of(axis) != 1 for i, axis in enumerate(axes, -len(axes)) if i != summed):
        return _Reader(at.index, weight, f"{where}: does not sum over all pixels of the image")
    return _Reader(at.index, weight)


def _unfit(at: GraphPass, given: str, weight: str, where: str) -> str:
    """The reason why a node with this weight cannot read the image; empty if it can."""
    if given not in at.axes or sum(name in at.axes for name in at.node.input) > 1:
        return f"{where}: reads the image in place of a weight"
    if weight not in at.model.constants:
        return f"{where}: its weight {shown(weight)} is computed"
    if weight in at.asked.excluded:
        return f"{where}: {shown(weight)} is not selected"
    if any(name in at.padded for name in at.node.input) and at.node.op_type != "Conv":
        return f"{where}: reads the result of a Pad node"
    at.dtype(weight)
    return ""


def _with_shared_weights(at: GraphPass, readers: list[_Reader]) -> list[_Reader]:
    """The same readers; those whose weight also reads something else cannot absorb."""
    times = Counter(reader.weight for reader in readers)
    return [
        replace(reader, reason=f"{shown(reader.weight)}: one weight reads the image and something else")
        if reader.weight and not reader.reason and at.model.users[reader.weight] > times[reader.weight]
        else reader
        for reader in readers
    ]


def _asks_pixels(at: GraphPass, used: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a node that gives the shape of the image is asked for its pixels, not for its batch or channels alone."""
    [out] = at.node.output
    axes = at.of(at.node.input[0])
    if at.node.op_type == "Size":
        return True
    entries = np.arange(len(axes))[at.attributes.get("start", 0) : at.attributes.get("end", len(axes))]
    for node in used[out]:
        taken = _taken(at, node, out, entries)
        wanted = any(name in used for name in getattr(node, "output", ("",)))
        if taken is None or (wanted and any(scale_of(axes[int(entry)]) != 1 for entry in taken)):
            return True
    return False


def _taken(at: GraphPass, node: Any, shape: str, entries: NDArray[Any]) -> NDArray[Any] | None:
    """The entries that a node takes out of a shape; None if it is not a node that takes single entries."""
    op = getattr(node, "op_type", "")
    if op not in ("Gather", "Slice") or node.input[0] != shape:
        return None
    if not all(name in at.model.constants for name in node.input[1:] if name) or len(node.input) < 2:
        return None
    chosen = [at.model.array(name).reshape(-1) for name in node.input[1:] if name]
    if op == "Gather":
        return np.asarray(entries[chosen[0]])
    step = int(chosen[3][0]) if len(node.input) > 4 else 1
    return np.asarray(entries[int(chosen[0][0]) : int(chosen[1][0]) : step])


def _uses(model: Model) -> dict[str, list[Any]]:
    """The nodes and outputs that read each tensor."""
    used: dict[str, list[Any]] = {out.name: [out] for out in model.outputs}
    for node in model.proto.graph.node:
        for name in (*node.input, *outer_names(node)):
            used.setdefault(name, []).append(node)
    return used


def _one_direction(axis: Axis) -> bool:
    """Whether an axis is one axis of the image, or has no pixels."""
    return scale_of(axis) == 1 or sum(part.size > 1 or part.scale != 1 for part in axis) == 1


def _by(numbers: Iterable[float]) -> str:
    return "x".join(f"{n:g}" for n in numbers)


_TOLD: dict[str, Callable[[GraphPass, str], _Reader]] = {"Conv": _conv, "Gemm": _matrix, "MatMul": _matrix}
"""The operators whose nodes may absorb the scale."""
