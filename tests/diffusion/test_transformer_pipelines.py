"""Transformers in their own pipelines of diffusers, from noise to pictures: small configs, random weights.

PixArt is told sizes and predicts variances, Sana is fed times in a unit of its own, Wan makes videos and may be fed a
time for each token; Hunyuan's and CogVideoX' networks are called alone. Experimental, as the other transformers are.
"""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import UpsampleGuidance  # noqa: E402

F = torch.nn.functional
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.0001, "beta_end": 0.02}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
PREFIX = ("prompt_embeds", "negative_prompt_embeds")


def embeddings(nets, tokens, width, masked=True):
    """What a text encoder would have said."""
    made = {name: nets.noise(1, tokens, width, seed=seed) for seed, name in enumerate(PREFIX)}
    names = [name.replace("embeds", "attention_mask") for name in PREFIX] if masked else []
    return made | {name: torch.tensor([[1] * (tokens - 1) + [0]]) for name in names}


@pytest.fixture(scope="module")
def pixart(nets):
    transformer = nets.made(
        diffusers.PixArtTransformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1,
        attention_head_dim=6, num_attention_heads=2, cross_attention_dim=12, caption_channels=8,
        use_additional_conditions=False,
    )  # fmt: skip
    vae = nets.made(
        diffusers.AutoencoderKL, sample_size=16, block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4,
        layers_per_block=1, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    return diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(**SD),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sana(nets):
    transformer = nets.made(
        diffusers.SanaTransformer2DModel, sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=4, num_attention_heads=2, num_cross_attention_heads=2, cross_attention_head_dim=4,
        cross_attention_dim=8, caption_channels=8, timestep_scale=0.001,
    )  # fmt: skip
    vae = nets.made(
        diffusers.AutoencoderDC, in_channels=3, latent_channels=4, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), scaling_factor=0.4,
    )  # fmt: skip
    return diffusers.SanaPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(**FLOW),
    )  # fmt: skip


@pytest.fixture(scope="module")
def wan(nets):
    transformer = nets.made(
        diffusers.WanTransformer3DModel, patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12,
        in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    vae = nets.made(
        diffusers.AutoencoderKLWan, base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    return diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=transformer,
        scheduler=diffusers.UniPCMultistepScheduler(**FLOW),
    )  # fmt: skip


PIPES = {
    "pixart": {"height": 32, "width": 32, "use_resolution_binning": False, "output_type": "pt"},
    "sana": {"height": 32, "width": 32, "use_resolution_binning": False, "output_type": "pt"},
    "wan": {"height": 128, "width": 128, "num_frames": 9, "output_type": "pt"},
}
LATENTS = {"pixart": ((16, 16), (8, 8)), "sana": ((16, 16), (8, 8)), "wan": ((3, 16, 16), (3, 8, 8))}


def picture(nets, pipe, which, **more):
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0), "negative_prompt": None}
    options |= PIPES[which] | embeddings(nets, 5, 8, masked=which != "wan")
    return pipe(**{**options, **more})[0]


def state(module):
    return {name: id(value) for name, value in vars(module).items()}


@pytest.fixture(params=PIPES)
def made(request):
    return request.param, request.getfixturevalue(request.param)


def grids(seen):
    return [tuple(kwargs["hidden_states"].shape[2:]) for _, kwargs in seen]


def test_from_noise_to_a_picture(nets, made):
    which, pipe = made
    full, low = LATENTS[which]
    plain, before = picture(nets, pipe, which), state(pipe.transformer)
    with nets.inputs(pipe.transformer) as seen, UpsampleGuidance(2, eta=1.0).attach(pipe) as guidance:
        assert f"{type(pipe.transformer).__name__} of {type(pipe).__name__} (experimental), " in repr(guidance)
        guided = picture(nets, pipe, which)
    assert grids(seen).count(full) == grids(seen).count(low) == len(seen) // 2 >= 3
    assert guided.shape == plain.shape and torch.isfinite(guided).all() and (guided - plain).abs().max() > 1e-4
    assert state(pipe.transformer) == before and "forward" not in before
    for nothing in (UpsampleGuidance(2, theta=0), UpsampleGuidance(1)):
        with nothing.attach(pipe):
            assert torch.equal(picture(nets, pipe, which), plain)
    assert torch.equal(picture(nets, pipe, which), plain)


def test_an_exception_in_the_middle_of_sampling(nets, made):
    which, pipe = made
    before, count = state(pipe.transformer), [0]

    def stop(_module, _args):
        count[0] += 1
        if count[0] == 4:  # the low pass of the second step
            raise KeyError("mid-sampling")

    last = pipe.transformer.proj_out
    handle = last.register_forward_pre_hook(stop)
    try:
        with pytest.raises(KeyError, match="mid-sampling"), UpsampleGuidance(2, eta=1.0).attach(pipe):
            picture(nets, pipe, which)
    finally:
        handle.remove()
    assert state(pipe.transformer) == before


def of_flow(t, m):
    """tau, and the scale of the averaged image, by docs/guidance.md."""
    return t / (t + m * (1 - t)), (1 - t) + t / m


# -- PixArt ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(nets):
    """With the sizes that the 1024 model is told."""
    return nets.made(
        diffusers.PixArtTransformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=1,
        attention_head_dim=6, num_attention_heads=2, cross_attention_dim=12, caption_channels=8,
        use_additional_conditions=True, interpolation_scale=2,
    )  # fmt: skip


def run_pixart(net, x, t, added, nets):
    with torch.no_grad():
        return net(
            x, encoder_hidden_states=nets.noise(len(x), 5, 8, seed=1), timestep=torch.full((len(x),), t),
            added_cond_kwargs=added, return_dict=False,
        )[0]  # fmt: skip


def test_pixart_is_told_the_low_size_and_keeps_its_variances(nets, told):
    scheduler = diffusers.DPMSolverMultistepScheduler(**SD)
    x, t = nets.noise(2, 4, 16, 24), 700
    added = {
        "resolution": torch.tensor([[2048.0, 3072.0]] * 2), "aspect_ratio": torch.tensor([[2048 / 3072]] * 2)
    }  # fmt: skip
    plain = run_pixart(told, x, t, added, nets)
    with nets.inputs(told) as seen, UpsampleGuidance((2, 3)).attach(told, scheduler=scheduler):
        found = run_pixart(told, x, t, added, nets)
    low = seen[-1][1]
    assert low["hidden_states"].shape == (2, 4, 8, 8)
    assert low["added_cond_kwargs"]["resolution"].tolist() == [[1024.0, 1024.0]] * 2
    assert torch.allclose(low["added_cond_kwargs"]["aspect_ratio"], torch.ones(2, 1))
    assert torch.equal(found[:, 4:], plain[:, 4:])  # variances
    assert added["resolution"][0, 0] == 2048
    # The low band in noise: eps_low / sqrt(6), and the power that the network is fed is that of its time.
    with nets.inputs(told) as seen, UpsampleGuidance((2, 3), levels=1).attach(told, scheduler=scheduler):
        found = run_pixart(told, x, t, added, nets)
    low = seen[-1][1]
    eps_low = run_pixart(told, low["hidden_states"], low["timestep"][0].item(), low["added_cond_kwargs"], nets)[:, :4]
    assert torch.allclose(F.avg_pool2d(found[:, :4], (2, 3)), eps_low / math.sqrt(6), atol=1e-5)
    alpha_bar = scheduler.alphas_cumprod.double()[t]
    power = math.sqrt(alpha_bar + (1 - alpha_bar) / 6)
    assert torch.allclose(low["hidden_states"], F.avg_pool2d(x, (2, 3)) / power, atol=1e-5)


def test_pixart_s_positions_are_those_of_the_trained_size(nets, told):
    """Positions are computed for any size; at the low size they are the ones that the network was trained with."""
    trained = told.pos_embed.pos_embed
    with UpsampleGuidance().attach(told, scheduler=diffusers.DDIMScheduler()), torch.no_grad():
        seen = []
        handle = told.pos_embed.register_forward_hook(lambda m, args, out: seen.append(out - project(m, args[0])))
        try:
            none = {"resolution": torch.zeros(1, 2), "aspect_ratio": torch.zeros(1, 1)}
            run_pixart(told, nets.noise(1, 4, 16, 16), 700, none, nets)
        finally:
            handle.remove()
    full, low = seen
    assert full.shape[1] == 64 and torch.allclose(low, trained, atol=1e-5)


def project(patches, x):
    return patches.proj(x).flatten(2).transpose(1, 2)


# -- Sana -----------------------------------------------------------------------------------------------------------


def test_sana_s_times_are_in_its_own_unit(nets, sana):
    """timestep_scale: Sana Sprint and its kin are fed times up to 1."""
    x, t = nets.noise(2, 4, 16, 16), 0.6
    net = sana.transformer

    def run(x, t):
        with torch.no_grad():
            return net(x, nets.noise(2, 5, 8, seed=1), torch.full((2,), t), return_dict=False)[0]

    with nets.inputs(net) as seen, UpsampleGuidance().attach(sana) as guidance:
        assert "flow, FlowSchedule(shift=1, times=1)" in repr(guidance)
        v = run(x, t)
    tau, scale = of_flow(t, 2)
    low = seen[1][1]
    assert torch.allclose(low["timestep"], torch.full((2,), tau))
    assert torch.allclose(low["hidden_states"], F.avg_pool2d(x, 2) / scale, atol=1e-5)
    x0_low = low["hidden_states"] - tau * run(low["hidden_states"], tau)
    assert torch.allclose(F.avg_pool2d(x - t * v, 2), x0_low, atol=1e-5)


# -- Wan and other videos ---------------------------------------------------------------------------------------------


def run_wan(net, x, times, nets):
    with torch.no_grad():
        return net(x, times, nets.noise(len(x), 5, 8, seed=1), return_dict=False)[0]


@pytest.mark.parametrize("per_token", [False, True], ids=["one time", "a time per token"])
@pytest.mark.parametrize(("scale", "low"), [(2, (4, 8, 8)), ((2, 2, 2), (2, 8, 8)), ((2, 1, 1), (2, 16, 16))])
def test_wan_low_band_of_the_guided_video_is_the_low_pass_s(nets, wan, scale, low, per_token):
    x, t, net = nets.noise(2, 4, 4, 16, 16), 0.6, wan.transformer
    pool = [n // m for n, m in zip(x.shape[2:], low, strict=True)]
    tau, power = of_flow(t, math.sqrt(math.prod(pool)))

    def times(t, size):
        return torch.full((2, math.prod(size) // 4) if per_token else (2,), 1000 * t)

    with nets.inputs(net) as seen, UpsampleGuidance(scale).attach(net, scheduler=wan.scheduler) as guidance:
        assert "flow, FlowSchedule(shift=1, times=1000)" in repr(guidance)
        v = run_wan(net, x, times(t, x.shape[2:]), nets)
    given = seen[1][1]
    assert torch.allclose(given["timestep"], times(tau, low)) and given["timestep"].shape == times(tau, low).shape
    assert torch.allclose(given["hidden_states"], F.avg_pool3d(x, pool) / power, atol=1e-5)
    x0_low = given["hidden_states"] - tau * run_wan(net, given["hidden_states"], times(tau, low), nets)
    assert torch.allclose(F.avg_pool3d(x - t * v, pool), x0_low, atol=1e-5)


def test_wan_with_a_time_for_each_of_its_samples_tokens(nets, wan):
    """Two samples at two times, a time per token: each as by itself."""
    x, net = nets.noise(2, 4, 2, 16, 16), wan.transformer
    times = torch.tensor([[600.0], [850.0]]).expand(2, 128)
    with UpsampleGuidance(2).attach(net, scheduler=wan.scheduler):
        both = run_wan(net, x, times, nets)
        text = nets.noise(2, 5, 8, seed=1)
        for i in (0, 1):
            with torch.no_grad():
                one = net(x[i : i + 1], times[i : i + 1], text[i : i + 1], return_dict=False)[0]
            assert torch.allclose(both[i : i + 1], one, atol=1e-5)


def test_wan_with_a_given_first_frame_is_refused(nets, wan):
    """Wan 2.2 TI2V: the first frame's tokens are at time 0."""
    x, net = nets.noise(1, 4, 2, 16, 16), wan.transformer
    times = torch.full((1, 128), 600.0)
    times[:, :64] = 0
    with (
        UpsampleGuidance(2).attach(net, scheduler=wan.scheduler),
        pytest.raises(rk.RekernelError, match=r"timestep: of shape \(1, 128\) with different times within one picture"),
    ):
        run_wan(net, x, times, nets)


def test_wan_with_a_picture_beside_the_noise(nets, wan):
    """Image to video: mask and encoded picture as further channels; averaged and no more."""
    net = nets.made(type(wan.transformer), **{**wan.transformer.config, "in_channels": 9})
    x = nets.noise(1, 9, 2, 16, 16)
    with nets.inputs(net) as seen, UpsampleGuidance(2).attach(net, scheduler=wan.scheduler):
        assert run_wan(net, x, torch.tensor([600.0]), nets).shape == (1, 4, 2, 16, 16)
    low = seen[1][1]["hidden_states"]
    assert torch.allclose(low[:, 4:], F.avg_pool3d(x, (1, 2, 2))[:, 4:], atol=1e-6)
    assert not torch.allclose(low[:, :4], F.avg_pool3d(x, (1, 2, 2))[:, :4], atol=1e-2)


def test_wan_has_no_trained_size_in_its_config(wan):
    with pytest.raises(rk.RekernelError, match=r"WanTransformer3DModel of WanPipeline: its config has no sample_size"):
        UpsampleGuidance().attach(wan)


def test_hunyuan_video(nets):
    net = nets.made(
        diffusers.HunyuanVideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2,
        attention_head_dim=8, num_layers=1, num_single_layers=1, num_refiner_layers=1, patch_size=2, patch_size_t=1,
        text_embed_dim=8, pooled_projection_dim=6, rope_axes_dim=(2, 2, 4), guidance_embeds=True,
    )  # fmt: skip
    x, t = nets.noise(1, 4, 2, 16, 16), 0.6

    def run(x, t):
        with torch.no_grad():
            return net(
                x, torch.tensor([1000 * t]), nets.noise(1, 3, 8, seed=1), torch.ones(1, 3), nets.noise(1, 6, seed=2),
                guidance=torch.tensor([6000.0]), return_dict=False,
            )[0]  # fmt: skip

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0)
    with nets.inputs(net) as seen, UpsampleGuidance(2).attach(net, scheduler=scheduler):
        v = run(x, t)
    tau, power = of_flow(t, 2)
    low = seen[1][1]["hidden_states"]
    assert torch.allclose(low, F.avg_pool3d(x, (1, 2, 2)) / power, atol=1e-5)
    assert torch.allclose(F.avg_pool3d(x - t * v, (1, 2, 2)), low - tau * run(low, tau), atol=1e-5)


def test_cogvideox_has_its_frames_first(nets):
    net = nets.made(
        diffusers.CogVideoXTransformer3DModel, num_attention_heads=2, attention_head_dim=16, in_channels=4,
        out_channels=4, time_embed_dim=4, text_embed_dim=8, num_layers=1, sample_width=8, sample_height=8,
        sample_frames=9, patch_size=2, max_text_seq_length=5,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction")
    x, t = nets.noise(1, 3, 4, 16, 16), 700

    def run(x, t, **more):
        with torch.no_grad():
            return net(x, nets.noise(1, 5, 8, seed=1), torch.tensor([t]), return_dict=False, **more)[0]

    with nets.inputs(net) as seen, UpsampleGuidance(2).attach(net, scheduler=scheduler):
        v = run(x, t)
        with pytest.raises(rk.RekernelError, match="image_rotary_emb: position tables made for the full size"):
            run(x, t, image_rotary_emb=(torch.ones(7, 16), torch.zeros(7, 16)))  # not one entry a token
    low, tau = seen[1][1]["hidden_states"], seen[1][1]["timestep"].item()
    assert low.shape == (1, 3, 4, 8, 8) and v.shape == x.shape
    alpha_bar = scheduler.alphas_cumprod.double()
    snr = torch.log(alpha_bar / (1 - alpha_bar))
    below = int(tau)
    low_snr = snr[below] + (tau - below) * (snr[below + 1] - snr[below])
    assert (low_snr - snr[t]).item() == pytest.approx(2 * math.log(2), abs=1e-4)

    def x0(x, v, snr):
        return x * snr.sigmoid().sqrt() - v * (-snr).sigmoid().sqrt()

    pooled = F.avg_pool2d(x0(x, v, snr[t])[0], 2)[None].float()
    assert torch.allclose(pooled, x0(low, run(low, tau), low_snr).float(), atol=1e-4)


def test_videos_whose_channels_are_elsewhere_are_refused(nets):
    """A network that rekernel does not know, with frames before channels: frames would be taken for channels."""

    class FramesFirst(torch.nn.Module):
        @property
        def config(self):
            return {"in_channels": 4}

        def forward(self, hidden_states, timestep):
            return (hidden_states,)

    net = FramesFirst()
    with (
        UpsampleGuidance(2).attach(net, scheduler=nets.ddim),
        pytest.raises(
            rk.RekernelError, match=r"FramesFirst: hidden_states of shape \(1, 3, 4, 8, 8\) does not have the 4"
        ),
    ):
        net(nets.noise(1, 3, 4, 8, 8), torch.tensor([500]))
