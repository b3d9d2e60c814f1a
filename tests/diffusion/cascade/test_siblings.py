"""A stage of a cascade is what the img2img pipeline of the same family does: the oracle is diffusers' own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

from rekernel.diffusion import GuidedCascade  # noqa: E402

from .families import FAMILIES  # noqa: E402

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SCHEDULERS = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "DPM++ SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ single step": ("DPMSolverSinglestepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
}


def enlarged(latents, size):
    return torch.nn.functional.interpolate(latents, size=size, mode="bicubic", antialias=True)


def seeded():
    return torch.Generator().manual_seed(3)


def by_hand(pipe, sibling, strength, options):
    """Trained size, enlarged latents, and the img2img pipeline with what is left of the same generator."""
    generator = seeded()
    small = pipe(height=16, width=16, generator=generator, output_type="latent", **options)[0]
    again = sibling.from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    return again(
        image=enlarged(small, (16, 16)), strength=strength, generator=generator, output_type="np", **options
    ).images


@pytest.mark.parametrize("name", SCHEDULERS)
def test_stable_diffusion_with_every_family_of_schedulers(sd, name):
    kind, config = SCHEDULERS[name]
    sd.scheduler = getattr(diffusers, kind).from_config({**SD, **config})
    options = {"prompt": "a cat", "num_inference_steps": 6}
    wanted = by_hand(sd, diffusers.StableDiffusionImg2ImgPipeline, 0.5, options)
    cascade = GuidedCascade(sd, sizes=[16, 32], strength=0.5, guidance=False, enlarge="latent")
    found = cascade(generator=seeded(), output_type="np", **options).images
    assert found.shape == (1, 32, 32, 3) and np.abs(found - wanted).max() < 1e-4


def test_stable_diffusion_xl(sdxl):
    options = {"prompt": "a cat", "num_inference_steps": 6}
    wanted = by_hand(sdxl, diffusers.StableDiffusionXLImg2ImgPipeline, 0.67, options)
    cascade = GuidedCascade(sdxl, sizes=[16, 32], strength=0.67, guidance=False, enlarge="latent")
    found = cascade(generator=seeded(), output_type="np", **options).images
    assert np.abs(found - wanted).max() < 1e-4


SIBLINGS = {
    "sd3": "StableDiffusion3Img2ImgPipeline",
    "flux": "FluxImg2ImgPipeline",
    "qwen": "QwenImageImg2ImgPipeline",
    "z-image": "ZImageImg2ImgPipeline",
}


@pytest.mark.parametrize("strength", [0.5, 0.3])  # 1.8 of 6 steps are two: these pipelines round up
@pytest.mark.parametrize("name", SIBLINGS)
def test_rectified_flow(name, strength):
    """Flux and Qwen-Image sample packed tokens, and shift their times by the size of the picture."""
    family = FAMILIES[name]
    pipe, options = family.pipe(), family.call(num_inference_steps=6)
    generator = seeded()
    small = pipe(**{**options, "height": 16, "width": 16, "generator": generator, "output_type": "latent"})[0]
    if small.ndim == 3:
        small = diffusers.FluxPipeline._unpack_latents(small, 8, 8, 1)
    again = getattr(diffusers, SIBLINGS[name])(**pipe.components)
    again.set_progress_bar_config(disable=True)
    image = enlarged(small, (16, 16))
    sized = {"height": 32, "width": 32, "image": image, "strength": strength, "generator": generator}
    wanted = again(**{**options, **sized, "output_type": "pt"})[0]
    cascade = GuidedCascade(pipe, sizes=[16, 32], strength=strength, guidance=False, enlarge="latent")
    found = cascade(**{**options, "generator": seeded(), "output_type": "pt"})[0]
    assert (found - wanted).abs().max() < 1e-4
