"""Kinds of pipelines: what a cascade makes of their parts, and what it refuses before it samples."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade  # noqa: E402


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
