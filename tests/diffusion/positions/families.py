"""A tiny transformer of each family with random weights, a call of it on a grid, and the table that its blocks get."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch

F = torch.nn.functional
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def noise(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Family:
    """How a family is made and called.

    kind, config : the class and its config; the trained size is a matter of the test
    call : (network, (B, C, *grid), noise level) -> prediction on the grid
    block : the name of a block that gets the rotary table
    table : picks the table from the positional and keyword arguments of that block, (image tokens, channels)
    grid : the trained grid, of pixels; the temporal axis first
    pixels : frames, rows and columns of a token
    """

    kind: Any
    config: dict[str, Any]
    call: Callable[..., Any]
    block: str = ""
    table: Callable[..., Any] = lambda *_args, **_kwargs: None
    grid: tuple[int, ...] = (16, 16)
    channels: int = 4
    pixels: tuple[int, ...] = (1, 2, 2)
    scheduler: Any = field(default_factory=lambda: FLOW)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of the trained grid per axis."""
        return tuple(n // p for n, p in zip(self.grid, self.pixels[-len(self.grid) :], strict=True))

    def made(self) -> Any:
        torch.manual_seed(0)
        net = self.kind(**self.config).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        for name, parameter in net.named_parameters():  # many begin at zero, which would hide what attention does
            if parameter.ndim > 1:
                parameter.normal_(0, 0.5 / math.sqrt(parameter.shape[-1]), generator=generator)
            elif name.endswith(("norm_q.weight", "norm_k.weight", "norm_added_q.weight", "norm_added_k.weight")):
                parameter.fill_(1.5)
        return net

    def run(self, net: Any, scale: Any = 1, *, seed: int = 0, batch: int = 1, t: float = 0.2) -> Any:
        factors = scale if isinstance(scale, tuple) else (1,) * (len(self.grid) - 2) + (scale, scale)
        size = [round(n * s) for n, s in zip(self.grid, factors, strict=True)]
        with torch.no_grad():
            return self.call(net, noise(batch, self.channels, *size, seed=seed), t)

    def tables(self, net: Any, scale: Any = 1, **more: Any) -> list[Any]:
        """The table of the image's tokens: complex (image tokens, channels), from one call."""
        seen: list[Any] = []
        block = net.get_submodule(self.block)
        handle = block.register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append(self.table(*args, **kwargs)), with_kwargs=True
        )
        try:
            self.run(net, scale, **more)
        finally:
            handle.remove()
        return seen


def as_complex(table: Any) -> Any:
    """Cosines and sines with every angle twice, as one complex number each."""
    cos, sin = (part.double().reshape(-1, part.shape[-1]) for part in table)
    return torch.complex(cos, sin)[:, ::2]


def _flux(net: Any, x: Any, t: float) -> Any:
    rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(1, rows, columns, "cpu", torch.float32)
    out = net(
        hidden_states=diffusers.FluxPipeline._pack_latents(x, *x.shape), timestep=torch.full((len(x),), t),
        guidance=torch.full((len(x),), 3.5), pooled_projections=noise(len(x), 6, seed=2),
        encoder_hidden_states=noise(len(x), 3, 8, seed=1), txt_ids=torch.zeros(3, 3), img_ids=ids, return_dict=False,
    )[0]  # fmt: skip
    return diffusers.FluxPipeline._unpack_latents(out, x.shape[-2], x.shape[-1], 1)


FAMILIES = {
    "flux": Family(
        diffusers.FluxTransformer2DModel,
        {
            "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 6,
            "axes_dims_rope": (4, 6, 6), "guidance_embeds": True,
        },
        _flux, "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: as_complex(image_rotary_emb)[3:],
    ),
}  # fmt: skip


@contextmanager
def attention(factor: float, least: int) -> Iterator[None]:
    """Compute attention by its definition, with logits times `factor` where there are at least `least` keys."""
    fused = F.scaled_dot_product_attention

    def by_definition(
        query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
        scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        if enable_gqa:
            key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], dim=-3) for part in (key, value))
        logits = query.double() @ key.double().transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
        logits = logits * (factor if key.shape[-2] >= least else 1.0)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        return (logits.softmax(-1) @ value.double()).to(query.dtype)

    F.scaled_dot_product_attention = by_definition
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused
