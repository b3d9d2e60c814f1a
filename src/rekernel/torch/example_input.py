"""Check the example input of a model, and say what to pass instead where the model does not take it.

Scope: the kind, the axes and the size of a value. Not here: running the model (see `torch.tracing.run`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import RekernelError
from ..text import dims


def check_example(example: Any) -> None:
    """Raise for an array of another library, and for a shape instead of a tensor.

    Examples
    --------
    >>> check_example((1, 3, 224, 224))
    Traceback (most recent call last):
    rekernel.errors.RekernelError: example_input=(1, 3, 224, 224) is a shape, not a tensor; pass
    torch.zeros(1, 3, 224, 224)
    """
    several = isinstance(example, tuple | list)
    if several and len(example) > 1 and all(type(n) is int and n > 0 for n in example):
        shape = ", ".join(map(str, example))
        raise RekernelError(f"example_input=({shape}) is a shape, not a tensor; pass torch.zeros({shape})")
    values = example.values() if isinstance(example, Mapping) else example if several else [example]
    for value in values:
        if not isinstance(value, Tensor) and type(value).__module__.partition(".")[0] == "numpy" and value.ndim:
            raise RekernelError("example_input is an array of NumPy, not a torch.Tensor; pass torch.from_numpy(x)")


def refused_example(model: nn.Module, example: Any) -> str:
    """The end of a message about a model that does not run on its example: what to pass instead.

    Examples
    --------
    >>> import torch
    >>> refused_example(nn.Conv2d(3, 8, 3), torch.zeros(3, 16, 16))
    '; add the batch axis: pass x[None], of shape 1x3x16x16'
    """
    values = list(example.values() if isinstance(example, Mapping) else example) if _several(example) else [example]
    image = next((v for v in values if isinstance(v, Tensor) and v.ndim > 1), None)
    first = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    if image is not None and first is not None and image.ndim == len(first.kernel_size) + 1:
        return f"; add the batch axis: pass x[None], of shape {dims((1, *image.shape))}"
    more = ", and several arguments are a tuple or a dict" if len(values) > 1 else ""
    size = trained_size(model)
    if image is not None and size and tuple(image.shape[2:]) != size:
        return f"; pass the example at {dims(size)}, the trained size{more}"
    return f"; the example has the *trained* size{more}"


def trained_size(model: nn.Module) -> tuple[int, ...]:
    """Height and width of the images that a model of transformers or timm was trained on; empty if it does not tell.

    Examples
    --------
    >>> net = nn.Conv2d(3, 8, 3)
    >>> net.pretrained_cfg = {"input_size": (3, 224, 224)}
    >>> trained_size(net), trained_size(nn.Conv2d(3, 8, 3))
    ((224, 224), ())
    """
    size = getattr(getattr(model, "config", None), "image_size", None)
    cfg = getattr(model, "pretrained_cfg", None)
    if size is None and isinstance(cfg, Mapping):
        size = tuple(cfg.get("input_size") or ())[1:]
    sides = (size, size) if isinstance(size, int) else size
    known = isinstance(sides, tuple | list) and len(sides) == 2 and all(type(n) is int for n in sides)
    return tuple(sides) if known and sides is not None else ()


def _several(example: Any) -> bool:
    return isinstance(example, tuple | list | Mapping)
