"""The nodes in ComfyUI itself: its model patcher, guider and samplers, with small networks of random weights.

These tests need a checkout (see `real`), and are skipped without one. Latents have 16x16 pixels, and the trained size
is given as 8x8.
"""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui.cascade_node import RekernelCascadeStage
from comfyui.guidance_node import RekernelUpsampleGuidance
from comfyui.kernels_node import RekernelSupersampledKernels

from rekernel.diffusion import DiscreteSchedule, SupersampledKernels, UpsampleGuidance, guide_denoiser
from rekernel.diffusion.formulas.guided import Window
from rekernel.errors import RekernelError

from . import real

pytestmark = pytest.mark.slow

SIZE, TRAINED = 16, 64  # pixels of the latent; of the trained picture


@pytest.fixture(scope="module", autouse=True)
def comfyui():
    return real.checkout()


@pytest.fixture(scope="module")
def sd15():
    return real.unet_model()


@pytest.fixture(scope="module")
def patcher(sd15):
    return real.patcher_of(sd15)


def guided(model, *, scale=0.0, strength=1.0, end=0.6, levels=0, start=0.0, trained=TRAINED):
    return RekernelUpsampleGuidance().guide(model, scale, strength, end, levels, start, trained)[0]


def kernels(model, *, scale=0.0, method="optimal", end=1.0, start=0.0, trained=TRAINED):
    return RekernelSupersampledKernels().rescale(model, scale, method, end, start, trained)[0]


def noise(channels=4, size=SIZE, batch=1, seed=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


class Passes(list):
    """(size, sigma) of every pass of a model, inside every wrapper."""

    def __init__(self, monkeypatch, model):
        super().__init__()
        kind, run = type(model), type(model)._apply_model

        def seen(itself, x, t, *args, **kwargs):
            self.append((x.shape[-1], t[0].item()))
            return run(itself, x, t, *args, **kwargs)

        monkeypatch.setattr(kind, "_apply_model", seen)

    def of(self, size):
        return [sigma for one, sigma in self if one == size]


def sample(
    model, steps=20, sampler="euler", scheduler="normal", cfg=3.0, x=None, latent=None, positive=None, pooled=None,
    **more,
):  # fmt: skip
    import comfy.sample

    x = noise() if x is None else x
    latent = torch.zeros_like(x) if latent is None else latent
    pooled = {} if pooled is None else {"pooled_output": pooled}
    said, unsaid = positive or real.condition(0, **pooled), real.condition(1, **pooled)
    return comfy.sample.sample(
        model, x, steps, cfg, sampler, scheduler, said, unsaid, latent, disable_pbar=True, seed=1, **more
    )


def steps_of_diffusers(eta, *, karras):
    """How many of 20 steps rekernel guides with diffusers' Euler sampler, on the same sigmas."""
    from diffusers import EulerDiscreteScheduler

    made = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="linspace",
        use_karras_sigmas=karras,
    )  # fmt: skip
    made.set_timesteps(20)
    return int((Window(1.0, eta).weight(DiscreteSchedule(made.alphas_cumprod), made.timesteps.numpy()) > 0).sum())


@pytest.mark.parametrize(("scheduler", "count"), [("normal", 12), ("karras", 10)])
def test_end_percent_is_the_share_of_the_steps_that_diffusers_guides(patcher, monkeypatch, scheduler, count):
    passes = Passes(monkeypatch, patcher.model)
    sample(guided(patcher), scheduler=scheduler)
    assert len(passes.of(SIZE)) == 20
    assert len(passes.of(SIZE // 2)) == steps_of_diffusers(0.6, karras=scheduler == "karras") == count


@pytest.mark.parametrize(("sampler", "passes_of_a_step", "more"), [
    ("heun", 2, -1), ("dpmpp_2s_ancestral", 2, -1), ("dpmpp_sde", 2, 0), ("dpmpp_2m", 1, 0), ("euler_ancestral", 1, 0),
    ("dpmpp_2m_sde", 1, 0), ("lcm", 1, 0), ("ddpm", 1, 0),
])  # fmt: skip
def test_a_step_is_guided_as_a_whole(patcher, monkeypatch, sampler, passes_of_a_step, more):
    """Heun and DPM++ 2S make the second pass at the next step's sigma, to which it belongs (`more`)."""
    passes = Passes(monkeypatch, patcher.model)
    sample(guided(patcher), sampler=sampler)
    assert len(passes.of(SIZE // 2)) == 12 * passes_of_a_step + more


@pytest.mark.parametrize("sampler", ["uni_pc", "dpm_2", "dpm_fast", "ipndm", "res_multistep"])
def test_other_samplers_are_guided_down_to_the_same_noise(patcher, monkeypatch, sampler):
    passes = Passes(monkeypatch, patcher.model)
    sample(guided(patcher), sampler=sampler)
    end = patcher.model.model_sampling.percent_to_sigma(0.6)
    low = [2 * sigma for sigma in passes.of(SIZE // 2)]
    assert low and min(low) > 0.8 * end and len(low) < len(passes.of(SIZE))
    assert sum(sigma > 1.001 * end for sigma in passes.of(SIZE)) <= len(low)


def test_a_schedule_in_two_parts_is_guided_as_the_whole_one(patcher, monkeypatch):
    model, passes = guided(patcher), Passes(monkeypatch, patcher.model)
    half = sample(model, last_step=10)
    assert len(passes.of(SIZE // 2)) == 10
    sample(model, x=torch.zeros_like(half), latent=half, start_step=10)
    assert (len(passes.of(SIZE)), len(passes.of(SIZE // 2))) == (20, 12)


def test_a_late_start_counts_in_the_whole_schedule_and_a_stage_in_itself(patcher, monkeypatch):
    passes = Passes(monkeypatch, patcher.model)
    sample(guided(patcher), 10, denoise=0.5, latent=noise(seed=5))
    assert (len(passes.of(SIZE)), len(passes.of(SIZE // 2))) == (10, 2)  # from .5 to .4 of the schedule
    passes.clear()
    small = {"samples": noise(size=SIZE // 2)}
    model, latent, denoise = RekernelCascadeStage().stage(patcher, small, 2.0, 0.0, 0.5, 1.0, 0.6, 0, 0.0, TRAINED)
    sample(model, 10, denoise=denoise, latent=latent["samples"])
    assert (len(passes.of(SIZE)), len(passes.of(SIZE // 2))) == (10, 6)


def test_an_evaluation_is_the_library_s_guided_denoiser(sd15, patcher):
    """With and without classifier-free guidance, which is one call of the model with both halves."""
    positive, negative = real.condition(0), real.condition(1)
    sigmas = float(sd15.model_sampling.sigma_min), float(sd15.model_sampling.sigma_max)
    got = []
    for cfg in (1.0, 4.0):
        found = {}
        sample(guided(patcher, end=1.0), 3, cfg=cfg, callback=lambda i, x0, x, n, f=found: f.setdefault(i, (x0, x)))

        def plain(x, sigma, cfg=cfg):
            each = [
                sd15.apply_model(x, torch.full((len(x),), float(sigma)), c_crossattn=c[0][0])
                for c in (positive, negative)
            ]
            return each[1] + cfg * (each[0] - each[1])

        denoise = guide_denoiser(plain, 2, 1.0, 1.0, sigmas=sigmas)
        x0, x = found[0]
        torch.testing.assert_close(x0, denoise(x, sigmas[1]), rtol=1e-3, atol=1e-3)
        got.append(x0)
    assert (got[0] - got[1]).abs().max() > 0.01


def diffusers_unet(model):
    """diffusers' network with the weights of ComfyUI's."""
    import comfy.utils
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=SIZE // 2, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=16,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    names, weights = comfy.utils.unet_to_diffusers(model.model_config.unet_config), model.diffusion_model.state_dict()
    unet.load_state_dict({mine: weights[theirs] for mine, theirs in names.items() if theirs in weights})
    return unet.eval()


@pytest.mark.parametrize("what", ["guidance", "optimal kernels", "dilated kernels", "nested guidance with kernels"])
@torch.no_grad()
def test_a_pass_is_that_of_diffusers_with_the_same_weights(sd15, patcher, what):
    from diffusers import DDIMScheduler

    size = 2 * SIZE if what.startswith("nested") else SIZE
    method = "dilate" if what.startswith("dilated") else "optimal"
    unet, model = diffusers_unet(sd15), patcher
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    schedule = DiscreteSchedule(scheduler.alphas_cumprod, snap=True)  # as ComfyUI looks times up
    if "kernels" in what:
        model = kernels(model, method=method)
        SupersampledKernels("auto", "inner", method).attach(unet, scheduler=scheduler)
    if "guidance" in what:
        model = guided(model, end=1.0)
        UpsampleGuidance("auto", 1.0, 1.0, schedule=schedule).attach(unet, scheduler=scheduler)
    text, t = real.condition(0)[0][0], 601
    sigma = sd15.model_sampling.sigmas[t]
    x = noise(size=size) * (1 + sigma**2).sqrt()
    options = {"wrappers": copy.copy(model.wrappers)}
    mine = sd15.apply_model(x, sigma.expand(1), c_crossattn=text, transformer_options=options)
    eps = unet(x / (1 + sigma**2).sqrt(), t, text).sample
    plain = sd15.apply_model(x, sigma.expand(1), c_crossattn=text)
    torch.testing.assert_close(mine, x - sigma * eps, rtol=2e-4, atol=2e-4)
    assert (mine - plain).abs().max() > 5e-3


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


def lcm(model):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, "lcm", False)[0]


def zsnr(model):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]


@pytest.mark.parametrize("other", [lcm, zsnr])
def test_another_sampling_is_read_when_the_model_samples(patcher, monkeypatch, other):
    """So its node works in either order; 4 steps of LCM are guided as those of diffusers, 3 of them."""
    one, two = guided(other(patcher)), other(guided(patcher))
    passes = Passes(monkeypatch, patcher.model)
    torch.testing.assert_close(
        sample(one, 4, "lcm", "sgm_uniform", 1.0), sample(two, 4, "lcm", "sgm_uniform", 1.0), rtol=0, atol=0
    )
    assert (len(passes.of(SIZE)), len(passes.of(SIZE // 2))) == (8, 6)


KINDS = {
    "SD 2.x, v": lambda: (real.unet_model("SD20", "V_PREDICTION"), {}),
    "SDXL": lambda: (
        real.unet_model("SDXL", adm_in_channels=2816, num_classes="sequential"), {"pooled_output": torch.zeros(1, 1280)}
    ),
    "SD3": lambda: (real.sd3_model(), {"pooled_output": torch.zeros(1, 8)}),
    "Flux": lambda: (real.flux_model(), {"pooled_output": torch.zeros(1, 8)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_guided_by_the_formula(kind, monkeypatch):
    from comfyui.model_facts import trained_size

    model, more = KINDS[kind]()
    patcher, flow = real.patcher_of(model), kind in ("SD3", "Flux")
    assert trained_size(model) == {"SD 2.x, v": 768}.get(kind, 1024)
    passes, found = Passes(monkeypatch, model), {}
    x = noise(16 if flow else 4)
    sample(
        guided(patcher), 4, cfg=1.0, x=x, scheduler="simple", pooled=more.get("pooled_output"),
        callback=lambda i, x0, x, n: found.setdefault(i, (x0.clone(), x.clone())),
    )  # fmt: skip
    sigmas = passes.of(SIZE)
    expected = [s / (s + 2 * (1 - s)) for s in sigmas if s > 0.4] if flow else [s / 2 for s in sigmas[:3]]
    assert passes.of(SIZE // 2) == pytest.approx(expected, rel=1e-4)

    # The last guided step by hand: x0 + U (x0_low - D x0).
    conds = {k: v.cond for k, v in model.extra_conds(
        cross_attn=real.condition(0)[0][0], noise=x, device=x.device, width=128, height=128, prompt_type="positive",
        **more).items()}  # fmt: skip
    i = len(expected) - 1
    x0, x_i = found[i]
    below = conds
    if kind == "SDXL":  # the smaller pass is told half of each size
        below = {**conds, "y": model.encode_adm(**more, width=64, height=64)}
        assert not torch.allclose(below["y"], conds["y"])
    tau = expected[i]
    scale = 1 / ((1 - sigmas[i]) + sigmas[i] / 2) if flow else 1.0
    plain = model.apply_model(x_i, torch.tensor([sigmas[i]]), **conds)
    low = model.apply_model(scale * torch.nn.functional.avg_pool2d(x_i, 2), torch.tensor([tau]), **below)
    change = (low - torch.nn.functional.avg_pool2d(plain, 2)).repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(x0, plain + change, rtol=1e-3, atol=1e-3)


def test_kernels_are_refused_where_they_cannot_be_rescaled(patcher):
    model = real.patcher_of(real.sd3_model())
    with pytest.raises(RekernelError, match=r"UNets of Stable Diffusion 1.x, 2.x and XL, and this model is SD3"):
        sample(kernels(model), 1, x=noise(16), pooled=torch.zeros(1, 8))
    with pytest.raises(RekernelError, match=r"whole scales, and this pass has 1.5x1.5 times"):
        sample(kernels(patcher), 1, x=noise(size=12))
    sample(kernels(patcher), 1)  # afterwards all is as before


def test_comfyui_loads_the_pack_and_reads_its_description(comfyui, monkeypatch):
    import asyncio

    import comfy_config.config_parser
    import nodes

    pack = Path(__file__).resolve().parents[3] / "integrations" / "comfyui"
    assert asyncio.run(nodes.load_custom_node(str(pack)))
    assert {"RekernelUpsampleGuidance", "RekernelSupersampledKernels", "RekernelCascadeStage"} <= set(
        nodes.NODE_CLASS_MAPPINGS
    )
    said = comfy_config.config_parser.extract_node_configuration(str(pack))
    assert (said.project.name, said.tool_comfy.display_name) == ("rekernel", "rekernel")


def test_the_recorded_interface_is_that_of_the_checkout(comfyui, sd15, patcher):
    """What the tests without ComfyUI rely on: `recorded.json`."""
    from comfy.model_patcher import ModelPatcher

    seen = {}

    def spy(kind):
        def wrapper(executor, *args, **kwargs):
            if kind == "apply_model":
                seen["options"] = sorted(args[5])
                seen["class_obj"] = [n for n in ("model_sampling", "model_config", "latent_format", "model_type",
                                                 "diffusion_model") if hasattr(executor.class_obj, n)]  # fmt: skip
            seen.setdefault("order", []).append(kind)
            seen[f"{kind} passed"] = len(args)
            return executor(*args, **kwargs)

        return wrapper

    clone = patcher.clone()
    for kind in ("calc_cond_batch", "apply_model"):
        clone.add_wrapper_with_key(kind, "spy", spy(kind))
    sample(clone, 1)
    import comfy.samplers

    sigmas = np.asarray(sd15.model_sampling.sigmas)
    recorded = {
        "patcher": {
            name: list(inspect.signature(getattr(ModelPatcher, name)).parameters)[1:]
            for name in ("clone", "get_wrappers", "add_wrapper_with_key", "remove_wrappers_with_key")
        },
        "apply_model": list(inspect.signature(type(sd15)._apply_model).parameters)[1:7],
        "calc_cond_batch": list(inspect.signature(comfy.samplers._calc_cond_batch).parameters),
        "positional": [seen["calc_cond_batch passed"], seen["apply_model passed"]],
        "order": seen["order"],
        "transformer_options": seen["options"],
        "class_obj": seen["class_obj"],
        "sigmas": [len(sigmas), *(round(float(s), 4) for s in sigmas[[0, 499, 999]])],
    }
    expected = json.loads((Path(__file__).parent / "recorded.json").read_text())
    expected.pop("from", None)
    assert recorded == expected, json.dumps(recorded)
