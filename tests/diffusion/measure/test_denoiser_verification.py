"""`verify_denoiser`: what it compares at each time, against formulas, and on whole pipelines through the command."""

import json

import diffusers
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import rekernel as rk
import rekernel.torch as rkt
from rekernel.diffusion import DenoiserVerification, record, verify_denoiser
from rekernel.diffusion.measure.denoiser_verification import AtTime
from rekernel.diffusion.measure.example_call import is_denoiser, made_up_conditions
from rekernel_cli.main import main

from ..conftest import quiet


class Gaussian(nn.Module):
    """The perfect denoiser of white pictures of variance v: its prediction does not depend on the size."""

    def __init__(self, table, variance=1.0):
        super().__init__()
        self.table, self.variance, self.asked = table, variance, []
        self.config = {"in_channels": 1, "out_channels": 1}
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, sample, timestep):
        t = float(torch.as_tensor(timestep).flatten()[0])
        self.asked.append((tuple(sample.shape[2:]), t, float(sample.var())))
        low = int(t)
        a = self.table[low] + (t - low) * (self.table[min(low + 1, 999)] - self.table[low])
        return (sample * (1 - a) ** 0.5 / (a * self.variance + 1 - a),)


def planned(model, scale=2):
    """The model as a rescaled one: with a plan that holds the scale."""
    plan = rkt.rescale(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), scale, torch.zeros(1, 1, 8, 8)).rekernel_plan
    model.rekernel_plan = plan
    return model


def test_the_trained_network_sees_the_reduced_picture_at_the_matched_time_and_with_its_power():
    scheduler = diffusers.DDPMScheduler()
    table = scheduler.alphas_cumprod.double()
    model, rescaled = Gaussian(table), planned(Gaussian(table))
    clean = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    found = verify_denoiser(model, rescaled, (8, 8), scheduler=scheduler, pictures=clean, times=[600])
    [at] = found.times
    expected = rk_matched(table, 600)
    assert at.t == 600 and at.matched == pytest.approx(expected)
    sizes = {size for size, _, _ in model.asked}
    assert sizes == {(8, 8), (16, 16)} and {size for size, _, _ in rescaled.asked} == {(16, 16)}
    low = [asked for asked in model.asked if asked[0] == (8, 8)]
    assert all(t == pytest.approx(expected, rel=1e-4) for _, t, _ in low)
    # noise of variance 1/4 on a signal of variance 1/4, divided by sqrt(P), P = a + (1 - a) / 4
    a = float(table[600])
    assert low[0][2] == pytest.approx(0.25 / (a + (1 - a) / 4), rel=0.1)


def rk_matched(table, t):
    from rekernel.diffusion import matched_time

    return float(matched_time(torch.log(table / (1 - table)).numpy(), t, 2))


def test_a_network_that_already_is_the_same_differs_by_no_more_than_the_untouched_one():
    scheduler = diffusers.DDPMScheduler()
    model = Gaussian(scheduler.alphas_cumprod.double())
    found = verify_denoiser(model, planned(Gaussian(model.table)), (8, 8), scheduler=scheduler, count=2)
    assert found.grade == "no better"
    assert all(at.low_band == at.untouched and at.above == at.untouched_above for at in found.times)
    assert [at.t for at in found.times] == sorted((at.t for at in found.times), reverse=True)


def times(**changes):
    given = {"t": 500.0, "matched": 300.0, "low_band": 0.1, "untouched": 0.4, "another_draw": 0.2, "above": 0.1,
             "untouched_above": 0.1}  # fmt: skip
    return AtTime(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "grade"),
    [({}, "close"), ({"low_band": 0.0}, "same"), ({"low_band": 0.3}, "changed"), ({"low_band": 0.5}, "no better"),
     ({"above": 0.9}, "no better")],
)  # fmt: skip
def test_grades(changes, grade):
    found = DenoiserVerification((8, 8), (16, 16), 1, (times(**changes),))
    assert found.grade == grade and found.title in found.as_dict()["verdict"]["text"]
    assert ("smoothed away" in found.verdict) == ("above" in changes)


class Passing(nn.Module):
    """Predicts the noisy picture itself, which is nearly all noise at the noisy end, by a kernel with one tap."""

    def __init__(self):
        super().__init__()
        self.config = {"in_channels": 1, "out_channels": 1}
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()[0, 0, 1, 1] = 1

    def forward(self, sample, timestep):
        return (self.conv(sample),)


@pytest.mark.parametrize(("method", "smoothed"), [("linear", True), ("dilate", False)])
def test_kernels_that_smooth_the_noise_away_are_found(method, smoothed):
    model = Passing()
    example = {"sample": torch.zeros(1, 1, 8, 8), "timestep": torch.tensor(1)}
    larger = rkt.rescale(model, 2, example, method=method, mode="supersample")
    found = verify_denoiser(model, larger, (8, 8), scheduler=diffusers.DDPMScheduler(), count=2, times=[990])
    assert ("smoothed away" in found.verdict) == smoothed and (found.times[0].above > 0.5) == smoothed
    assert found.times[0].untouched_above < 0.1


def test_conditions_are_made_up_from_the_config_or_asked_for(nets):
    unet = nets.conditioned(in_channels=4, out_channels=4, layers_per_block=1)
    made = made_up_conditions(unet, 3, (8, 8))
    assert made["encoder_hidden_states"].shape[::2] == (3, unet.config.cross_attention_dim)
    assert is_denoiser(unet) and not is_denoiser(nn.Conv2d(1, 1, 3))

    class Odd(nn.Module):
        def forward(self, sample, timestep, sauce):
            return sample

    with pytest.raises(rk.RekernelError, match="also needs sauce; pass them as conditions="):
        made_up_conditions(Odd(), 1, (8, 8))


def verify(*words):
    return CliRunner().invoke(main, ["verify", *map(str, words)])


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_text_to_image_pipeline_is_compared_under_its_own_prompt(kind, request, tmp_path):
    pipe = quiet(request.getfixturevalue(kind))
    pipe.save_pretrained(tmp_path / "pipe")
    rk.convert(tmp_path / "pipe", tmp_path / "pipe-2x", scale=2)
    result = verify(tmp_path / "pipe", tmp_path / "pipe-2x", "--prompt", "a dog", "--timesteps", "900,200", "--json",
                    "--report", tmp_path / "a.html")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    side = pipe.unet.config.sample_size
    assert found["size"] == [side, side] and found["new_size"] == [2 * side] * 2
    assert [at["t"] for at in found["times"]] == [900, 200] and "prompt: a dog" in found["notes"]
    assert "Another draw" in (tmp_path / "a.html").read_text()
    unet = verify(tmp_path / "pipe" / "unet", tmp_path / "pipe-2x" / "unet", "--timesteps", "500")
    assert unet.exit_code == 0 and "Verdict:" in unet.stdout and "made up, since no pipeline gives them" in unet.stdout
    assert "no scheduler" not in unet.stdout  # it lies in the folder above


def test_mistakes_with_pipelines_are_one_line(sd, tmp_path):
    sd.save_pretrained(tmp_path / "sd")
    rk.convert(tmp_path / "sd", tmp_path / "sd-2x", scale=2)
    for more, words in (
        (("--data", tmp_path), "reads latents, which pictures are not"),
        (("--timesteps", "9999"), "9999 is not a time of this network, whose times are from 0 to 999; give others"),
        (("--report", tmp_path), "is a folder; give the file to write in it"),
        (("--figure", tmp_path / "a.png", "--timesteps", "5"), "use --report"),
    ):
        result = verify(tmp_path / "sd", tmp_path / "sd-2x", *more)
        assert result.exit_code == 1 and words in result.stderr and "Traceback" not in result.output
    record(tmp_path / "sd", tmp_path / "guided", 2.0, guidance={})
    result = verify(tmp_path / "sd", tmp_path / "guided")
    assert result.exit_code == 1 and "there is nothing to compare; draw with it: rekernel sample" in result.stderr
    result = verify(tmp_path / "sd" / "unet", tmp_path / "sd-2x" / "unet", "--prompt", "a")
    assert "belongs to no pipeline that takes a prompt" in result.stderr


def test_a_denoiser_of_nan_is_no_better_and_its_report_and_json_can_be_read():
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
                                down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    broken = rkt.rescale(net.eval(), 2, (torch.zeros(1, 3, 8, 8), torch.tensor(1)))
    with torch.no_grad():
        broken.mid_block.resnets[0].conv1.weight.fill_(torch.nan)
    found = verify_denoiser(net, broken, (8, 8), scheduler=diffusers.DDIMScheduler(), count=2)
    assert found.grade == "no better" and "first after the layer mid_block.resnets.0.conv1:" in found.verdict
    json.dumps(found.as_dict(), allow_nan=False)
    assert "not finite" in found.to_html()
