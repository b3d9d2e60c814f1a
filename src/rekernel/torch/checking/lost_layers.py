"""Note the layers whose grid grows though the trace did not see it come: code outside torch's functions hid the image.

A function of torch.jit.script, torch.vmap, NumPy, or an assignment into a new tensor gives a tensor of which the trace
knows nothing. A layer behind it stays as it was trained, and sees a larger grid.
Scope: two passes, by the outputs of the modules. Not here: functions that the trace sees (see `checking.two_passes`).
"""

from __future__ import annotations

from torch import nn

from ...escape import shown
from ..planning.pools import POOLS
from ..tracing.run import Trace

_LISTED = 3


def lost_layers(model: nn.Module, old: Trace, new: Trace) -> list[str]:
    """A note about the convolutions and poolings that were not followed and whose output grew; none if there is none.

    Parameters
    ----------
    model : nn.Module
        The rescaled model.
    old, new : Trace
        The original at the trained size, and the rescaled model at the new size.
    """
    followed = {call.module for call in old.calls}
    lost = [
        name
        for name, module in model.named_modules()
        if name not in followed and _window(module) and old.results.get(name) != new.results.get(name)
    ]
    if not lost:
        return []
    more = f" and {len(lost) - _LISTED} more" if len(lost) > _LISTED else ""
    return [
        f"{', '.join(map(shown, lost[:_LISTED]))}{more}: reads a grid that grows, and stays as trained, since the "
        f"image could not be followed to it (code outside torch's functions lies between: torch.jit.script, NumPy, "
        f"torch.vmap, or an assignment into a new tensor)"
    ]


def _window(module: nn.Module) -> bool:
    """Whether a layer reads more than a pixel for each of its outputs."""
    if isinstance(module, tuple(POOLS)):
        return True
    return isinstance(module, nn.modules.conv._ConvNd) and any(n > 1 for n in (*module.kernel_size, *module.stride))
