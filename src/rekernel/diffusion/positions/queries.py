"""Multiply the logits of attention over image tokens, by multiplying its queries.

Scope: the attention layers of diffusers' transformers, by their names. Not here: the factor (see `frequencies`).

The logits are q.k / sqrt(d), so a factor on every query of an attention is a factor on all its logits, whatever code
computes the attention. A query passes through a norm of its own, and is rotated afterwards: the factor stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ...errors import RekernelError
from ...escape import shown
from .lending import Loan

# Attention over image tokens, alone or with text. The others are over text alone (the refiners of the text in Lumina 2,
# Z-Image and HunyuanVideo), or from image tokens to the text beside them (attn2 of Wan and LTX-Video).
_BLOCKS = r"(transformer_blocks|single_transformer_blocks|blocks|layers|noise_refiner)\.\d+\."
_OVER_IMAGE = re.compile(_BLOCKS + r"(attn1?|attention)")
_OVER_IMAGE_SD3 = re.compile(_BLOCKS + r"attn2?")
_STREAMS = (
    ("norm_q", "to_q"),
    ("norm_added_q", "add_q_proj"),
)  # image or all tokens, text: the norm, else the projection


class ScaledQueries:
    """The queries of attention over image tokens of one network, multiplied.

    What is lent is kept from call to call, so that compiled code stays valid.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._made: dict[float, list[Loan]] = {}

    def times(self, factor: float) -> list[Loan]:
        """What to lend to the network so that its attention over image tokens has logits multiplied by `factor`.

        Raises
        ------
        RekernelError
            Where an attention has neither a norm nor a projection of its own for its queries.
        """
        if factor == 1:
            return []
        parts = list(_queries(self.network))
        made = self._made.get(factor, [])
        same = len(made) == len(parts) and all(
            loan.owner is part and loan.value.forward == part.forward for loan, part in zip(made, parts, strict=True)
        )
        if not same:
            self._made[factor] = [Loan(part, "forward", _Scaled(part.forward, factor)) for part in parts]
        return self._made[factor]


def _queries(network: nn.Module) -> Iterator[Any]:
    pattern = _OVER_IMAGE_SD3 if type(network).__name__ == "SD3Transformer2DModel" else _OVER_IMAGE
    for path, module in network.named_modules():
        if not pattern.fullmatch(path):
            continue
        for norm, projection in _STREAMS:
            part = getattr(module, norm, None)
            if part is None and getattr(module, "fused_projections", False):
                raise RekernelError(
                    f"{shown(path)}: its projections are fused, and its queries have no norm, so temperature= cannot "
                    f"reach them; call unfuse_qkv_projections(), or pass temperature=False"
                )
            part = getattr(module, projection, None) if part is None else part
            if isinstance(part, nn.Module):
                yield part


class _Scaled:
    """A forward method whose result is multiplied."""

    def __init__(self, forward: Any, factor: float) -> None:
        self.forward, self.factor = forward, factor

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.forward(x, *args, **kwargs) * self.factor
