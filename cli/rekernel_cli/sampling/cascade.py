"""Make the cascade of a request, whose last size is exactly the requested one.

Scope: the sizes of its stages. Not here: which options it has (see `sampling.request`), sampling (see
`sampling.pipeline` and `sampling.pixels`).
"""

from __future__ import annotations

from typing import Any

from rekernel.diffusion import GuidedCascade, octaves
from rekernel.diffusion.cascade.sizes import geometry_of

from .request import Above, Size


def cascade_of(pipe: Any, above: Above) -> GuidedCascade:
    """Return the cascade; a size that the pipeline cannot have is refused there, and not rounded."""
    assert above.cascade is not None
    unit = geometry_of(pipe, getattr(pipe, "unet", None) or getattr(pipe, "transformer", None), None).multiple
    return GuidedCascade(pipe, _sizes(above.trained, above.size, unit), **above.cascade)


def _sizes(trained: Size, last: Size, unit: int) -> list[Size]:
    """Return the size of each stage: doubled from the trained size, in whole units, and then the last one."""
    found, size = [trained], (float(trained[0]), float(trained[1]))
    for step in octaves([n / m for n, m in zip(last, trained, strict=True)]):
        size = (size[0] * step[0], size[1] * step[1])
        found.append((unit * round(size[0] / unit), unit * round(size[1] / unit)))
    return [*found[:-1], last]
