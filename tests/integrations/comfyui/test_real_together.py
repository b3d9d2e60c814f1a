"""The nodes in ComfyUI itself, beside the patches and conditions of others. Skipped without a checkout (see `real`)."""

from __future__ import annotations

import pytest
import torch

from . import real
from .real import SIZE, Passes, guided, kernels, noise, sample

pytestmark = pytest.mark.slow


def other_wrapper(seen):
    def wrapper(apply_model, arguments):
        seen.append(arguments["input"].shape[-1])
        return 0.9 * apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    return wrapper


def with_wrapper(model):
    clone = model.clone()
    clone.set_model_unet_function_wrapper(other_wrapper([]))
    return clone


def with_freeu(model):
    from comfy_extras.nodes_freelunch import FreeU_V2

    return FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0]


def with_hypertile(model):
    from comfy_extras.nodes_hypertile import HyperTile

    return HyperTile.execute(model, 32, 1, 1, False)[0]


def with_apply_wrapper(model):
    clone = model.clone()
    clone.add_wrapper_with_key("apply_model", "other", lambda executor, *a, **k: 0.9 * executor(*a, **k))
    return clone


@pytest.mark.parametrize("other", [with_wrapper, with_freeu, with_hypertile])
def test_the_patches_of_others_work_in_either_order(patcher, other):
    before, after = guided(other(patcher), end=1.0), other(guided(patcher, end=1.0))
    one, two, alone = sample(before, 2), sample(after, 2), sample(guided(patcher, end=1.0), 2)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not torch.allclose(one, alone, rtol=1e-3)


def test_a_wrapper_of_the_same_kind_works_in_either_order(patcher):
    """One that scales the image gives the same inside of guidance, where it scales every pass, and outside."""
    inside, outside = guided(patcher, end=1.0), with_apply_wrapper(patcher)
    one, two = with_apply_wrapper(inside), guided(outside, end=1.0)
    torch.testing.assert_close(sample(one, 2), sample(two, 2), rtol=1e-3, atol=1e-3)


def test_guidance_and_kernels_work_in_either_order(patcher):
    one, two = guided(kernels(patcher), end=1.0), kernels(guided(patcher, end=1.0))
    torch.testing.assert_close(sample(one, 2), sample(two, 2), rtol=0, atol=0)


def test_the_model_itself_does_not_change(patcher, sd15):
    before = sample(patcher, 2)
    after = guided(kernels(patcher), end=1.0)
    assert not torch.allclose(sample(after, 2), before, rtol=1e-3)
    torch.testing.assert_close(sample(patcher, 2), before, rtol=0, atol=0)
    assert not patcher.wrappers.get("apply_model")
    assert all("forward" not in vars(module) for module in sd15.diffusion_model.modules())
    for same in (guided(patcher, strength=0.0), guided(patcher, end=0.0), guided(patcher, trained=128)):
        torch.testing.assert_close(sample(same, 2), before, rtol=0, atol=0)


def test_a_batch_gives_what_each_gives_alone(patcher):
    model, both = guided(patcher), noise(batch=2)
    made = sample(model, 3, x=both)
    for i in range(2):
        torch.testing.assert_close(made[i : i + 1], sample(model, 3, x=both[i : i + 1]), rtol=1e-3, atol=1e-3)


def test_a_region_is_guided_at_the_scale_of_the_picture(patcher, monkeypatch):
    """A prompt for the left half gets half of the latent: 16x8 pixels, which is the trained size of no axis."""
    sizes = []
    kind, run = type(patcher.model), type(patcher.model)._apply_model

    def seen(itself, x, *args, **kwargs):
        sizes.append(tuple(x.shape[2:]))
        return run(itself, x, *args, **kwargs)

    monkeypatch.setattr(kind, "_apply_model", seen)
    left = real.condition(5, area=(16, 8, 0, 0), strength=1.0)
    sample(guided(patcher, end=1.0), 1, positive=[*real.condition(0), *left])
    assert set(sizes) == {(16, 16), (8, 8), (16, 8), (8, 4)}


def test_a_controlnet_acts_in_every_pass(patcher, monkeypatch):
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = {k: v for k, v in real.UNET.items() if k not in ("out_channels", "transformer_depth_output", "image_size")}
    network = comfy.cldm.cldm.ControlNet(
        image_size=32, hint_channels=3, num_heads=4, operations=comfy.ops.manual_cast, **config
    )
    net = comfy.controlnet.ControlNet(real.randomised(network.eval()), load_device=torch.device("cpu"))
    net.set_cond_hint(torch.rand(1, 3, 128, 128), 1.0, (0.0, 1.0))
    positive = real.condition(0, control=net, control_apply_to_uncond=True)
    passes = Passes(monkeypatch, patcher.model)
    with_control = sample(guided(patcher), 3, positive=positive)
    assert (len(passes.of(SIZE)), len(passes.of(SIZE // 2))) == (3, 2)
    assert not torch.allclose(with_control, sample(guided(patcher), 3), rtol=1e-2)
