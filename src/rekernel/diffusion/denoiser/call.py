"""Take one call of a diffusers denoiser apart: the noisy image, its time, and all other arguments.

Scope: names and types of the arguments of a network's forward. Not here: how an argument holds the image (see
`image_layout`), other arguments on the image's grid (see `conditions`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import RekernelError
from ..formulas.guided import LowBand
from ..formulas.low_band import Split
from ..formulas.sizes import low_size
from .conditions import reduced_conditions
from .image_layout import ChannelsFirst, FramesFirst, ImageLayout, ListOfImages
from .names import IMAGE_AND_TIME
from .token_layout import ShapedTokens, token_layout

FRAMES_FIRST = ("UNetSpatioTemporalConditionModel", "CogVideoXTransformer3DModel")
"""Networks whose image is (B, frames, C, H, W)."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call, by name.

    arguments : the arguments, bound to the signature of `forward`; lists are copies, since networks pop their entries
    positional : number of arguments that were passed by position
    image, time : names of the arguments that hold the noisy image and its time
    noisy : number of noisy channels of that image; the others are conditioning (a mask, a masked image, a first frame)
    layout : how the argument holds the image
    multiple : divisor of the image's height and width that the network requires; the pixels of a token of a transformer
    frames : frames of a token
    """

    arguments: Mapping[str, Any]
    positional: int
    image: str
    time: str
    noisy: int
    layout: ImageLayout
    multiple: int = 1
    frames: int = 1

    @property
    def grid(self) -> Tensor:
        """All channels of the image, (B, C, *grid)."""
        return self.layout.grid(self.arguments[self.image])

    @property
    def x(self) -> Tensor:
        """The noisy channels, (B, C, *grid); float32 where the network runs in half precision."""
        return self.grid[:, : self.noisy].to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of `x` and of everything computed from it."""
        own = self.grid.dtype
        return torch.float32 if own in (torch.float16, torch.bfloat16) else own

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels per grid axis."""
        return tuple(self.grid.shape[2:])

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of a transformer per grid axis; an incomplete token is none."""
        return self._tokens(self.size)

    def _tokens(self, size: Sequence[int]) -> tuple[int, ...]:
        pixels = (self.frames, self.multiple, self.multiple)[-len(size) :]
        return tuple(n // p for n, p in zip(size, pixels, strict=True))

    @property
    def t(self) -> Any:
        """The time: one float64 number, or an array with one per sample."""
        t = self.arguments[self.time]
        values = t.detach().double().cpu().numpy() if isinstance(t, Tensor) else np.asarray(t, np.float64)
        if values.ndim > 1:  # one per token: Wan 2.2
            if np.any(values != values[:, :1]):
                raise RekernelError(
                    f"{self.time}: of shape {values.shape} with different times within one picture, as for a given "
                    f"first frame; upsample guidance cannot match several times at once, so sample without guidance"
                )
            values = values[:, 0]
        if values.ndim and len(values) in (1, len(self.grid)) and np.all(values == values[0]):
            return values[0]
        return values

    def run(self, forward: Callable[..., Any]) -> Any:
        """Call the network and return its own output."""
        given = [(n, list(v) if isinstance(v, list) else v) for n, v in self.arguments.items()]
        return forward(*(v for _, v in given[: self.positional]), **dict(given[self.positional :]))

    def prediction(self, output: Any) -> Tensor:
        """The predicted channels of the network's output, (B, C, *grid), of dtype `dtype`."""
        tensor: Any = output if isinstance(output, Tensor) else output[0]
        return self.layout.grid(tensor)[:, : self.noisy].to(self.dtype)

    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        """The network's output with other predicted channels, of the same type; learned variances stay."""
        before: Any = output if isinstance(output, Tensor) else output[0]
        grid = self.layout.grid(before)
        new = self.layout.tensor(torch.cat([prediction.to(grid.dtype), grid[:, self.noisy :]], dim=1))
        if isinstance(output, Tensor):
            return new
        if isinstance(output, Mapping):  # diffusers' outputs are ordered dictionaries with attributes
            first = next(iter(output))
            return type(output)(**{**output, first: new})
        return (new, *output[1:])

    def at(self, x: Tensor, t: Any) -> Call:
        """The same call with another noisy image on the same grid and another time."""
        given = self.grid
        grid = torch.cat([x.to(given.dtype), given[:, self.noisy :]], dim=1)
        time = _time_like(self.arguments[self.time], t, grid)
        return self.with_arguments({self.image: self.layout.tensor(grid), self.time: time})

    def low(self, factors: Sequence[float], multiple: int = 1) -> Split:
        """The reduction by `factors`, to a size that the network accepts and that `multiple` divides."""
        return Split(self.size, low_size(self.size, factors, math.lcm(self.multiple, multiple)))

    def reduced(self, split: LowBand) -> Call:
        """The call at the low size: all arguments on the grid are reduced.

        Image and time are placeholders until `at()` sets them.
        """
        if not isinstance(split, Split):
            return self  # the other low band, FilterSplit, has the full grid
        layout = self.layout.reduced(split.low)
        changed = {self.image: layout.tensor(split.low_input(self.grid)), **layout.arguments()}
        conditions = reduced_conditions(self.arguments, split, self.tokens, self._tokens(split.low))
        return self.with_arguments(changed | conditions, layout)

    def with_arguments(self, changed: dict[str, Any], layout: ImageLayout | None = None) -> Call:
        """The same call with other arguments, of those that were passed."""
        arguments = {**self.arguments, **{k: v for k, v in changed.items() if k in self.arguments}}
        return replace(self, arguments=arguments, layout=layout or self.layout)


def read_call(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], noisy: int | None = None) -> Call:
    """Read the call `module(*args, **kwargs)`.

    Parameters
    ----------
    noisy : int, optional
        Number of channels that carry noise; by default the number of output channels.

    Raises
    ------
    RekernelError
        For a network whose `forward` has no arguments with diffusers' names for an image and a timestep.
    """
    module = getattr(module, "_orig_mod", module)
    signature = inspect.signature(type(module).forward.__get__(module))
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    arguments = {n: list(v) if isinstance(v, list) else v for n, v in arguments.items()}
    image, time = next((n for n in IMAGE_AND_TIME if _holds_image(arguments.get(n[0])) and n[1] in arguments), ("", ""))
    layout = _layout(module, arguments, arguments.get(image))
    if layout is None:
        names = " or ".join(name for name, _ in IMAGE_AND_TIME)
        raise RekernelError(
            f"{type(module).__name__}: takes no (B, C, *grid) image as {names} with a timestep; wrap it as "
            f"denoise(x, sigma) and use guide_denoiser"
        )
    grid = layout.grid(arguments[image])
    channels = grid.shape[1]
    known = _config(module, "in_channels")
    if grid.ndim == 5 and known not in (None, channels):
        raise RekernelError(
            f"{type(module).__name__}: {image} of shape {tuple(arguments[image].shape)} does not have the {known} "
            f"channels of the config on the expected axis; wrap it as denoise(x, sigma) and use guide_denoiser"
        )
    out = _config(module, "out_channels")
    # Qwen-Image counts the channels of the grid, other networks on tokens those of a token.
    out = out // layout.packed if out and not isinstance(layout, ShapedTokens) else out
    noisy = noisy or min(channels, out or channels)
    return Call(arguments, len(args), image, time, noisy, layout, _multiple(module, layout), _frames(module))


def _holds_image(value: Any) -> bool:
    listed = isinstance(value, list | tuple) and len(value) > 0
    return isinstance(value, Tensor) or (
        listed and all(isinstance(v, Tensor) and v.shape == value[0].shape for v in value)
    )


def _layout(module: Any, arguments: Mapping[str, Any], image: Any) -> ImageLayout | None:
    if isinstance(image, list | tuple):
        return ListOfImages() if image[0].ndim == 4 else None
    if image is None or image.ndim not in (3, 4, 5):
        return None
    if image.ndim == 3:
        return token_layout(image, arguments)
    return FramesFirst() if type(module).__name__ in FRAMES_FIRST else ChannelsFirst()


def _multiple(module: Any, layout: ImageLayout) -> int:
    """The required divisor of height and width: 2 per halving of a UNet that fails on odd sizes, or a patch size."""
    if type(module).__name__ == "UNet2DModel":
        return int(2 ** (len(module.config["block_out_channels"]) - 1))
    config = getattr(module, "config", None)
    patch = getattr(config, "patch_size", None) or getattr(config, "all_patch_size", None)  # Z-Image has a list of them
    patch = patch[-1] if isinstance(patch, list | tuple) else patch
    return 2 if layout.packed == 4 else patch if isinstance(patch, int) else 1


def _frames(module: Any) -> int:
    """Frames of a token of a transformer."""
    patch = getattr(getattr(module, "config", None), "patch_size", None)
    return (
        int(patch[0]) if isinstance(patch, list | tuple) and len(patch) == 3 else _config(module, "patch_size_t") or 1
    )


def _config(module: Any, name: str) -> int | None:
    config = getattr(module, "config", None)
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return value if isinstance(value, int) else None


def _time_like(given: Any, t: Any, x: Tensor) -> Tensor:
    """A time with the type and shape of `given`; an integer type becomes float32 where `t` is not an integer."""
    values = np.asarray(t)
    dtype = given.dtype if isinstance(given, Tensor) else torch.float32
    if not dtype.is_floating_point and np.any(values != np.rint(values)):
        dtype = torch.float32
    time = torch.as_tensor(values, dtype=dtype, device=x.device)
    if not isinstance(given, Tensor):
        return time
    if given.ndim > 1 and time.ndim == 1:
        time = time[:, None]
    return time.expand(given.shape) if given.ndim > 1 or time.ndim < given.ndim else time
