"""Give a layer another kernel and keep its class, whose forward method does more than pad and convolve.

The new layer shares everything with the old one but the weight and the geometry. Whether its forward method does with
the new kernel what the old one did with the old kernel is not assumed: a copy runs on a random image, and is compared
with the old forward method, in which the rescaled convolution took the place of its own.
Scope: one layer. Not here: what a forward method does (see `torch.layers.own_forward`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .own_forward import close, forward, paddings
from .padding import Sides, own_padding, pad_sides
from .probes import probe_size, probing, random_like
from .watched import Product, Watched


class PadInput:
    """A forward pre-hook that pads the image of a layer with zeros, each side by another amount; negative crops.

    Examples
    --------
    >>> layer = nn.Identity()
    >>> _ = layer.register_forward_pre_hook(PadInput(((1, 0),)), with_kwargs=True)
    >>> layer(torch.ones(1, 1, 2)).tolist()
    [[[0.0, 1.0, 1.0]]]
    """

    def __init__(self, sides: Sides) -> None:
        self.sides = sides

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (pad_sides(args[0], self.sides), *args[1:]), kwargs
        return args, {name: pad_sides(value, self.sides) for name, value in kwargs.items()}  # the image alone

    def __repr__(self) -> str:
        return f"PadInput({self.sides})"


def same_class(old: Any, weight: nn.Parameter, *, kind: Any = None, **attributes: Any) -> Any:
    """A layer of the class of `old` that shares its modules and tensors, with another weight and other attributes.

    Parameters
    ----------
    kind : type, optional
        Another class than that of `old`.

    Examples
    --------
    >>> layer = nn.Conv1d(1, 1, 3)
    >>> wide = same_class(layer, nn.Parameter(torch.ones(1, 1, 5)), kernel_size=(5,))
    >>> wide.bias is layer.bias, wide(torch.ones(1, 1, 8)).shape, layer.weight.shape
    (True, torch.Size([1, 1, 4]), torch.Size([1, 1, 3]))
    """
    kind = kind or type(old)
    new: Any = kind.__new__(kind)
    with torch.device("meta"):
        hooks = {name for name, value in vars(nn.Module()).items() if isinstance(value, dict)}
    hooks -= {"_parameters", "_buffers", "_modules"}
    for name, value in vars(old).items():
        vars(new)[name] = type(value)() if name in hooks else value.copy() if isinstance(value, dict) else value
    new._parameters["weight"] = weight
    vars(new).update(attributes)
    if "padding" in attributes and "_reversed_padding_repeated_twice" in vars(new):
        twice = [p for p in reversed(attributes["padding"]) for _ in range(2)]
        vars(new)["_reversed_padding_repeated_twice"] = twice
    return new


def kept_conv(
    old: Any, weight: nn.Parameter, *, stride: Sequence[int], dilation: Sequence[int], sides: Sides,
    scales: Sequence[float], takes_more: bool = False,
) -> tuple[nn.Module, PadInput | None] | None:  # fmt: skip
    """A convolution of the class of `old` with another kernel, and the hook that it needs; None if none does the same.

    Parameters
    ----------
    weight : nn.Parameter
        The new kernel.
    stride, dilation : sequence of int
        Geometry of the new layer.
    sides : ((left, right), ...)
        Padding of the new layer, without what the forward method adds to it at the trained size. For a transposed
        convolution, number of pixels cropped from the full output.
    scales : sequence of float
        New pixels per old pixel of the input, one per spatial axis; the layer is tried on such an image.
    takes_more : bool
        Whether the layer has arguments beside the image. Then its image is not padded in front of it: another argument
        may have to be padded, too.

    Examples
    --------
    >>> class Active(nn.Conv1d):
    ...     def forward(self, x):
    ...         return super().forward(x).relu()
    >>> wide = nn.Parameter(torch.ones(1, 1, 5))
    >>> kept_conv(Active(1, 1, 3, padding=1), wide, stride=[1], dilation=[1], sides=((2, 2),), scales=[2.0])
    (Active(1, 1, kernel_size=(5,), stride=(1,), padding=(2,)), None)
    """
    geometry: dict[str, Any] = {
        "kernel_size": tuple(weight.shape[2:]),
        "stride": tuple(stride),
        "dilation": tuple(dilation),
    }
    size = tuple(max(round(n * s), 1) for n, s in zip(probe_size(old), scales, strict=True))
    with probing(old) as probe:
        x = random_like((1, old.in_channels, *size), probe.weight.dtype, 1)
        kernel = nn.Parameter(random_like(weight.shape, probe.weight.dtype, 3), False)
        inputs: list[Tensor] = []

        def rescaled(call: Product) -> Tensor:
            by_mode = old.padding_mode != "zeros" and not any(map(any, call.sides))  # torch has padded already
            padded = pad_sides(call.x, _taken(own_padding(old))) if by_mode else call.x
            if not call.transposed:
                padded = pad_sides(padded, sides, old.padding_mode if by_mode else "zeros")
            inputs.append(padded)
            inside = ((0, 0),) * len(sides)
            extra = (0,) * len(sides) if call.transposed else ()
            new = replace(
                call, x=padded, bias=None if call.transposed else call.bias, value=kernel,
                stride=geometry["stride"], dilation=geometry["dilation"], sides=inside, output_padding=extra,
            )  # fmt: skip
            out = new.run(padded)
            if call.transposed:
                out = pad_sides(out, _taken(sides))
                out = out if call.bias is None else out + call.bias.reshape(-1, *(1 for _ in sides))
            return out

        try:
            with Watched(rescaled):
                right = forward(probe, x.clone())
        except Exception:  # the code of a layer may raise anything
            return None
        for padding, outside in _candidates(probe, kernel, geometry, sides, inputs[-1], x):
            if any(map(any, outside)) and takes_more:
                continue
            more = {**geometry, **_padding_of(old, padding, sides)}
            if _same(same_class(probe, kernel, **more), pad_sides(x, outside), right):
                hook = PadInput(outside) if any(map(any, outside)) else None
                return same_class(old, weight, **more), hook
    return None


def _candidates(
    probe: Any, kernel: nn.Parameter, geometry: dict[str, Any], sides: Sides, padded: Tensor, x: Tensor
) -> Iterator[tuple[tuple[int, ...], Sides]]:
    """Ways to share the padding between the layer and a hook in front of it: (padding of the layer, sides of the hook).

    The forward method may compute its own padding from the attributes of the layer, so that it adds another amount
    with the new ones. What is missing then is found by a run without other padding.
    """
    yield from _shared(sides)
    if isinstance(probe, nn.modules.conv._ConvTransposeNd) or probe.padding_mode != "zeros":
        return
    bare = same_class(probe, kernel, **geometry, padding=(0,) * len(sides))
    try:
        with Watched() as watched:
            forward(bare, x.clone())
    except Exception:  # the code of a layer may raise anything
        return
    read = [call.x for call in watched.calls if call.stride]
    for missing in paddings(padded, read[0]) if len(read) == 1 else ():
        yield from _shared(missing)


def _shared(sides: Sides) -> Iterator[tuple[tuple[int, ...], Sides]]:
    inside = tuple(max(min(pair), 0) for pair in sides)
    yield inside, tuple((left - p, right - p) for (left, right), p in zip(sides, inside, strict=True))
    if any(inside):
        yield (0,) * len(sides), sides


def _padding_of(old: Any, padding: tuple[int, ...], sides: Sides) -> dict[str, Any]:
    """The attributes of a layer that hold its padding."""
    if not isinstance(old, nn.modules.conv._ConvTransposeNd):
        return {"padding": padding}
    return {"padding": tuple(left for left, _ in sides), "output_padding": tuple(a - b for a, b in sides)}


def _same(layer: nn.Module, x: Tensor, right: Any) -> bool:
    """Whether a layer gives that result for an image."""
    try:
        return close(forward(layer, x.clone()), right)
    except Exception:  # the code of a layer may raise anything
        return False


def _taken(sides: Sides) -> Sides:
    return tuple((-left, -right) for left, right in sides)


def kept_linear(old: Any, weight: nn.Parameter) -> nn.Module | None:
    """A linear layer of the class of `old` with another weight; None if none does the same.

    Examples
    --------
    >>> class Active(nn.Linear):
    ...     def forward(self, x):
    ...         return super().forward(x).relu()
    >>> kept_linear(Active(4, 2), nn.Parameter(torch.ones(2, 8)))
    Active(in_features=8, out_features=2, bias=True)
    """
    sizes: dict[str, Any] = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    with probing(old) as probe:
        x = random_like((2, weight.shape[1]), probe.weight.dtype, 1)
        kernel = nn.Parameter(random_like(weight.shape, probe.weight.dtype, 3), False)
        with Watched(lambda call: replace(call, value=kernel).run(call.x)) as watched:
            try:
                right = forward(probe, x.clone())
            except Exception:  # the code of a layer may raise anything
                return None
        own = [call.weight is probe.weight for call in watched.calls]
        if own == [True] and _same(same_class(probe, kernel, **sizes), x, right):
            kept: nn.Module = same_class(old, weight, **sizes)
            return kept
    return None
