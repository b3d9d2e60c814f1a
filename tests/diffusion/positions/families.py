"""A tiny transformer of each family with random weights, a call of it on a grid, and the table that its blocks get."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed

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
    t: float = 0.2  # where the methods differ
    spread: bool = False  # whether its pipeline interpolates the positions already
    exact: float = 2e-6  # rounding of diffusers' own table
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

    def run(self, net: Any, scale: Any = 1, *, seed: int = 0, batch: int = 1, t: float | None = None) -> Any:
        factors = scale if isinstance(scale, tuple) else (1,) * (len(self.grid) - 2) + (scale, scale)
        size = [round(n * s) for n, s in zip(self.grid, factors, strict=True)]
        with torch.no_grad():
            return self.call(net, noise(batch, self.channels, *size, seed=seed), t or self.t)

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


def _tokens(x: Any) -> Any:
    return diffusers.FluxPipeline._pack_latents(x, *x.shape)


def _flux2(net: Any, x: Any, t: float) -> Any:
    rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
    ids = diffusers.Flux2Pipeline._prepare_latent_ids(torch.zeros(len(x), 1, rows, columns))
    out = net(
        hidden_states=_tokens(x), timestep=torch.full((len(x),), t), guidance=torch.full((len(x),), 3.5),
        encoder_hidden_states=noise(len(x), 3, 8, seed=1), img_ids=ids,
        txt_ids=diffusers.Flux2Pipeline._prepare_text_ids(torch.zeros(len(x), 3, 8)), return_dict=False,
    )[0]  # fmt: skip
    return diffusers.FluxPipeline._unpack_latents(out, x.shape[-2], x.shape[-1], 1)


def _qwen(net: Any, x: Any, t: float) -> Any:
    shapes = [[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x)
    out = net(
        hidden_states=_tokens(x), timestep=torch.full((len(x),), t), encoder_hidden_states=noise(len(x), 3, 8, seed=1),
        encoder_hidden_states_mask=torch.ones(len(x), 3, dtype=torch.long), img_shapes=shapes, return_dict=False,
    )[0]  # fmt: skip
    return diffusers.FluxPipeline._unpack_latents(out, x.shape[-2], x.shape[-1], 1)


def _z_image(net: Any, x: Any, t: float) -> Any:
    texts = [noise(3, 8, seed=1 + i) for i in range(len(x))]
    return torch.stack(net(list(x), torch.full((len(x),), 1 - t), texts, return_dict=False)[0])


def _lumina(net: Any, x: Any, t: float) -> Any:
    return net(
        x, torch.full((len(x),), 1 - t), noise(len(x), 3, 8, seed=1), torch.ones(len(x), 3, dtype=torch.long),
        return_dict=False,
    )[0]  # fmt: skip


def _wan(net: Any, x: Any, t: float) -> Any:
    return net(x, torch.full((len(x),), 1000 * t), noise(len(x), 5, 8, seed=1), return_dict=False)[0]


def _hunyuan(net: Any, x: Any, t: float) -> Any:
    return net(
        x, torch.full((len(x),), 1000 * t), noise(len(x), 3, 8, seed=1), torch.ones(len(x), 3),
        noise(len(x), 6, seed=2), guidance=torch.full((len(x),), 6000.0), return_dict=False,
    )[0]  # fmt: skip


def _ltx(net: Any, x: Any, t: float) -> Any:
    frames, rows, columns = x.shape[2:]
    out = net(
        diffusers.LTXPipeline._pack_latents(x), noise(len(x), 3, 8, seed=1), torch.full((len(x),), 1000 * t),
        torch.ones(len(x), 3), frames, rows, columns, rope_interpolation_scale=(8 / 25, 32, 32), return_dict=False,
    )[0]  # fmt: skip
    return diffusers.LTXPipeline._unpack_latents(out, frames, rows, columns)


def _cogvideox(net: Any, x: Any, t: float) -> Any:
    """As its pipeline of version 1.0 calls it: the positions of the trained grid, spread over any grid."""
    frames, rows, columns = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
    table = get_3d_rotary_pos_embed(16, ((0, 0), (8, 8)), (rows, columns), frames)
    out = net(
        x.movedim(2, 1), noise(len(x), 5, 8, seed=1), torch.full((len(x),), round(1000 * t)), image_rotary_emb=table,
        return_dict=False,
    )[0]  # fmt: skip
    return out.movedim(1, 2)


def _sd3(net: Any, x: Any, t: float) -> Any:
    return net(
        hidden_states=x, timestep=torch.full((len(x),), 1000 * t), return_dict=False,
        encoder_hidden_states=noise(len(x), 3, 8, seed=1), pooled_projections=noise(len(x), 6, seed=2),
    )[0]  # fmt: skip


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
    "flux 2": Family(
        diffusers.Flux2Transformer2DModel,
        {
            "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 8, "timestep_guidance_channels": 8,
            "axes_dims_rope": (2, 6, 6, 2),
        },
        _flux2, "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: as_complex(image_rotary_emb)[3:],
    ),
    "qwen": Family(
        diffusers.QwenImageTransformer2DModel,
        {
            "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16,
            "num_attention_heads": 2, "joint_attention_dim": 8, "axes_dims_rope": (4, 6, 6),
        },
        _qwen, "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: image_rotary_emb[0].to(torch.complex128),
    ),
    "z-image": Family(
        diffusers.ZImageTransformer2DModel,
        {
            "in_channels": 4, "dim": 32, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
            "cap_feat_dim": 8, "axes_dims": [4, 6, 6], "axes_lens": [64, 64, 64],
        },
        _z_image, "noise_refiner.0", lambda *a, **_k: a[2][0].to(torch.complex128), (1, 16, 16),
    ),
    "lumina 2": Family(
        diffusers.Lumina2Transformer2DModel,
        {
            "sample_size": 16, "in_channels": 4, "hidden_size": 32, "num_layers": 1, "num_refiner_layers": 1,
            "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 8, "axes_dim_rope": (4, 6, 6),
            "axes_lens": (64, 64, 64), "cap_feat_dim": 8,
        },
        _lumina, "noise_refiner.0", lambda *a, **_k: a[2][0].to(torch.complex128),
    ),
    "wan": Family(
        diffusers.WanTransformer3DModel,
        {
            "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4,
            "out_channels": 4, "text_dim": 8, "freq_dim": 8, "ffn_dim": 16, "num_layers": 1, "rope_max_seq_len": 64,
        },
        _wan, "blocks.0", lambda *a, **_k: as_complex(a[3]), (2, 16, 16),
    ),
    "hunyuan video": Family(
        diffusers.HunyuanVideoTransformer3DModel,
        {
            "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1,
            "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2, "patch_size_t": 1, "text_embed_dim": 8,
            "pooled_projection_dim": 6, "rope_axes_dim": (4, 6, 6), "guidance_embeds": True,
        },
        _hunyuan, "transformer_blocks.0", lambda *a, **_k: as_complex(a[4]), (2, 16, 16),
    ),
    "ltx": Family(
        diffusers.LTXVideoTransformer3DModel,
        {
            "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16,
            "cross_attention_dim": 32, "num_layers": 1, "caption_channels": 8,
        },
        _ltx, "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: as_complex(image_rotary_emb), (2, 8, 8),
        pixels=(1, 1, 1), exact=5e-3,  # angles of thousands in float32
    ),
    "cogvideox": Family(
        diffusers.CogVideoXTransformer3DModel,
        {
            "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
            "time_embed_dim": 4, "text_embed_dim": 8, "num_layers": 1, "sample_width": 16, "sample_height": 16,
            "sample_frames": 5, "patch_size": 2, "max_text_seq_length": 5, "use_rotary_positional_embeddings": True,
        },
        _cogvideox, "transformer_blocks.0", lambda *_a, image_rotary_emb, **_k: as_complex(image_rotary_emb),
        (2, 16, 16), t=0.02, spread=True, scheduler=diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction"),
    ),
    "sd3": Family(
        diffusers.SD3Transformer2DModel,
        {
            "sample_size": 16, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": 8, "caption_projection_dim": 16,
            "pooled_projection_dim": 6, "out_channels": 4, "pos_embed_max_size": 40,
        },
        _sd3,
    ),
    "sd3.5": Family(
        diffusers.SD3Transformer2DModel,
        {
            "sample_size": 16, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": 8, "caption_projection_dim": 16,
            "pooled_projection_dim": 6, "out_channels": 4, "pos_embed_max_size": 40, "qk_norm": "rms_norm",
            "dual_attention_layers": (0,),
        },
        _sd3,
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
