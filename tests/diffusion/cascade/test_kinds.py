"""Kinds of pipelines: what a cascade makes of their parts, and what it refuses before it samples."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade  # noqa: E402

from ..conftest import quiet  # noqa: E402
from .families import FAMILIES  # noqa: E402


def seeded():
    return torch.Generator().manual_seed(0)


def test_a_call_without_steps(sd):
    with pytest.raises(rk.RekernelError, match="num_inference_steps=0 must be at least 1"):
        GuidedCascade(sd, [16, 32])("a cat", num_inference_steps=0)


def test_weights_that_are_listed_by_step_are_refused(nets):
    """As Ideogram 4 has them: a stage would take the weights of the first steps."""

    class Listed:
        unet, scheduler = nets.unet, nets.ddim

        def __call__(self, num_inference_steps=4, latents=None, guidance_scale=None, guidance_schedule=(7.0, 3.0)): ...

    cascade = GuidedCascade(Listed(), [8, 16])
    with pytest.raises(rk.RekernelError, match="guidance_schedule: its entries count from the first step"):
        cascade()


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_compiled_part(sd, part):
    options = {"num_inference_steps": 4, "output_type": "pt"}
    wanted = GuidedCascade(sd, [16, 32])("a cat", generator=seeded(), **options).images
    setattr(sd, part, torch.compile(getattr(sd, part), backend="eager"))
    found = GuidedCascade(sd, [16, 32])("a cat", generator=seeded(), **options).images
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen"])
def test_latents_without_an_autoencoder(name):
    """Their pipelines then count 8 pixels for one of the latents."""
    family = FAMILIES[name]
    whole = family.pipe()
    pipe = quiet(type(whole)(**{**whole.components, "vae": None}))
    cascade = GuidedCascade(pipe, [64, 128], enlarge="latent")
    with pytest.raises(rk.RekernelError, match="has no VAE to decode the result; pass output_type='latent'"):
        cascade(**family.call())
    found = cascade(**family.call(output_type="latent", generator=seeded()))[0]
    same = GuidedCascade(whole, [16, 32], enlarge="latent")
    wanted = same(**family.call(output_type="latent", generator=seeded()))[0]
    assert torch.allclose(found, wanted, atol=1e-5)
    with pytest.raises(rk.RekernelError, match="has no VAE to encode the given picture"):
        cascade(**family.call(image=torch.zeros(1, 3, 64, 64)))
    with pytest.raises(rk.RekernelError, match="has no VAE to enlarge pictures with; pass enlarge='latent'"):
        GuidedCascade(pipe, [64, 128])
