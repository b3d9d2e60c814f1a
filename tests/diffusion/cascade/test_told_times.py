"""What the network is told in a stage that starts late: the time, the noise level and the number of steps are true."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade  # noqa: E402

from ..conftest import SD, quiet  # noqa: E402
from .families import FAMILIES, made, noise  # noqa: E402


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def mochi():
    """Its scheduler turns times round: 0 is noise, 1000 is the picture."""
    transformer = made(
        diffusers.MochiTransformer3DModel, patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        pooled_projection_dim=16, in_channels=4, qk_norm="rms_norm", text_embed_dim=8, time_embed_dim=4,
        activation_fn="swiglu", max_sequence_length=16,
    )  # fmt: skip
    vae = made(
        diffusers.AutoencoderKLMochi, latent_channels=4, out_channels=3, encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5, latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return quiet(
        diffusers.MochiPipeline(
            scheduler=scheduler, vae=vae, text_encoder=None, tokenizer=None, transformer=transformer
        )
    )  # fmt: skip


@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_inverted_times_have_the_noise_that_the_network_is_told(mochi, strength):
    steps, seen, ends, grids = 10, [], [], []
    inner = mochi.transformer.patch_embed.register_forward_pre_hook(lambda _m, args: grids.append(args[0].shape[-1]))
    handle = mochi.transformer.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append((kwargs["hidden_states"].clone(), float(kwargs["timestep"][0]))),
        with_kwargs=True,
    )

    def look(_pipe, _step, _time, tensors):
        ends.append(tensors["latents"].clone())
        return {}

    mask = torch.ones(1, 16, dtype=torch.bool)
    cascade = GuidedCascade(mochi, [32, 64], strength=strength, guidance={"eta": 0.5}, enlarge="latent")
    cascade(
        prompt_embeds=noise(1, 16, 8), negative_prompt_embeds=noise(1, 16, 8), prompt_attention_mask=mask,
        negative_prompt_attention_mask=mask, guidance_scale=1.0, num_inference_steps=steps, num_frames=7,
        output_type="latent", generator=seeded(), callback_on_step_end=look,
    )  # fmt: skip
    handle.remove()
    inner.remove()
    start, time = seen[steps]
    small = ends[steps - 1]
    large = torch.nn.functional.interpolate(small.flatten(1, 2), size=(8, 8), mode="bicubic", antialias=True)
    rest = start - time / 1000 * large.reshape(start.shape)
    assert rest.std() == pytest.approx(1 - time / 1000, rel=0.1)
    low = grids[steps:].count(4)  # guided in half of the stage, not of the schedule
    assert 0 < low < len(seen) - steps


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDPMParallelScheduler"])
def test_the_number_of_steps_does_not_depend_on_an_earlier_call(sd, nets, kind):
    sd.scheduler = getattr(diffusers, kind)(**SD, clip_sample=False)
    times = [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    cascade = GuidedCascade(sd, [16, 32], strength=0.5, guidance=False, enlarge="latent")
    for before in (None, 4, 14, 50):
        if before is not None:
            sd.scheduler.set_timesteps(before)
        with nets.passes(sd.unet) as sizes:
            cascade("a cat", timesteps=times, output_type="latent", guidance_scale=1.0)
        assert sizes == [(8, 8)] * 10 + [(16, 16)] * 5


def test_a_consistency_model_counts_its_own_timesteps(nets):
    pipe = quiet(diffusers.ConsistencyModelPipeline(nets.unconditioned(), diffusers.CMStochasticIterativeScheduler()))
    cascade = GuidedCascade(pipe, [8, 16], strength=0.5, guidance=False)
    pipe.scheduler.set_timesteps(12)
    with nets.passes(pipe.unet) as sizes:
        cascade(num_inference_steps=None, timesteps=[22, 10, 5, 0], output_type="pt")
    assert sizes == [(8, 8)] * 4 + [(16, 16)] * 2


def test_a_pipeline_that_reads_the_noise_levels_by_step_gets_those_of_its_stage():
    """As Cosmos does in each step, and CogView4 in its callbacks."""
    flux, read = FAMILIES["flux"], []

    def look(pipe, step, time, _tensors):
        read.append((float(pipe.scheduler.sigmas[step if step < 6 else step - 6]), float(time) / 1000))
        return {}

    cascade = GuidedCascade(flux.pipe(), list(flux.sizes), strength=0.5, guidance=False)
    cascade(**flux.call(num_inference_steps=6), callback_on_step_end=look)
    assert len(read) == 9 and all(sigma == pytest.approx(told, abs=1e-5) for sigma, told in read)


def test_a_copy_of_the_scheduler_starts_as_late_and_is_an_ordinary_one_afterwards(sd, nets):
    kept, copied = {}, []

    def look(pipe, step, _time, _tensors):
        if step == 6:
            own = copy.deepcopy(pipe.scheduler)
            own.set_timesteps(6)
            copied.append((own.timesteps.tolist(), pipe.scheduler.timesteps.tolist()))
            kept["taken"] = diffusers.StableDiffusionPipeline.from_pipe(pipe, requires_safety_checker=False)
            with pytest.raises(rk.RekernelError, match="cannot be copied or pickled with its network"):
                copy.deepcopy(pipe)
        return {}

    GuidedCascade(sd, [16, 32], guidance=False)("a cat", num_inference_steps=6, callback_on_step_end=look)
    ((own, shown),) = copied
    assert own == shown and len(own) == 3
    options = {"num_inference_steps": 4, "height": 16, "width": 16, "output_type": "pt"}
    wanted = sd("a cat", generator=seeded(), **options).images
    for pipe in kept.values():
        assert torch.equal(quiet(pipe)("a cat", generator=seeded(), **options).images, wanted)


def test_pipelines_of_sound_are_refused(nets):
    class Sound:
        unet, scheduler = nets.unet, nets.ddim

        def __call__(self, num_inference_steps=4, audio_end_in_s=None): ...

    with pytest.raises(rk.RekernelError, match="Sound samples sound, which a cascade cannot enlarge"):
        GuidedCascade(Sound(), [8, 16])


def test_a_schedule_that_ends_early_ends_early_in_the_last_stage_alone(sdxl, nets):
    """SDXL's `denoising_end` leaves noise for a refiner; a stage has to start from a finished picture."""
    options = {"num_inference_steps": 10, "output_type": "latent", "guidance_scale": 1.0}
    cascade = GuidedCascade(sdxl, [16, 32], strength=0.5, guidance=False, enlarge="latent")
    with nets.passes(sdxl.unet) as sizes:
        cascade("a cat", denoising_end=0.7, **options)
    assert sizes == [(8, 8)] * 10 + [(16, 16)] * 2
    with pytest.raises(rk.RekernelError, match="made no step at 32x32, so the picture is noisy"):
        GuidedCascade(sdxl, [16, 32], strength=0.3, guidance=False)("a cat", denoising_end=0.6, **options)
