"""Attach guidance, kernels and positions to random networks and pipelines, call them, and remove all again."""

from __future__ import annotations

import gc
import random
import warnings
import weakref
from collections import Counter
from typing import Any

import diffusers
import torch

from rekernel.diffusion import RescaledPositions, SupersampledKernels, UpsampleGuidance

UNET = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip
SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")


def network(rng: random.Random) -> tuple[Any, Any, list[Any]]:
    """A network or a pipeline, a function that calls it, and what is attached to it."""
    torch.manual_seed(rng.randint(0, 9))
    if rng.random() < 0.25:
        flux = diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
        ).eval()  # fmt: skip
        side = 8
        axis = torch.arange(float(side))
        ids = torch.stack(torch.meshgrid(torch.zeros(1), axis, axis, indexing="ij"), -1).reshape(-1, 3)

        def call() -> torch.Tensor:
            noise = torch.Generator().manual_seed(1)
            x = torch.randn(1, side * side, 4, generator=noise)
            return flux(
                x, encoder_hidden_states=torch.ones(1, 3, 8), pooled_projections=torch.ones(1, 8),
                timestep=torch.tensor([0.5]), img_ids=ids, txt_ids=torch.zeros(3, 3),
            ).sample  # fmt: skip

        parts = [RescaledPositions(2, rng.choice(("interpolate", "ntk", "yarn")), temperature=rng.choice((False, 0.5)))]
        return flux, call, parts
    kernels = SupersampledKernels(
        rng.choice((2, "auto")), rng.choice(("inner", "all")), rng.choice(("optimal", "dilate", "cubic")),
        form=rng.choice(("factored", "dense")),
    )  # fmt: skip
    guidance = UpsampleGuidance(
        rng.choice((2, "auto")), theta=rng.choice((None, 1.0, 1.5)), predictor=rng.choice(("reduced", "rescaled"))
    )
    parts = rng.choice(([kernels], [guidance], [kernels, guidance], [guidance, kernels]))
    unet = diffusers.UNet2DModel(in_channels=3, out_channels=3, **UNET).eval()
    pipe = diffusers.DDIMPipeline(unet, getattr(diffusers, rng.choice(SCHEDULERS))())
    pipe.scheduler.set_timesteps(4)
    if rng.random() < 0.5:
        pipe = diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler())
        pipe.set_progress_bar_config(disable=True)

        def sample() -> torch.Tensor:
            noise = torch.Generator().manual_seed(1)
            return torch.from_numpy(pipe(generator=noise, num_inference_steps=2, output_type="np").images)

        return pipe, sample, parts

    def once() -> torch.Tensor:
        return unet(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor(400)).sample

    return pipe, once, parts


def state(net: Any) -> dict[str, dict[str, int]]:
    """What each module is, by identity of its attributes."""
    return {path: {k: id(v) for k, v in vars(m).items()} for path, m in net.named_modules()}


def one(seed: int, counts: Counter) -> weakref.ref[Any]:
    """One network and up to three cycles; returns a weak reference to the network."""
    rng = random.Random(seed)
    target, call, parts = network(rng)
    net = target if isinstance(target, torch.nn.Module) else target.unet
    before, plain = state(net), call()
    first = None
    for _ in range(rng.randint(1, 3)):
        for part in parts:
            part.attach(target)
        with_parts = call()
        assert torch.isfinite(with_parts).all(), seed
        assert first is None or torch.equal(with_parts, first), (seed, "drift with the parts")
        first = with_parts
        for part in rng.sample(parts, len(parts)):
            part.remove()
        assert state(net) == before, (seed, "left behind")
        assert torch.equal(call(), plain), (seed, "drift without the parts")
        counts["cycles"] += 1
    counts["changed the result" if not torch.equal(first, plain) else "left the result"] += 1
    return weakref.ref(net)


def run(cycles: int, seed: int) -> Counter:
    """At least `cycles` cycles of attaching, calling and removing."""
    counts: Counter = Counter()
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        while counts["cycles"] < cycles:
            left = one(seed + counts["networks"], counts)
            counts["networks"] += 1
            gc.collect()
            assert left() is None, f"the network with seed {seed + counts['networks'] - 1} is kept in memory"
    return counts
