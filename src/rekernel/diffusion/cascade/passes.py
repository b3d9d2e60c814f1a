"""Count the passes of a network where they happen, in units of a pass at the full size.

Scope: a hook below guidance and kernels. Not here: their passes (see `guidance/hook`). A pass on a quarter of the
pixels counts as a quarter, whatever the attention in it costs; classifier-free guidance in one batch counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..denoiser.hooks import PASSES, ForwardHook, put_on, take_off

IMAGES = ("sample", "hidden_states", "x")
"""Names of the argument that holds the image, in the networks of diffusers."""


class Passes:
    """The passes of a sampling.

    sizes : numbers of elements of one image
    reached : pixels of the largest pass over those of the full size; below 1 where a cascade was interrupted
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.reached = 1.0

    @property
    def full(self) -> float:
        """The passes in units of one at the full size."""
        return sum(self.sizes) / max(self.sizes) * self.reached if self.sizes else 0.0

    @contextmanager
    def counted(self, network: nn.Module) -> Iterator[None]:
        """Count every pass of the network inside the `with` block, those of guidance too."""
        put_on(network, PASSES, ForwardHook(self._forward, lambda: "the count of passes"))
        try:
            yield
        finally:
            take_off(network, PASSES)

    def _forward(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        image = next((kwargs[name] for name in IMAGES if name in kwargs), args[0] if args else None)
        if isinstance(image, list | tuple) and image:  # Z-Image: a list of images
            image = image[0][None]
        if isinstance(image, Tensor):
            self.sizes.append(math.prod(image.shape[1:]))
        return forward(*args, **kwargs)
