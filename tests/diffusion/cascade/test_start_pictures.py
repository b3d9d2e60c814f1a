"""Pictures to start from: which one goes with which prompt, and every form in which people hold a picture."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")
pil = pytest.importorskip("PIL.Image")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade  # noqa: E402


def seeded():
    return torch.Generator().manual_seed(0)


def test_each_picture_goes_with_its_prompt(sd):
    """Two prompts, two pictures, two images for each prompt: pipelines repeat a prompt before the next one."""
    pictures = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    options = {"num_inference_steps": 8, "num_images_per_prompt": 2, "guidance_scale": 1.0, "output_type": "latent"}
    starts = []
    sd.unet.register_forward_pre_hook(lambda _m, args: starts.append(args[0].clone()))
    GuidedCascade(sd, [16, 32], strength=0.125, guidance=False)(["a cat", "a dog"], image=pictures, **options)
    coded = sd.vae.encode(pictures * 2 - 1).latent_dist.mode() * sd.vae.config.scaling_factor
    sd.scheduler.set_timesteps(8)
    alpha = sd.scheduler.alphas_cumprod[sd.scheduler.timesteps[-1]]
    rest = [[(start - alpha**0.5 * latents).std() for latents in coded] for start in starts[0]]
    assert [min((0, 1), key=each.__getitem__) for each in rest] == [0, 0, 1, 1]
