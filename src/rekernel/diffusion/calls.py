"""One call of a diffusers denoiser, taken apart: the noisy image, its time, and everything else that lies on the grid.

Knows argument names and shapes of diffusers' networks; no schedule and no guidance. Everything that has pixels is
reduced along with the image: channels beside the noisy ones and ControlNet's residuals are averaged and not rescaled,
SDXL's sizes are divided.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import RekernelError

_IMAGES = ("sample", "hidden_states")
_RESIDUALS = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
_TOKENS = ("block_controlnet_hidden_states", "controlnet_block_samples", "controlnet_single_block_samples")


class Grid(Protocol):
    """A reduction of one grid, and of others of the same picture."""

    @property
    def size(self) -> tuple[int, ...]: ...
    @property
    def low(self) -> tuple[int, ...]: ...
    def low_input(self, x: Any) -> Any: ...
    def at(self, size: Sequence[int]) -> Grid: ...


@dataclass(frozen=True)
class Call:
    """The arguments of one call, by name.

    arguments : as bound to the signature of `forward`
    image : name of the noisy image's argument
    noisy : how many of its channels are noisy; the rest is conditioning (a mask, a masked image, a first frame)
    """

    signature: inspect.Signature
    arguments: Mapping[str, Any]
    image: str
    noisy: int

    @property
    def x(self) -> Tensor:
        """The noisy channels, (B, C, *grid); float32 where the network runs in half precision."""
        x: Tensor = self.arguments[self.image][:, : self.noisy]
        return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels per grid axis."""
        return tuple(self.arguments[self.image].shape[2:])

    @property
    def t(self) -> Any:
        """The time, a float64 number or one per sample."""
        t = self.arguments["timestep"]
        values = t.detach().double().cpu().numpy() if isinstance(t, Tensor) else np.asarray(t, np.float64)
        if values.ndim and len(values) in (1, self.arguments[self.image].shape[0]) and np.all(values == values[0]):
            return values[0]
        return values

    def run(self, forward: Callable[..., Any]) -> Any:
        """Call the network: its own output, whatever it is."""
        bound = inspect.BoundArguments(self.signature, dict(self.arguments))
        return forward(*bound.args, **bound.kwargs)

    def at(self, x: Tensor, t: Any) -> Call:
        """The same call with another noisy image, of the same grid, and time."""
        given: Tensor = self.arguments[self.image]
        noisy = x.to(given.dtype)
        image = noisy if self.noisy == given.shape[1] else torch.cat([noisy, given[:, self.noisy :]], dim=1)
        return self._with({self.image: image, "timestep": _time_like(self.arguments["timestep"], t, given)})

    def reduced(self, split: Grid) -> Call:
        """The call at the low size: whatever lies on the grid reduced; image and time as yet without meaning."""
        given: Tensor = self.arguments[self.image]
        changed: dict[str, Any] = {self.image: split.low_input(given)}
        if split.low != split.size:
            changed |= {name: _reduced(self.arguments.get(name), split) for name in _RESIDUALS}
            for name in _TOKENS:
                if self.arguments.get(name) is not None:
                    raise RekernelError(
                        f"{name}: residuals of a ControlNet on tokens cannot be reduced; sample without one of them"
                    )
            changed["added_cond_kwargs"] = _sizes(self.arguments.get("added_cond_kwargs"), split)
        return self._with({k: v for k, v in changed.items() if k in self.arguments})

    def _with(self, changed: dict[str, Any]) -> Call:
        return Call(self.signature, {**self.arguments, **changed}, self.image, self.noisy)


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
    signature = _signature(module)
    arguments = signature.bind(*args, **kwargs).arguments
    image = next((n for n in _IMAGES if isinstance(arguments.get(n), Tensor)), None)
    if image is None or "timestep" not in arguments or arguments[image].ndim not in (4, 5):
        raise RekernelError(
            f"{type(module).__name__}: takes no (B, C, *grid) image as {' or '.join(_IMAGES)} with a timestep; "
            f"wrap it as denoise(x, sigma) and use guide_denoiser"
        )
    channels = arguments[image].shape[1]
    given = noisy or min(channels, _config(module, "out_channels") or channels)
    return Call(signature, arguments, image, given)


def prediction_of(output: Any, noisy: int) -> Tensor:
    """The predicted channels of what a network returned."""
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor[:, :noisy]


def with_prediction(output: Any, prediction: Tensor) -> Any:
    """What the network returned with other predicted channels, of the same type; learned variances stay."""
    before: Tensor = output if isinstance(output, Tensor) else output[0]
    new = prediction.to(before.dtype)
    if new.shape[1] != before.shape[1]:
        new = torch.cat([new, before[:, new.shape[1] :]], dim=1)
    if isinstance(output, Tensor):
        return new
    if isinstance(output, Mapping):  # diffusers' outputs are ordered dictionaries with attributes
        first = next(iter(output))
        return type(output)(**{**output, first: new})
    return (new, *output[1:])


def _signature(module: Any) -> inspect.Signature:
    inner = getattr(module, "_orig_mod", module)
    return inspect.signature(type(inner).forward.__get__(inner))


def _config(module: Any, name: str) -> int | None:
    config = getattr(module, "config", None)
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return value if isinstance(value, int) else None


def _time_like(given: Any, t: Any, x: Tensor) -> Tensor:
    """A time in the form that the network was given: a number becomes a tensor, integers become float32."""
    dtype = given.dtype if isinstance(given, Tensor) and given.is_floating_point() else torch.float32
    time = torch.as_tensor(np.asarray(t), dtype=dtype, device=x.device)
    return time.expand(given.shape) if isinstance(given, Tensor) and time.ndim < given.ndim else time


def _reduced(value: Any, split: Grid) -> Any:
    """Feature maps reduced as the image is, each from its own size."""
    if isinstance(value, Tensor):
        return split.at(tuple(value.shape[2:])).low_input(value)
    if isinstance(value, list | tuple):
        return type(value)(_reduced(v, split) for v in value)
    return value


def _sizes(conditions: Any, split: Grid) -> Any:
    """SDXL's time ids of the low-resolution pass: original size, crop and target size divided by the factors."""
    if not isinstance(conditions, Mapping) or not isinstance(conditions.get("time_ids"), Tensor):
        return conditions
    ids: Tensor = conditions["time_ids"]
    rows, columns = (n / m for n, m in zip(split.size[-2:], split.low[-2:], strict=True))
    count = ids.shape[-1] // 2 * 2  # (height, width) pairs; a refiner's last entry is an aesthetic score
    divisor = ids.new_ones(ids.shape[-1], dtype=torch.float32)
    divisor[:count] = torch.tensor([rows, columns], device=ids.device).repeat(count // 2)
    return {**conditions, "time_ids": (ids.float() / divisor).to(ids.dtype)}
