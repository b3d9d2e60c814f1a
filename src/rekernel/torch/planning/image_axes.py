"""Tell whether the axes that are rescaled are those that the model reads as the axes of an image.

(N, C, *spatial) is assumed. A model may take (N, H, W, C), frames (N, T, C, H, W), or an image without a batch axis:
the first convolution shows which axes are spatial.
Scope: the example input and the first layer. Not here: what becomes of layers (see `torch.planning.planner`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import RekernelError
from ...escape import shown
from ...text import dims
from ..tracing.run import Trace


def checked_axes(seen: Trace, shape: Sequence[int], scales: Sequence[float]) -> list[str]:
    """Notes about an image with fewer spatial axes than the first convolution reads.

    Parameters
    ----------
    seen : Trace
    shape : sequence of int
        Shape of the image in the example input.
    scales : sequence of float
        New pixels per old pixel, one per spatial axis.

    Raises
    ------
    RekernelError
        If an axis would be rescaled that the first convolution reads as channels, or as pictures of a batch.
    """
    reader = next((call for call in seen.calls if call.kind == "conv" and call.sources == {0} and call.size), None)
    if reader is None:
        return []
    hands = reader.by_hand or ((0, 0),) * len(reader.size)
    size = tuple(n - sum(pads) for n, pads in zip(reader.size, hands, strict=True))
    axes = _matched(size, shape)
    if axes is None:
        return []  # the model cut, folded or resampled the image first
    layer, first = shown(reader.module) if reader.module else "the model", len(shape) - len(scales)
    wrong = [axis for axis, scale in enumerate(scales, first) if scale != 1 and axis not in axes]
    if wrong:
        works = [f"{scale:g}" if axis in axes else "1" for axis, scale in enumerate(scales, first)]
        ways = [f"pass scale=({', '.join(works)})"] if set(works) != {"1"} else []
        if not ways or min(axes) < first:
            ways.append("wrap the model so that it takes (N, C, *spatial)")
        raise RekernelError(
            f"{layer}: reads {dims(size)} pixels, and axis {wrong[0]} of the example input {tuple(shape)} is none of "
            f"their axes: it holds channels or pictures; {', or '.join(ways)}"
        )
    if len(size) > len(scales) and min(axes) < first:
        return [
            f"{layer}: reads {dims(size)} pixels, but the example input {tuple(shape)} is taken for (N, C, *spatial), "
            f"so axis {min(axes)} keeps its size; to rescale both, wrap the model so that it takes (N, C, *spatial)"
        ]
    return []


def _matched(size: Sequence[int], shape: Sequence[int]) -> list[int] | None:
    """The axes of a shape that have the sizes of a grid, in order, as far to the right as possible; None if none do.

    Examples
    --------
    >>> _matched((32, 48), (1, 3, 32, 48)), _matched((32, 48), (1, 32, 48, 3)), _matched((16, 24), (1, 3, 32, 48))
    ([2, 3], [1, 2], None)
    """
    found: list[int] = []
    axis = len(shape) - 1
    for n in reversed(size):
        while axis >= 0 and shape[axis] != n:
            axis -= 1
        if axis < 0:
            return None
        found.insert(0, axis)
        axis -= 1
    return found
