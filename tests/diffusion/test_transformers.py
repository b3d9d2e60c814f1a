"""Stable Diffusion 3 and Flux, experimental: rectified flow, on a grid and on packed tokens."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import SupersampledKernels, UpsampleGuidance  # noqa: E402

F = torch.nn.functional


@pytest.fixture(scope="module")
def sd3(nets):
    return nets.made(
        diffusers.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, num_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=16,
        pooled_projection_dim=6, out_channels=4, pos_embed_max_size=24,
    )  # fmt: skip


@pytest.fixture(scope="module")
def flux(nets):
    return nets.made(
        diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=1, joint_attention_dim=8, pooled_projection_dim=6,
        axes_dims_rope=(4, 6, 6), guidance_embeds=True,
    )  # fmt: skip


@pytest.fixture
def flow():
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def run_sd3(net, x, t, nets):
    with torch.no_grad():
        return net(
            hidden_states=x, timestep=torch.full((len(x),), float(t)), return_dict=False,
            encoder_hidden_states=nets.noise(len(x), 3, 8, seed=1), pooled_projections=nets.noise(len(x), 6, seed=2),
        )[0]  # fmt: skip


def packed(grid):
    return diffusers.FluxPipeline._pack_latents(grid, *grid.shape)


def unpacked(tokens, height, width):
    return diffusers.FluxPipeline._unpack_latents(tokens, height, width, 1)


def ids(height, width):
    return diffusers.FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, "cpu", torch.float32)


def run_flux(net, tokens, img_ids, t, nets, **more):
    batch = len(tokens)
    with torch.no_grad():
        return net(
            hidden_states=tokens, timestep=torch.full((batch,), t), guidance=torch.full((batch,), 3.5),
            pooled_projections=nets.noise(batch, 6, seed=2), encoder_hidden_states=nets.noise(batch, 3, 8, seed=1),
            txt_ids=torch.zeros(3, 3), img_ids=img_ids, return_dict=False, **more,
        )[0]  # fmt: skip


def of_flow(t, m=2.0):
    """tau and the input's scale for an m x m average, by docs/guidance.md, "Matched time and power"."""
    return t / (t + m * (1 - t)), (1 - t) + t / m


def test_sd3_low_band_of_the_guided_image_is_the_low_pass_s(nets, sd3, flow):
    x, t = nets.noise(2, 4, 16, 16), 0.6
    tau, scale = of_flow(t)
    with nets.inputs(sd3) as seen, UpsampleGuidance().attach(sd3, scheduler=flow) as guidance:
        assert "flow, FlowSchedule(shift=1, times=1000)" in repr(guidance)
        v = run_sd3(sd3, x, 1000 * t, nets)
    low = seen[1][1]
    assert torch.allclose(low["timestep"], torch.full((2,), 1000 * tau))
    assert torch.allclose(low["hidden_states"], F.avg_pool2d(x, 2) / scale, atol=1e-5)
    x0_low = low["hidden_states"] - tau * run_sd3(sd3, low["hidden_states"], 1000 * tau, nets)
    assert torch.allclose(F.avg_pool2d(x - t * v, 2), x0_low, atol=1e-5)
    plain = run_sd3(sd3, x, 1000 * t, nets)
    residual = (v - plain) - F.interpolate(F.avg_pool2d(v - plain, 2), scale_factor=2)
    assert residual.abs().max() < 1e-5 and (v - plain).abs().max() > 0.01  # only the low band changes


def test_sd3_gets_sizes_that_its_patches_divide(nets, sd3, flow):
    with nets.inputs(sd3) as seen, UpsampleGuidance(2).attach(sd3, scheduler=flow):
        run_sd3(sd3, nets.noise(1, 4, 14, 20), 600, nets)
    assert tuple(seen[1][1]["hidden_states"].shape[2:]) == (8, 10)


def test_flux_low_band_of_the_guided_image_is_the_low_pass_s(nets, flux, flow):
    grid, t = nets.noise(2, 4, 16, 24), 0.6
    tau, scale = of_flow(t)
    plain = run_flux(flux, packed(grid), ids(16, 24), t, nets)
    before = dict(vars(flux))
    with nets.inputs(flux) as seen, UpsampleGuidance(2).attach(flux, scheduler=flow) as guidance:
        assert "flow, FlowSchedule(shift=1, times=1)" in repr(guidance)
        tokens = run_flux(flux, packed(grid), ids(16, 24), t, nets)
    assert dict(vars(flux)) == before and tokens.shape == plain.shape
    low = seen[1][1]
    assert torch.allclose(low["timestep"], torch.full((2,), tau))
    assert torch.equal(low["img_ids"], ids(8, 12)) and torch.equal(low["txt_ids"], torch.zeros(3, 3))
    x_low = unpacked(low["hidden_states"], 8, 12)
    assert torch.allclose(x_low, F.avg_pool2d(grid, 2) / scale, atol=1e-5)
    v_low = unpacked(run_flux(flux, low["hidden_states"], ids(8, 12), tau, nets), 8, 12)
    v = unpacked(tokens, 16, 24)
    assert torch.allclose(F.avg_pool2d(grid - t * v, 2), x_low - tau * v_low, atol=1e-5)
    change = v - unpacked(plain, 16, 24)
    assert (change - F.interpolate(F.avg_pool2d(change, 2), scale_factor=2)).abs().max() < 1e-5
    assert torch.equal(run_flux(flux, packed(grid), ids(16, 24), t, nets), plain)


def test_flux_with_positions_as_older_pipelines_give_them(nets, flux, flow):
    grid = nets.noise(1, 4, 16, 16)
    with UpsampleGuidance(2).attach(flux, scheduler=flow):
        one = run_flux(flux, packed(grid), ids(16, 16), 0.6, nets)
        other = run_flux(flux, packed(grid), ids(16, 16)[None], 0.6, nets)
    assert torch.allclose(one, other, atol=1e-6)


def test_flux_with_two_pictures_is_refused(nets, flux, flow):
    """Kontext: the tokens of a second picture behind the first one's."""
    second = ids(16, 16)
    second[:, 0] = 1
    tokens = torch.cat([packed(nets.noise(1, 4, 16, 16))] * 2, dim=1)
    with (
        UpsampleGuidance(2).attach(flux, scheduler=flow),
        pytest.raises(rk.RekernelError, match="img_ids are not the positions of one picture's 128 tokens"),
    ):
        run_flux(flux, tokens, torch.cat([ids(16, 16), second]), 0.6, nets)


def test_flux_with_channels_beside_the_noisy_ones(nets, flow):
    """Fill: a masked picture's tokens beside the noisy ones; averaged and no more."""
    fill = nets.made(
        diffusers.FluxTransformer2DModel, patch_size=1, in_channels=48, out_channels=16, num_layers=1,
        num_single_layers=0, attention_head_dim=16, num_attention_heads=1, joint_attention_dim=8,
        pooled_projection_dim=6, axes_dims_rope=(4, 6, 6), guidance_embeds=True,
    )  # fmt: skip
    noisy, given = nets.noise(1, 4, 16, 16), nets.noise(1, 8, 16, 16, seed=3)
    tokens = torch.cat([packed(noisy), packed(given)], dim=2)
    with nets.inputs(fill) as seen, UpsampleGuidance(2).attach(fill, scheduler=flow):
        out = run_flux(fill, tokens, ids(16, 16), 0.6, nets)
    low = seen[1][1]["hidden_states"]
    assert out.shape == (1, 64, 16)
    assert torch.allclose(low[..., 16:], packed(F.avg_pool2d(given, 2)), atol=1e-6)
    assert torch.allclose(low[..., :16], packed(F.avg_pool2d(noisy, 2)) / of_flow(0.6)[1], atol=1e-5)


def test_a_controlnet_on_tokens_is_refused_by_name(nets, flux, flow):
    with (
        UpsampleGuidance(2).attach(flux, scheduler=flow),
        pytest.raises(rk.RekernelError, match="controlnet_block_samples: a ControlNet's residuals on tokens"),
    ):
        tokens = packed(nets.noise(1, 4, 16, 16))
        run_flux(flux, tokens, ids(16, 16), 0.6, nets, controlnet_block_samples=[torch.zeros(1, 64, 16)])


def test_flux_has_no_trained_size_in_its_config(nets, flux, flow):
    with pytest.raises(rk.RekernelError, match=r"FluxTransformer2DModel: its config has no sample_size.*pass a number"):
        UpsampleGuidance().attach(flux, scheduler=flow)


def test_kernels_of_a_transformer_have_no_preset(nets, sd3, flow):
    said = (
        "layers='inner' is not a preset of this SD3Transformer2DModel; .* UpsampleGuidance or a GuidedCascade instead"
    )
    with pytest.raises(rk.RekernelError, match=said):
        SupersampledKernels(2).attach(sd3, scheduler=flow)


def test_features_kept_between_steps_are_refused(nets, flux, flow):
    """FirstBlockCache and PyramidAttentionBroadcast, when attaching and when switched on afterwards."""
    tokens, where = packed(nets.noise(1, 4, 16, 16)), ids(16, 16)
    configs = {
        "fbc": diffusers.FirstBlockCacheConfig(threshold=0.1),
        "pyramid": diffusers.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
        "faster": diffusers.FasterCacheConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
    }
    for name, config in configs.items():
        for spec in (UpsampleGuidance(2), SupersampledKernels(2, "all")):
            flux.enable_cache(config)
            with pytest.raises(rk.RekernelError, match=rf"keeps features between steps \(.*{name}.*disable_cache\(\)"):
                spec.attach(flux, scheduler=flow)
            flux.disable_cache()
            with spec.attach(flux, scheduler=flow):
                flux.enable_cache(config)
                with (
                    flux.cache_context("cond"),
                    pytest.raises(rk.RekernelError, match=r"keeps features between steps"),
                ):
                    run_flux(flux, tokens, where, 0.6, nets)
                flux.disable_cache()
