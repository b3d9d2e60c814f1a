"""Read a picture to start from, in every form in which people hold one, as a tensor in [0, 1].

Scope: types, value ranges and channels of pictures. Not here: sizes and enlarging (see `enlarging`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import RekernelError

_WHOLE = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.bool: 1.0}  # the value that is white
_ROUNDED = 0.01  # beyond 0 and 1, as resizing and half precision leave them
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601, as PIL has it


def as_picture(given: Any) -> Tensor:
    """A picture, or several of one size, as a (B, C, H, W) float32 tensor in [0, 1].

    Parameters
    ----------
    given : PIL image of any mode; (H, W), (H, W, C) or (B, H, W, C) array; (H, W), (C, H, W) or (B, C, H, W) tensor;
        or a list of these. Whole numbers are of 8 or 16 bits, others in [0, 1].

    Raises
    ------
    RekernelError
        For what is not a picture, and for values outside [0, 1].

    Examples
    --------
    >>> as_picture(np.full((2, 2), 65535, np.uint16)).tolist()
    [[[[1.0, 1.0], [1.0, 1.0]]]]
    """
    if isinstance(given, list | tuple):
        parts = [as_picture(part) for part in given]
        if not parts:
            raise RekernelError("image: the list of pictures is empty; give a picture")
        if len({part.shape[1:] for part in parts}) != 1:
            raise RekernelError("the given pictures differ in size or channels; give pictures of one size")
        return torch.cat(parts)
    tensor = _tensor(given)
    shape, dtype = tuple(tensor.shape), tensor.dtype
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    tensor = tensor[None] if tensor.ndim == 3 else tensor
    if tensor.ndim != 4 or not tensor.numel() or not (dtype in _WHOLE or dtype.is_floating_point):
        raise RekernelError(f"image: of shape {shape} and {dtype} is not a picture in [0, 1]")
    made = tensor.float() / _WHOLE.get(dtype, 1.0)
    _check_range(made)
    return made.clamp(0, 1)


def _tensor(given: Any) -> Tensor:
    """The values as they are, with the channels before the height."""
    if isinstance(given, Tensor):
        return given
    if hasattr(given, "convert") and hasattr(given, "mode"):
        given = _array(given)
    if not isinstance(given, np.ndarray):
        raise RekernelError(f"image: a {type(given).__name__} is not a picture; give a PIL image, an array or a tensor")
    if given.dtype.kind not in "bfiu":
        raise RekernelError(f"image: an array of {given.dtype} is not a picture in [0, 1]")
    native = given.astype(np.float32 if given.dtype.kind == "f" else given.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.ndim == 2 else np.moveaxis(native, -1, -3).copy())


def _array(image: Any) -> np.ndarray[Any, Any]:
    """The values of a PIL image: of its own depth where that is not 8 bits, else in grey or in colours."""
    if image.mode.startswith("I"):  # 16 bits; a file of 16 bits may also be read as 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise RekernelError(f"image: values from {values.min()} to {values.max()} are not those of 16 bits")
        return values.astype(np.uint16)
    if image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))


def _check_range(picture: Tensor) -> None:
    if not torch.isfinite(picture).all():
        raise RekernelError("image: some values are not finite; a picture has values in [0, 1]")
    least, most = float(picture.min()), float(picture.max())
    if least >= -_ROUNDED and most <= 1 + _ROUNDED:
        return
    advice = "decode latents first"
    if least >= 0 and most <= 255:
        advice = "divide it by 255, or give it as uint8"
    elif least >= -1 - _ROUNDED and most <= 1 + _ROUNDED:
        advice = "from -1 to 1, give image / 2 + 0.5"
    raise RekernelError(f"image: values from {least:.4g} to {most:.4g}, and a picture has values in [0, 1]; {advice}")


def with_channels(picture: Tensor, channels: int | None) -> Tensor:
    """The picture with the channels that a model takes: without alpha, and in grey or in colours.

    Parameters
    ----------
    picture : (B, C, H, W)
    channels : 1 for grey, 3 for colours; None leaves all as they are

    Examples
    --------
    >>> with_channels(torch.ones(1, 2, 4, 4), 3).shape, with_channels(torch.ones(1, 4, 4, 4), 1).shape
    (torch.Size([1, 3, 4, 4]), torch.Size([1, 1, 4, 4]))
    """
    count = picture.shape[1]
    if channels is None or count == channels:
        return picture
    if count in (2, 4) and channels in (1, 3):
        picture = picture[:, : count - 1]
    if channels == 3 and picture.shape[1] == 1:
        return picture.expand(-1, 3, -1, -1)
    if channels == 1 and picture.shape[1] == 3:
        return (picture * picture.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
    if picture.shape[1] != channels:
        raise RekernelError(
            f"image: has {count} channels, and the model takes {channels}; a tensor is (C, H, W), an array (H, W, C)"
        )
    return picture


__all__ = ["as_picture", "with_channels"]
