"""Run a ComfyUI UNet with the kernels of its inner layers rescaled, for one pass.

Scope: convolutions of `comfy.ldm`'s UNet. The weights are not touched: a layer's own forward method runs, with its taps
spread, on an image that was smoothed before. So patched weights (LoRA), weights that are cast or moved for each call,
and fp8 stay as they are. This is rekernel's factored form, which needs whole scales.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rekernel.architectures.registry import recognise
from rekernel.errors import RekernelError
from rekernel.patterns import matcher
from rekernel.plan.changes import AxisGeometry
from rekernel.planning.layers import ConvAxis, Weight
from rekernel.planning.roles import SUPERSAMPLE
from rekernel.planning.rules import convolution
from rekernel.planning.settings import Settings
from rekernel.torch.editing.apply import smoothing_layer

METHODS = ("optimal", "dilate")

_MADE: weakref.WeakKeyDictionary[nn.Module, dict[Any, list[SpreadConv]]] = weakref.WeakKeyDictionary()


class SpreadConv:
    """A forward method that stands in for that of a convolution.

    layer : the convolution
    factored : its rescaled form, a `rekernel.torch.layers.factored.FactoredConv`
    """

    def __init__(self, layer: Any, factored: Any) -> None:
        self.layer, self.factored = layer, factored

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        for name, taps in list(self.factored._buffers.items()):
            self.factored._buffers[name] = taps.to(x.device)
        x = self.factored.smoothed(x)
        own = layer.stride, layer.padding, layer.dilation
        layer.stride, layer.padding, layer.dilation = self.factored.behind
        try:
            out: Tensor = type(layer).forward(layer, x)
        finally:
            layer.stride, layer.padding, layer.dilation = own
        return out


@contextmanager
def lent_kernels(network: nn.Module, factors: Sequence[float], method: str, kind: str) -> Iterator[None]:
    """Rescale the kernels below the finest level of a UNet inside the `with` block.

    Parameters
    ----------
    network : the UNet, `BaseModel.diffusion_model`
    factors : whole number per spatial axis
    method : one of METHODS
    kind : the model, for messages

    Raises
    ------
    RekernelError
        For a scale that is not whole, for a model without such layers, and for a layer that another node replaced.
    """
    if not all(f == int(f) for f in factors):
        said = "x".join(f"{f:g}" for f in factors)
        raise RekernelError(
            f"Rescaled Kernels needs whole scales, and this pass has {said} times the trained size; take a latent of "
            f"2, 3 or 4 times the trained size, or bypass the node and keep Upsample Guidance"
        )
    taken: list[nn.Module] = []
    try:
        for spread in _spread(network, tuple(factors), method, kind):
            if "forward" in vars(spread.layer):
                raise RekernelError(
                    f"another node has replaced a {type(spread.layer).__name__} layer of this model, which Rescaled "
                    f"Kernels has to replace; bypass one of the two nodes"
                )
            vars(spread.layer)["forward"] = spread
            taken.append(spread.layer)
        yield
    finally:
        for layer in taken:
            del vars(layer)["forward"]


def _spread(network: nn.Module, factors: tuple[float, ...], method: str, kind: str) -> list[SpreadConv]:
    made = _MADE.setdefault(network, {})
    if (factors, method) not in made:
        inner = _inner(network, kind)
        made[factors, method] = [SpreadConv(layer, _factored(name, layer, factors, method)) for name, layer in inner]
    return made[factors, method]


def _inner(network: nn.Module, kind: str) -> list[tuple[str, Any]]:
    """The convolutions below the finest level that slide a kernel."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    family = recognise(shapes)
    presets = {} if family is None else family.presets(shapes)
    if "inner" not in presets:
        raise RekernelError(
            f"Rescaled Kernels works on the UNets of Stable Diffusion 1.x, 2.x and XL, and this model is {kind}; "
            f"bypass the node and use Upsample Guidance alone"
        )
    tests = [matcher(pattern) for pattern in presets["inner"]]
    convolutions = [
        (name, module) for name, module in network.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and max(module.kernel_size) > 1
    ]  # fmt: skip
    return [(name, module) for name, module in convolutions if any(test(f"{name}.weight") for test in tests)]


def _factored(name: str, layer: Any, factors: Sequence[float], method: str) -> Any:
    axes = [
        ConvAxis(AxisGeometry(k, s, (p, p), d), f, f)
        for k, s, p, d, f in zip(
            layer.kernel_size, layer.stride, layer.padding, layer.dilation, factors[-len(layer.kernel_size) :],
            strict=True,
        )
    ]  # fmt: skip
    weight = Weight(f"{name}.weight", "F32", tuple(layer.weight.shape))
    settings = Settings(tuple(factors), method)
    became = convolution(weight, axes, settings, first=2, mode=SUPERSAMPLE, reason="inner", factored=True)
    made = smoothing_layer(layer, became.change, torch.float32)
    made._parameters.clear()  # only the blur is used: the weights stay the layer's own, also after it got new ones
    return made
