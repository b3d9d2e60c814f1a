"""Draw weights that let an image through a network, and let batch norm see images, so that errors can be seen.

Scope: weights and batch statistics of a network that was just built. Not here: images (see `probes`).

With their own initialisation many networks answer the same to all images: gains of residual branches are zero or
1e-6, and a standard deviation of .02 lets the biases decide.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from architecture import Arguments, called
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

POSITIONS = ("pos", "table", "token", "query", "queries", "cls", "bias_k", "rope", "freqs")
"""Parts of the last two words of names of parameters that are values on a grid or of tokens: they stay as they were."""
SMALL = 1e-2
"""A parameter that is the same everywhere and smaller than this is a gain that was initialised to be shut."""


def revive(network: nn.Module, keep: Collection[str] = (), seed: int = 0) -> nn.Module:
    """Weights with a variance of one over the fan-in, gains about one, in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    layers = {id(m._parameters.get("weight")): m for m in network.modules()}
    for name, parameter in network.named_parameters():
        ending = ".".join(name.lower().split(".")[-2:])
        if any(part in ending for part in (*POSITIONS, *keep)) or not parameter.is_floating_point():
            continue
        layer = layers.get(id(parameter))
        parameter.data = _drawn(name, parameter.data, layer, draw)
    for module in network.modules():
        if isinstance(module, _ConvNd) and isinstance(now := normed(module), Tensor):
            set_normed(module, _drawn("weight", now, module, draw))
    for name, buffer in network.named_buffers():
        if (
            name.endswith("embed") and buffer.is_floating_point() and not buffer.any()
        ):  # a codebook that was not learned
            buffer.copy_(torch.randn(buffer.shape, generator=draw))
    return network.eval()


def normed(module: nn.Module) -> Tensor | None:
    """The weight that a weight norm makes; None where there is no weight norm."""
    if parametrize.is_parametrized(module, "weight") or hasattr(module, "weight_g"):
        return module.weight.detach()
    return None


def set_normed(module: nn.Module, weight: Tensor) -> None:
    """Give a weight to a layer whose weight norm makes it."""
    if parametrize.is_parametrized(module, "weight"):
        module.weight = weight
        return
    axes = [axis for axis, n in enumerate(module.weight_g.shape) if n == 1]
    module.weight_v.data = weight
    module.weight_g.data = weight.norm(dim=axes, keepdim=True)


def _drawn(name: str, now: Tensor, layer: nn.Module | None, draw: torch.Generator) -> Tensor:
    noise = torch.randn(now.shape, generator=draw)
    if isinstance(layer, _ConvTransposeNd):
        return _smooth_kernels(layer, noise)
    if isinstance(layer, _ConvNd):
        return _mostly_flat(noise, len(layer.kernel_size)) * math.prod(now.shape[1:]) ** -0.5
    if isinstance(layer, nn.Linear):
        return noise * math.prod(now.shape[1:]) ** -0.5
    if isinstance(layer, nn.Embedding):
        return noise if "quant" in name or "code" in name else now
    if name.rpartition(".")[2] in ("bias", "beta", "b"):
        return now + 0.1 * noise
    if layer is not None and "norm" in type(layer).__name__.lower() and now.ndim == 1:
        return 1 + 0.2 * noise
    same = now.numel() > 1 and bool((now == now.flatten()[0]).all())
    if same and float(now.abs().max()) <= SMALL:  # a gain that was shut, or a weight that was zero
        return noise * math.prod(now.shape[1:]) ** -0.5 if now.squeeze().ndim > 1 else 0.5 + 0.1 * noise
    if same and now.squeeze().ndim <= 1:
        return now * (1 + 0.2 * noise)
    return now


def _mostly_flat(noise: Tensor, dims: int) -> Tensor:
    """Kernels of the same variance, three quarters of whose power is at frequency zero, as trained ones are smooth.

    White kernels have as much power at the highest frequencies as at all others. A network of them answers so
    differently at the border and to a picture that moved by half a pixel that nothing else shows.
    """
    axes = tuple(range(-dims, 0))
    taps = math.prod(noise.shape[-dims:])
    if taps == 1:
        return noise
    return 0.5 * noise + 0.75**0.5 * taps**0.5 * noise.mean(axes, keepdim=True)


def _smooth_kernels(layer: _ConvTransposeNd, noise: Tensor) -> Tensor:
    """Kernels that enlarge as trained ones do: random ones draw a pattern of the period of the stride."""
    dims = len(layer.kernel_size)
    mix = noise[(...,) + (0,) * dims] * noise.shape[0] ** -0.5
    taps = torch.ones(())
    for size, stride in zip(layer.kernel_size, layer.stride, strict=True):
        distance = (torch.arange(size) - (size - 1) / 2).abs()
        triangle = (1 - distance / max(stride, 1)).clamp(min=0) if stride > 1 else torch.ones(size) / size
        taps = taps[..., None] * triangle
    return mix[(...,) + (None,) * dims] * taps


def settle(network: nn.Module, batches: Collection[Arguments]) -> None:
    """Give batch norm the statistics of these batches."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
        norm.train()
    for batch in batches:
        called(network, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def close(network: nn.Module) -> None:
    """Let every convolution that pads by zeros pad by what lies at the other side."""
    for module in network.modules():
        plain = isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)
        if plain and not isinstance(module.padding, str) and any(module.padding):
            module.padding_mode = "circular"


def gates(network: nn.Module, given: Arguments) -> list[Tensor]:
    """Weights and biases of the layers that read a pooled image but do not answer, as in squeeze-and-excitation."""
    seen: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], _result: Tensor) -> None:
        pixels = inputs[0].shape[2:] if inputs else (0,)
        if math.prod(pixels) == 1 and module not in seen:
            seen.append(module)

    layers = [m for m in network.modules() if isinstance(m, _ConvNd | nn.Linear)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    called(network, given)
    for handle in handles:
        handle.remove()
    return [p.data for layer in seen[:-1] for p in layer.parameters()]
