"""One call of a diffusers denoiser, taken apart: the noisy image, its time, and everything else.

Knows how networks are called; shapes of the image are `layouts`', other arguments on the grid `conditions`'.
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
from .image_layout import ChannelsFirst, FramesFirst, Layout, packed_tokens

_IMAGES = ("sample", "hidden_states")
_FRAMES_FIRST = ("UNetSpatioTemporalConditionModel", "CogVideoXTransformer3DModel")


@dataclass(frozen=True)
class Call:
    """The arguments of one call, by name.

    arguments : as bound to the signature of `forward`; lists are copies, since networks take them to pieces
    positional : how many were given by position
    image : name of the noisy image's argument
    noisy : how many of its channels are noisy; the rest is conditioning (a mask, a masked image, a first frame)
    multiple : what the pixels of the last two axes must be multiples of
    """

    arguments: Mapping[str, Any]
    positional: int
    image: str
    noisy: int
    layout: Layout
    multiple: int = 1

    @property
    def grid(self) -> Tensor:
        """All channels of the image's argument, (B, C, *grid)."""
        return self.layout.grid(self.arguments[self.image])

    @property
    def x(self) -> Tensor:
        """The noisy channels, (B, C, *grid); float32 where the network runs in half precision."""
        return self.grid[:, : self.noisy].to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Of `x`, and of what is computed from it."""
        own: torch.dtype = self.arguments[self.image].dtype
        return torch.float32 if own in (torch.float16, torch.bfloat16) else own

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels per grid axis."""
        return tuple(self.grid.shape[2:])

    @property
    def t(self) -> Any:
        """The time, a float64 number or one per sample."""
        t = self.arguments["timestep"]
        values = t.detach().double().cpu().numpy() if isinstance(t, Tensor) else np.asarray(t, np.float64)
        if values.ndim > 1:  # one per token: Wan 2.2
            if np.any(values != values[:, :1]):
                raise RekernelError(
                    f"timestep: of shape {values.shape} with different times within one picture (a given first frame, "
                    f"say), which upsample guidance has no matched time for; sample without"
                )
            values = values[:, 0]
        if values.ndim and len(values) in (1, self.arguments[self.image].shape[0]) and np.all(values == values[0]):
            return values[0]
        return values

    def run(self, forward: Callable[..., Any]) -> Any:
        """Call the network: its own output, whatever it is."""
        given = [(n, list(v) if isinstance(v, list) else v) for n, v in self.arguments.items()]
        return forward(*(v for _, v in given[: self.positional]), **dict(given[self.positional :]))

    def prediction(self, output: Any) -> Tensor:
        """The predicted channels of what the network returned, (B, C, *grid), of `dtype`."""
        tensor: Tensor = output if isinstance(output, Tensor) else output[0]
        return self.layout.grid(tensor)[:, : self.noisy].to(self.dtype)

    def with_prediction(self, output: Any, prediction: Tensor) -> Any:
        """What the network returned with other predicted channels, of the same type; learned variances stay."""
        before: Tensor = output if isinstance(output, Tensor) else output[0]
        grid = self.layout.grid(before)
        new = self.layout.tensor(torch.cat([prediction.to(before.dtype), grid[:, self.noisy :]], dim=1))
        if isinstance(output, Tensor):
            return new
        if isinstance(output, Mapping):  # diffusers' outputs are ordered dictionaries with attributes
            first = next(iter(output))
            return type(output)(**{**output, first: new})
        return (new, *output[1:])

    def at(self, x: Tensor, t: Any) -> Call:
        """The same call with another noisy image, of the same grid, and time."""
        given = self.grid
        image = self.layout.tensor(torch.cat([x.to(given.dtype), given[:, self.noisy :]], dim=1))
        return self._with({self.image: image, "timestep": _time_like(self.arguments["timestep"], t, image)})

    def low(self, factors: Sequence[float], multiple: int = 1) -> Split:
        """The reduction by `factors`, to a size that the network takes and that `multiple` divides."""
        return Split(self.size, low_size(self.size, factors, math.lcm(self.multiple, multiple)))

    def reduced(self, split: LowBand) -> Call:
        """The call at the low size: whatever lies on the grid reduced; image and time as yet without meaning."""
        if not isinstance(split, Split):
            return self  # a low band on the full grid
        layout = self.layout.reduced(split.low)
        changed = {self.image: layout.tensor(split.low_input(self.grid)), **layout.arguments()}
        return self._with(changed | reduced_conditions(self.arguments, split), layout)

    def _with(self, changed: dict[str, Any], layout: Layout | None = None) -> Call:
        arguments = {**self.arguments, **{k: v for k, v in changed.items() if k in self.arguments}}
        return replace(self, arguments=arguments, layout=layout or self.layout)


def read_call(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], noisy: int | None = None) -> Call:
    """The call that `module(*args, **kwargs)` is.

    Parameters
    ----------
    noisy : int, optional
        Channels that carry noise; by default as many as the network gives back.

    Raises
    ------
    RekernelError
        For a network whose `forward` does not take an image and a timestep by diffusers' names.
    """
    module = getattr(module, "_orig_mod", module)
    signature = inspect.signature(type(module).forward.__get__(module))
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    arguments = {n: list(v) if isinstance(v, list) else v for n, v in arguments.items()}
    image = next((n for n in _IMAGES if isinstance(arguments.get(n), Tensor)), None)
    layout = _layout(module, arguments, image)
    if image is None or layout is None or "timestep" not in arguments:
        raise RekernelError(
            f"{type(module).__name__}: takes no (B, C, *grid) image as {' or '.join(_IMAGES)} with a timestep; "
            f"wrap it as denoise(x, sigma) and use guide_denoiser"
        )
    channels = layout.grid(arguments[image]).shape[1]
    known = _config(module, "in_channels")
    if arguments[image].ndim == 5 and known not in (None, channels):
        raise RekernelError(
            f"{type(module).__name__}: {image} of shape {tuple(arguments[image].shape)} has not the {known} channels "
            f"of its config where rekernel looks for them; wrap it as denoise(x, sigma) and use guide_denoiser"
        )
    out = _config(module, "out_channels")
    given = noisy or min(channels, out // layout.packed if out else channels)
    return Call(arguments, len(args), image, given, layout, _multiple(module, layout))


def _layout(module: Any, arguments: Mapping[str, Any], image: str | None) -> Layout | None:
    tensor = arguments[image] if image is not None else torch.empty(0)
    if tensor.ndim == 3 and "img_ids" in arguments:
        return packed_tokens(tensor, arguments["img_ids"])
    if tensor.ndim not in (4, 5):
        return None
    return FramesFirst() if type(module).__name__ in _FRAMES_FIRST else ChannelsFirst()


def _multiple(module: Any, layout: Layout) -> int:
    """2 for each halving of a UNet that does not follow odd sizes, or the patch of a transformer."""
    if type(module).__name__ == "UNet2DModel":
        return int(2 ** (len(module.config["block_out_channels"]) - 1))
    patch = getattr(getattr(module, "config", None), "patch_size", None)
    patch = patch[-1] if isinstance(patch, list | tuple) else patch
    return 2 if layout.packed == 4 else patch if isinstance(patch, int) else 1


def _config(module: Any, name: str) -> int | None:
    config = getattr(module, "config", None)
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return value if isinstance(value, int) else None


def _time_like(given: Any, t: Any, x: Tensor) -> Tensor:
    """A time in the form that the network was given; an integer becomes float32 where the time is none."""
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
