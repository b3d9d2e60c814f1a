"""The rows that time steps of SD1.5's and SDXL's UNet at twice the trained size: plain, guided, and cascaded.

Scope: the networks, with random weights, and their calls. Not here: time and memory (see `clocks`). diffusers is
imported where a row needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from clocks import in_turns, peak_bytes
from convert import SDXL

from rekernel.diffusion import GuidedCascade, SupersampledKernels, UpsampleGuidance

SCALE = 2
IMAGES = 2  # classifier-free guidance of one picture
CASCADE_STEPS, STRENGTH = 4, 0.5  # four steps at the trained size, then two at twice the size


@dataclass(frozen=True)
class Network:
    """A UNet: its name, its configuration in diffusers, and the trained size of its latents."""

    name: str
    trained: int
    config: dict[str, Any] = field(default_factory=dict)

    def made(self, device: str, dtype: torch.dtype) -> Any:
        """The UNet on the device."""
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        with torch.device(device):
            return UNet2DConditionModel(**{**self.config, "sample_size": self.trained}).to(dtype).eval()

    def conditions(self, unet: Any, dtype: torch.dtype, device: str) -> dict[str, Any]:
        """What a pipeline passes beside the latents and the time."""
        text = torch.zeros(IMAGES, 77, unet.config.cross_attention_dim, device=device, dtype=dtype)
        if unet.config.addition_embed_type != "text_time":
            return {"encoder_hidden_states": text}
        ids = 6 * unet.config.addition_time_embed_dim
        pooled = torch.zeros(
            IMAGES, unet.config.projection_class_embeddings_input_dim - ids, device=device, dtype=dtype
        )
        more = {"text_embeds": pooled, "time_ids": torch.zeros(IMAGES, 6, device=device, dtype=dtype)}
        return {"encoder_hidden_states": text, "added_cond_kwargs": more}


# The defaults of diffusers are the layout of Stable Diffusion 1.4 but for the width of the text: 768 in 1.x.
SD15 = Network("SD1.5", 64, {"cross_attention_dim": 768})
NETWORKS = (SD15, Network("SDXL", 128, SDXL))
TINY = Network(
    "tiny", 8, {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 4,
        "layers_per_block": 1, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
)  # fmt: skip


def rows(network: Network, dtype: str) -> Iterator[tuple[str, Callable[[str, float], dict[str, Any]]]]:
    """One key, and the function (device, seconds for each way) that measures it: the ways take turns."""
    yield (
        f"steps: {network.name} at {SCALE * network.trained}x{SCALE * network.trained} latents, {dtype}",
        lambda device, seconds: measured(network, dtype, device, seconds),
    )


def measured(network: Network, dtype: str, device: str, seconds: float) -> dict[str, Any]:
    """Milliseconds and bytes of one step in each way; for the cascade, of a whole sampling over one plain step."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    kind = getattr(torch, dtype)
    unet = network.made(device, kind)
    size = SCALE * network.trained
    x = torch.randn(IMAGES, 4, size, size, device=device, dtype=kind)
    conditions = network.conditions(unet, kind, device)

    def step() -> None:
        unet(x, 800, **conditions)

    kernels, guidance = SupersampledKernels(SCALE), UpsampleGuidance(SCALE, eta=1.0)
    attached = (kernels, guidance)
    ways = {
        "plain": (), "guidance": (guidance,), "factored kernels": (kernels,), "guidance + factored kernels": attached,
    }  # fmt: skip
    with torch.inference_mode():
        for spec in attached:
            spec.attach(unet, scheduler=scheduler)

        def way(name: str) -> Callable[[], None]:
            def call() -> None:
                for spec in attached:
                    (spec.enable if spec in ways[name] else spec.disable)()
                step()

            return call

        calls = {name: way(name) for name in ways}
        times = in_turns(calls, device, seconds)
        peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
        for spec in reversed(attached):
            spec.remove()
    stages = [network.trained, size]
    cascade = GuidedCascade(
        unet, stages, strength=STRENGTH, guidance={"eta": 1.0}, scheduler=scheduler, enlarge="latent"
    )

    def sample() -> None:
        cascade(batch_size=IMAGES, num_inference_steps=CASCADE_STEPS, **conditions)

    times |= in_turns({"cascade": sample}, device, seconds)
    peaks["cascade"] = peak_bytes(sample, device)
    forms = {name: {**times[name], "peak bytes": peaks[name]} for name in times}
    weights = sum(p.nbytes for p in unet.parameters())
    return {
        "kind": "steps", "network": network.name, "size": size, "dtype": dtype, "images": IMAGES,
        "weight bytes": weights, "cascade steps": [CASCADE_STEPS, int(CASCADE_STEPS * STRENGTH)],
        "cascade passes": cascade.passes, "forms": forms,
    }  # fmt: skip
