"""Networks of videos: which axes are reduced, and what is folded into the batch."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import SupersampledKernels, UpsampleGuidance  # noqa: E402

F = torch.nn.functional
BLOCKS = {"block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 8, "cross_attention_dim": 8}


@pytest.fixture(scope="module")
def motion(nets):
    return nets.made(
        diffusers.UNetMotionModel, **BLOCKS, in_channels=4, out_channels=4, norm_num_groups=4,
        num_attention_heads=2, motion_num_attention_heads=2, use_motion_mid_block=False,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def conv3d(nets):
    return nets.made(
        diffusers.UNet3DConditionModel, **BLOCKS, in_channels=4, out_channels=4, norm_num_groups=4,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def svd(nets):
    return nets.made(
        diffusers.UNetSpatioTemporalConditionModel, **{**BLOCKS, "block_out_channels": (32, 32)}, in_channels=8,
        out_channels=4, num_frames=4, addition_time_embed_dim=4, projection_class_embeddings_input_dim=12,
        num_attention_heads=(1, 1), down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )  # fmt: skip


@pytest.mark.parametrize("which", ["motion", "conv3d"])
@pytest.mark.parametrize(
    ("scale", "low"),
    [(2, (4, 8, 8)), ((1, 2, 2), (4, 8, 8)), ((2, 1, 1), (2, 16, 16)), ((2, 2, 2), (2, 8, 8)), ((1, 1, 2), (4, 16, 8))],
)
def test_space_time_and_both(nets, request, which, scale, low):
    """D of the guided noise prediction is the low one times what D leaves of noise: 1/sqrt of all that it averages."""
    net = request.getfixturevalue(which)
    x, text = nets.noise(2, 4, 4, 16, 16), nets.noise(2, 5, 8, seed=1)
    if which == "motion":  # AnimateDiff's pipeline repeats the text for each frame
        text = text.repeat_interleave(4, dim=0)
    with nets.inputs(net) as seen, UpsampleGuidance(scale).attach(net, scheduler=nets.ddim), torch.no_grad():
        found = net(x, torch.tensor(700), encoder_hidden_states=text).sample
    (_, full), (_, given) = seen
    assert full["sample"].shape == found.shape and tuple(given["sample"].shape[2:]) == low
    averaged = math.prod(n / m for n, m in zip(x.shape[2:], low, strict=True))
    with torch.no_grad():
        eps_low = net(given["sample"], given["timestep"], given["encoder_hidden_states"]).sample
    down = F.avg_pool3d(found, [n // m for n, m in zip(x.shape[2:], low, strict=True)])
    assert torch.allclose(down, eps_low / math.sqrt(averaged), atol=1e-5)
    # And the time is that of so much noise, from the table itself.
    alpha_bar = nets.ddim.alphas_cumprod.double()
    snr = torch.log(alpha_bar / (1 - alpha_bar))
    tau = given["timestep"].item()
    below = int(tau)
    at_tau = snr[below] + (tau - below) * (snr[below + 1] - snr[below])
    assert (at_tau - snr[700]).item() == pytest.approx(math.log(averaged), abs=1e-4)


def test_text_of_each_frame_is_averaged_with_the_frames(nets, motion):
    """FreeNoise and the like give each frame its own text."""
    x, text = nets.noise(1, 4, 4, 8, 8), nets.noise(4, 5, 8, seed=1)
    with nets.inputs(motion) as seen, UpsampleGuidance((2, 1, 1)).attach(motion, scheduler=nets.ddim), torch.no_grad():
        motion(x, torch.tensor(700), encoder_hidden_states=text)
    assert torch.allclose(seen[1][1]["encoder_hidden_states"], text.unflatten(0, (2, 2)).mean(1), atol=1e-6)


def test_residuals_with_the_frames_in_the_batch(nets, motion):
    """A ControlNet runs per frame: space can be reduced, frames cannot."""
    x, text = nets.noise(1, 4, 4, 16, 16), nets.noise(4, 5, 8, seed=1)
    down = (nets.noise(4, 8, 16, 16), nets.noise(4, 8, 16, 16), nets.noise(4, 8, 8, 8), nets.noise(4, 16, 8, 8))
    more = {"down_block_additional_residuals": down, "mid_block_additional_residual": nets.noise(4, 16, 8, 8)}
    with nets.inputs(motion) as seen, UpsampleGuidance(2).attach(motion, scheduler=nets.ddim), torch.no_grad():
        motion(x, torch.tensor(700), encoder_hidden_states=text, **more)
    shapes = [tuple(r.shape) for r in seen[1][1]["down_block_additional_residuals"]]
    assert shapes == [(4, 8, 8, 8), (4, 8, 8, 8), (4, 8, 4, 4), (4, 16, 4, 4)]
    with (
        UpsampleGuidance((2, 2, 2)).attach(motion, scheduler=nets.ddim),
        pytest.raises(rk.RekernelError, match="frames in the batch cannot be reduced"),
        torch.no_grad(),
    ):
        motion(x, torch.tensor(700), encoder_hidden_states=text, **more)


@pytest.mark.parametrize("which", ["motion", "conv3d"])
def test_kernels_of_a_video_network(nets, request, which):
    net = request.getfixturevalue(which)
    x, text = nets.noise(1, 4, 2, 16, 16), nets.noise(1, 5, 8, seed=1)
    text = text.repeat_interleave(2, dim=0) if which == "motion" else text
    with torch.no_grad():
        plain = net(x, torch.tensor(700), encoder_hidden_states=text).sample
        with SupersampledKernels(2).attach(net, scheduler=nets.ddim):
            found = net(x, torch.tensor(700), encoder_hidden_states=text).sample
        assert found.shape == plain.shape and not torch.allclose(found, plain, atol=1e-3)
        assert torch.equal(net(x, torch.tensor(700), encoder_hidden_states=text).sample, plain)


class TestStableVideoDiffusion:
    """(B, frames, C, H, W), the first frame beside the noisy channels, sigmas as log(sigma)/4."""

    @pytest.fixture
    def scheduler(self):
        return diffusers.EulerDiscreteScheduler(
            prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True, sigma_min=0.002,
            sigma_max=700.0, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        )  # fmt: skip

    def call(self, net, x, t, nets):
        ids = torch.tensor([[6.0, 127, 0.02]]).repeat(len(x), 1)
        with torch.no_grad():
            return net(x, torch.tensor(t), nets.noise(len(x), 1, 8, seed=1), ids).sample

    @pytest.mark.parametrize("scale", [2, (2, 2, 2)])
    def test_guided_x0_has_the_low_band_of_the_low_pass(self, nets, svd, scheduler, scale):
        sigma, m = 7.0, {2: 2.0}.get(scale, math.sqrt(8))
        x = nets.noise(2, 4, 8, 16, 16)
        with nets.inputs(svd) as seen, UpsampleGuidance(scale).attach(svd, scheduler=scheduler):
            found = self.call(svd, x, math.log(sigma) / 4, nets)
        low, t_low = seen[1][1]["sample"], seen[1][1]["timestep"].item()
        frames = 4 if scale == 2 else 2
        assert found.shape == (2, 4, 4, 16, 16) and low.shape == (2, frames, 8, 8, 8)
        assert math.exp(4 * t_low) == pytest.approx(sigma / m, rel=1e-5)

        def pooled(video):
            return F.avg_pool3d(video.movedim(2, 1), (4 // frames, 2, 2)).movedim(1, 2)

        assert torch.allclose(low[:, :, 4:], pooled(x)[:, :, 4:], atol=1e-6)  # the first frame: averaged and no more
        scaled = pooled(x)[:, :, :4] * math.sqrt(sigma**2 + 1) / math.sqrt((sigma / m) ** 2 + 1)
        assert torch.allclose(low[:, :, :4], scaled, atol=1e-5)

        def x0(noisy, v, s):  # of x over sqrt(s^2 + 1), by the definition of v
            return (noisy - s * v) / math.sqrt(s**2 + 1)

        x0_low = x0(low[:, :, :4], self.call(svd, low, t_low, nets), sigma / m)
        assert torch.allclose(pooled(x0(x[:, :, :4], found, sigma)), x0_low, atol=1e-4)
