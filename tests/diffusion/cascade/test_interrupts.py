"""A callback that interrupts a cascade or changes its latents: the result, its size, and what it is said to cost."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

from rekernel.diffusion import GuidedCascade  # noqa: E402

from ..conftest import quiet  # noqa: E402
from .families import FAMILIES  # noqa: E402


def seeded():
    return torch.Generator().manual_seed(0)


def stop_at(number, kept=None):
    def stop(pipe, step, _time, tensors):
        pipe._interrupt = step == number
        if kept is not None:
            kept.append(tensors["latents"])
        return {}

    return stop


@pytest.mark.parametrize(("name", "kind"), [("flux", "FluxInpaintPipeline"), ("qwen", "QwenImageInpaintPipeline")])
def test_inpainting_by_a_transformer_ends_at_the_size_of_its_stage(name, kind):
    """It cannot be given latents, so its result is decoded without it, as it decodes its own."""
    family = FAMILIES[name]
    pipe = quiet(getattr(diffusers, kind)(**family.pipe().components))
    seen, kept = [], []
    pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(1))
    cascade = GuidedCascade(pipe, list(family.sizes), guidance=False)
    shown = {"image": torch.rand(1, 3, 32, 32), "mask_image": torch.ones(1, 1, 32, 32), "strength": 1.0}
    options = family.call(num_inference_steps=6, **shown)
    found = cascade(**options, generator=seeded(), callback_on_step_end=stop_at(1, kept))
    assert len(seen) == 2 and found[0].shape == (1, 3, 16, 16)
    small = pipe(**options, height=16, width=16, generator=seeded(), callback_on_step_end=stop_at(1))
    assert type(found) is type(small) and torch.allclose(found[0], small[0], atol=1e-5)
    latents = cascade(**{**options, "output_type": "latent"}, callback_on_step_end=stop_at(1, kept), return_dict=False)
    assert isinstance(latents, tuple) and torch.equal(latents[0], kept[-1])


def test_latents_that_a_callback_changes_in_the_last_step_of_a_stage(nets):
    seen = []

    def black(_loop, step, _time, tensors):
        return {"latents": -torch.ones_like(tensors["latents"])} if step == 3 else {}

    def twice(pixels):
        seen.append(pixels)
        return torch.nn.functional.interpolate(pixels, scale_factor=2)

    cascade = GuidedCascade(nets.unconditioned(), [8, 16], scheduler=nets.ddim, guidance=False, enlarge=twice)
    cascade(1, 4, seeded(), callback_on_step_end=black)
    assert not seen[0].any()


def test_the_passes_of_an_interrupted_cascade_are_in_units_of_its_last_size(sd):
    cascade = GuidedCascade(sd, [16, 32, 64], guidance=False, enlarge="latent")
    for step, passes in ((1, 2 / 16), (6, 6 / 16 + 1 / 4)):
        cascade("a cat", num_inference_steps=6, output_type="np", callback_on_step_end=stop_at(step))
        assert cascade.passes == pytest.approx(passes)
