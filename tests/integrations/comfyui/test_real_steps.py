"""Which steps the nodes guide in ComfyUI itself, by its own samplers. Skipped without a checkout (see `real`)."""

from __future__ import annotations

import pytest
import torch
from comfyui.cascade_node import RekernelCascadeStage

from rekernel.diffusion import DiscreteSchedule
from rekernel.diffusion.formulas.guided import Window

from .real import SIZE, TRAINED, Passes, guided, noise, sample

pytestmark = pytest.mark.slow


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
