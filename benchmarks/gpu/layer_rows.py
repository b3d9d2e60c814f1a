"""The rows that compare the forms of one rescaled convolution at twice its trained size.

Scope: layers, and how they are set up. Not here: time and memory (see `clocks`). The forms are those of
benchmarks/speed/inference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from clocks import in_turns, peak_bytes
from inference import rescaled_forms, space_to_batch
from torch import Tensor, nn

SCALE = 2


@dataclass(frozen=True)
class Layer:
    """A convolution of a network.

    network : the network's name
    inputs, outputs, groups : channels
    kernel, stride : taps and step along each axis
    size : trained size of the features that the layer reads
    images : how many images one call has: two for a denoiser with classifier-free guidance
    """

    network: str
    inputs: int
    outputs: int
    size: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    images: int = 2

    @property
    def name(self) -> str:
        grouped = f", {self.groups} groups" if self.groups > 1 else ""
        step = f", stride {self.stride}" if self.stride > 1 else ""
        at = SCALE * self.size
        return f"{self.network} {self.kernel}x{self.kernel} {self.inputs}->{self.outputs} at {at}x{at}{step}{grouped}"


@dataclass(frozen=True)
class Setup:
    """How a layer runs: its dtype and memory format, whether it is compiled, and whether cuDNN tries its algorithms."""

    dtype: str = "float16"
    channels_last: bool = True
    compiled: bool = False
    autotune: bool = False

    @property
    def name(self) -> str:
        order = "channels_last" if self.channels_last else "contiguous"
        more = [word for word, on in (("compiled", self.compiled), ("cudnn.benchmark", self.autotune)) if on]
        return ", ".join([self.dtype, order, *more])


def _resnet(inputs: int, outputs: int, size: int, kernel: int = 3, stride: int = 1) -> Layer:
    return Layer("ResNet-50", inputs, outputs, size, kernel, stride, images=32)


def _convnext(channels: int, size: int) -> Layer:
    return Layer("ConvNeXt-T", channels, channels, size, 7, groups=channels, images=32)


# The most telling layers first: a run that is cut off has those.
LAYERS = (
    Layer("SD1.5", 640, 640, 32), Layer("SDXL", 640, 640, 64), _resnet(256, 256, 14), _convnext(192, 28),
    Layer("SD1.5", 1280, 1280, 16), Layer("SDXL", 1280, 1280, 32), Layer("SDXL", 320, 320, 128),
    Layer("SD1.5", 640, 640, 32, stride=2), _resnet(64, 64, 56), _resnet(512, 512, 7), _convnext(96, 56),
    _convnext(768, 7), Layer("SD1.5", 320, 320, 64), Layer("SD1.5", 2560, 1280, 16), Layer("SDXL", 2560, 1280, 32),
    Layer("SDXL", 640, 640, 64, stride=2), _resnet(128, 128, 28), _resnet(128, 128, 56, stride=2),
    _resnet(3, 64, 224, 7, 2), _convnext(384, 14), Layer("SD1.5", 1280, 1280, 8),
)  # fmt: skip
COMPILED = LAYERS[:6]

TINY = (Layer("tiny", 4, 4, 8), Layer("tiny", 4, 4, 8, 7, groups=4), Layer("tiny", 4, 6, 8, stride=2))

Row = tuple[str, Callable[[str, float], dict[str, Any]]]


def settings_in_order() -> list[tuple[Setup, Sequence[Layer]]]:
    """The setups and their layers, the most usual one first."""
    usual = Setup()
    return [
        (usual, LAYERS),
        (replace(usual, dtype="bfloat16"), LAYERS),
        (replace(usual, channels_last=False), LAYERS),
        (replace(usual, autotune=True), LAYERS),
        (replace(usual, compiled=True), COMPILED),
        (replace(usual, dtype="bfloat16", channels_last=False), LAYERS),
        (replace(usual, compiled=True, channels_last=False), COMPILED),
    ]


def tiny_settings() -> list[tuple[Setup, Sequence[Layer]]]:
    """What a CPU measures in seconds, for the tests."""
    return [
        (Setup("float32"), TINY),
        (Setup("bfloat16", channels_last=False), TINY[:1]),
        (Setup("float32", autotune=True), TINY[:1]),
    ]


def rows(settings: Sequence[tuple[Setup, Sequence[Layer]]]) -> Iterator[Row]:
    """Keys, and functions (device, seconds for each form) that measure them."""
    for setup, layers in settings:
        for layer in layers:
            yield (
                f"layer: {layer.name}; {setup.name}",
                lambda device, seconds, layer=layer, setup=setup: measured(layer, setup, device, seconds),
            )


def measured(layer: Layer, setup: Setup, device: str, seconds: float) -> dict[str, Any]:
    """Milliseconds and bytes of each form of one layer in one setup."""
    torch.manual_seed(0)
    x, calls, weights = prepared(layer, setup, device)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = setup.autotune
    try:
        with torch.inference_mode():
            if setup.compiled:
                calls = {name: torch.compile(call, dynamic=False) for name, call in calls.items()}
            bound = {name: lambda call=call: call(x) for name, call in calls.items()}
            times = in_turns(bound, device, seconds)
            peaks = {name: peak_bytes(call, device) for name, call in bound.items()}
    finally:
        torch.backends.cudnn.benchmark = before
        if setup.compiled:
            torch.compiler.reset()
    forms = {n: {**times[n], "peak bytes": peaks[n], "weight bytes": weights[n]} for n in times}
    return {"kind": "layer", "layer": asdict(layer), "scale": SCALE, "setup": asdict(setup), "forms": forms}


def prepared(
    layer: Layer, setup: Setup, device: str
) -> tuple[Tensor, dict[str, Callable[[Tensor], Tensor]], dict[str, int]]:
    """An input at twice the trained size, each form as a function of the input, and the bytes of its weights.

    The layers are rescaled in float32 on a CPU, as benchmarks/speed/inference.py does, and then moved.
    """
    padding = layer.kernel // 2
    plain = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, padding, groups=layer.groups)
    example = torch.zeros(1, layer.inputs, layer.size, layer.size)
    order = torch.channels_last if setup.channels_last else torch.contiguous_format
    dtype = getattr(torch, setup.dtype)
    made = {"untouched": plain, **rescaled_forms(plain, SCALE, example)}
    made = {name: module.to(device, dtype, memory_format=order) for name, module in made.items()}
    calls: dict[str, Callable[[Tensor], Tensor]] = dict(made)
    weights = {name: sum(p.nbytes for p in module.parameters()) for name, module in made.items()}
    if layer.stride == 1:
        calls["space-to-batch"] = lambda x: space_to_batch(plain, x, SCALE)
        weights["space-to-batch"] = weights["untouched"]
    large = SCALE * layer.size
    x = torch.randn(layer.images, layer.inputs, large, large, device=device, dtype=dtype)
    return x.to(memory_format=order), calls, weights
