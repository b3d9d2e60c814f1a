"""Find the modules of a model that pad in front of its convolutions and poolings, without running it.

The names in a file show no padding module, and it does not grow with the image by itself. Where an `nn.Sequential`
holds it, the order of registration is the order in which the modules run.
Scope: modules of torch. Not here: what the layer behind does about the padding (see `torch.planning.complete`), and
padding in the code of a traced model (see `torch.tracing.recorder`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...escape import shown
from ...text import few
from .module_names import owner_of
from .padding import Sides

_padding = nn.modules.padding
_MODES: dict[Any, str] = {
    _padding._ConstantPadNd: "constant",
    _padding._ReflectionPadNd: "reflect",
    _padding._ReplicationPadNd: "replicate",
    _padding._CircularPadNd: "circular",
}
_CHANGE_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_READERS = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)


@dataclass(frozen=True)
class Padding:
    """A module that pads in front of a layer.

    path, kind : path and class of the module
    sides : (left, right) per spatial axis
    mode : mode of the padding, as in torch.nn.functional.pad
    """

    path: str
    kind: str
    sides: Sides
    mode: str


def paddings_in_front(model: nn.Module) -> dict[str, Padding]:
    """The padding modules directly in front of convolutions and poolings, by the path of the layer.

    Only those are listed that a layer can take over: one module, which adds pixels, and no value but zero.

    Examples
    --------
    >>> paddings_in_front(nn.Sequential(nn.ReflectionPad2d((1, 2, 3, 4)), nn.Conv2d(3, 8, 5)))["1"].sides
    ((3, 4), (1, 2))
    """
    found = {}
    for order in _orders(model):
        waiting: list[tuple[str, nn.Module]] = []
        for path, module in order:
            if _mode(module):
                waiting.append((path, module))
            elif not isinstance(module, _CHANGE_NOTHING):
                if isinstance(module, _READERS) and len(waiting) == 1:
                    padding = _described(*waiting[0])
                    if padding is not None and len(padding.sides) == int(_torch_name(module)[-2]):
                        found[path] = padding
                waiting = []
    return found


def padding_modules(model: nn.Module) -> list[str]:
    """The paths of all modules that pad by a pixel or more.

    Examples
    --------
    >>> padding_modules(nn.Sequential(nn.ZeroPad2d(1), nn.ReplicationPad1d(0)))
    ['0']
    """
    return [name for name, module in model.named_modules() if _mode(module) and any(_amounts(module))]


def unplaced_note(paths: Collection[str]) -> str:
    """The note about padding modules of which nobody knows what they pad.

    Examples
    --------
    >>> unplaced_note(["pad"])[:80]
    'pad: pads, but the order of the modules does not show in front of which layer; t'
    """
    some = [shown(path) for path in paths]
    return (
        f"{few(some, 3)}: pads, but the order of the modules does not show in front of which layer; to a grid that "
        f"grows it adds as many pixels as before; rekernel.torch.rescale runs the model and finds out"
    )


def bare_note(paths: Collection[str]) -> str:
    """The note about layers without padding, in front of which code of the model may pad.

    Examples
    --------
    >>> bare_note(["1", "3"])[:80]
    '1, 3: no padding of its own; if code of the model pads in front, as many pixels '
    """
    some = [shown(path) for path in paths]
    return (
        f"{few(some, 3)}: no padding of its own; if code of the model pads in front, as many pixels as before are "
        f"added to a grid that grows; rekernel.torch.rescale runs the model and finds out"
    )


def _orders(model: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """The modules of each `nn.Sequential` in the order in which they run; one inside another belongs to the outer."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, module in modules.items():
        if _runs_in_order(module) and not (path and _runs_in_order(modules[owner_of(path)])):
            yield list(_flat(path, module))


def _flat(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():
        if child is not None:
            at = f"{path}.{name}".removeprefix(".")
            yield from _flat(at, child) if _runs_in_order(child) else [(at, child)]


def _runs_in_order(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _mode(module: nn.Module) -> str:
    """The mode of a padding module; empty for any other module."""
    return next((mode for kind, mode in _MODES.items() if isinstance(module, kind)), "")


def _amounts(module: Any) -> tuple[int, ...]:
    return tuple(module.padding)


def _described(path: str, module: Any) -> Padding | None:
    amounts = _amounts(module)
    own = not type(module).forward.__module__.startswith("torch.nn")
    if own or min(amounts) < 0 or not any(amounts) or getattr(module, "value", 0) != 0:
        return None
    pairs = zip(amounts[-2::-2], amounts[::-2], strict=True)  # torch lists the last axis first
    return Padding(path, type(module).__name__, tuple(pairs), _mode(module))


def _torch_name(module: nn.Module) -> str:
    """The name of torch's own class of a layer, which ends in '1d', '2d' or '3d'."""
    return next(kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn"))
