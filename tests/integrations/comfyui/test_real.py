"""The nodes in ComfyUI itself: what they compute, for each kind of model. Skipped without a checkout (see `real`)."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rekernel.diffusion import DiscreteSchedule, SupersampledKernels, UpsampleGuidance, guide_denoiser
from rekernel.errors import RekernelError

from . import real
from .real import SIZE, Passes, guided, kernels, noise, sample

pytestmark = pytest.mark.slow


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


KINDS = {
    "SD 2.x, v": lambda: (real.unet_model("SD20", "V_PREDICTION"), {}),
    "SDXL": lambda: (
        real.unet_model("SDXL", adm_in_channels=2816, num_classes="sequential"), {"pooled_output": torch.zeros(1, 1280)}
    ),
    "SD3": lambda: (real.sd3_model(), {"pooled_output": torch.zeros(1, 8)}),
    "Flux": lambda: (real.flux_model(), {"pooled_output": torch.zeros(1, 8)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_guided_by_the_formula(checkout, kind, monkeypatch):
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


def test_comfyui_loads_the_pack_and_reads_its_description(checkout, monkeypatch):
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


def test_the_recorded_interface_is_that_of_the_checkout(checkout, sd15, patcher):
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
