"""Every family of diffusers' schedulers, on a denoiser whose right answer is known at both sizes.

Images are Gaussian: blocks of 2 x 2 pixels of a smooth picture, and grain that is independent of it. Then the mean of
the low band given the full noisy image is that given its low band alone, so that guidance by an exact denoiser changes
nothing, if and only if time, power and kind of prediction are right.
"""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

from diffusers.configuration_utils import ConfigMixin, register_to_config  # noqa: E402
from diffusers.models.modeling_utils import ModelMixin  # noqa: E402
from diffusers.models.unets.unet_2d import UNet2DOutput  # noqa: E402

import rekernel as rk  # noqa: E402
from rekernel.diffusion import DiscreteSchedule, FlowSchedule, UpsampleGuidance, to_x0  # noqa: E402
from rekernel.diffusion.denoiser.scheduler_config import schedule_of  # noqa: E402
from rekernel.diffusion.formulas.predictions import slopes  # noqa: E402

SIZE, GRAIN = 16, 0.3


def smooth(n):
    """Covariance of a smooth n x n picture."""
    y, x = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    points = np.stack([y.ravel(), x.ravel()], 1)
    return np.exp(-((points[:, None] - points[None]) ** 2).sum(-1) / 8.0)


class UNetExact(ModelMixin, ConfigMixin):
    """The posterior mean of those images, at the full size and at half of it, as each kind of prediction."""

    @register_to_config
    def __init__(self, kind="epsilon", sample_size=SIZE, in_channels=1, out_channels=1, power=1.0):
        super().__init__()
        self.power, self.table = power, None
        self.dummy = torch.nn.Parameter(torch.zeros(1))
        half = SIZE // 2
        blocks = np.kron(np.eye(half), np.full((1, 2), 0.5))
        down = np.kron(blocks, blocks)  # row by row
        low = smooth(half)
        covariance = {SIZE: GRAIN * np.eye(SIZE**2) + 16 * down.T @ low @ down, half: GRAIN / 4 * np.eye(half**2) + low}
        self.bases = {n: tuple(map(torch.from_numpy, np.linalg.eigh(c * power))) for n, c in covariance.items()}

    def coefficients(self, t):
        if self.config.kind == "flow":
            return 1 - t / 1000, t / 1000
        if self.config.kind.startswith("edm"):
            sigma = math.exp(4 * t)
            scale = 1 / math.sqrt(sigma**2 + 0.25)
            return scale, sigma * scale
        if self.config.kind == "score":
            return 1.0, t
        snr = np.log(self.table) - np.log1p(-self.table)
        ratio = math.exp(np.interp(t, np.arange(len(snr)), snr))
        return math.sqrt(ratio / (1 + ratio)), math.sqrt(1 / (1 + ratio))

    def posterior(self, x, alpha, sigma):
        values, vectors = self.bases[x.shape[-1]]
        flat = x.double().flatten(1) @ vectors
        mean = flat * (alpha * values / (alpha**2 * values + sigma**2)) @ vectors.T
        return mean.reshape(x.shape)

    def forward(self, sample, timestep, return_dict=True):
        t = float(torch.as_tensor(timestep).flatten()[0])
        alpha, sigma = self.coefficients(t)
        x, x0 = sample.double(), self.posterior(sample, alpha, sigma)
        noise = (x - alpha * x0) / sigma
        if self.config.kind.startswith("edm"):  # x is scaled; F from D = c_skip x + c_out F at the unscaled x
            s = sigma / alpha
            c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / math.sqrt(s**2 + 0.25)
            out = (x0 - c_skip * x / alpha) / (c_out if self.config.kind == "edm" else -c_out)
        else:
            out = {
                "epsilon": noise, "sample": x0, "v_prediction": alpha * noise - sigma * x0, "flow": noise - x0,
                "score": -noise / sigma,
            }[self.config.kind]  # fmt: skip
        out = out.to(sample.dtype)
        return UNet2DOutput(out) if return_dict else (out,)


def sampled(net, scheduler, x, steps=5):
    """A sampling loop as pipelines write it."""
    torch.manual_seed(5)
    scheduler.set_timesteps(steps)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    with torch.no_grad():
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(net(given, t).sample, t, x, return_dict=False)[0]
    return x


SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CASES = {
    "DDIM": ("DDIMScheduler", {}),
    "DDIM v": ("DDIMScheduler", {**SD, "prediction_type": "v_prediction"}),
    "DDIM sample": ("DDIMScheduler", {"prediction_type": "sample"}),
    "DDIM zero SNR": (
        "DDIMScheduler",
        {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "DDPM": ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
    "Euler": ("EulerDiscreteScheduler", SD),
    "Euler, fractional times": ("EulerDiscreteScheduler", {**SD, "interpolation_type": "linear"}),
    "Euler v, zero SNR": (
        "EulerDiscreteScheduler",
        {**SD, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", SD),
    "Heun": ("HeunDiscreteScheduler", SD),
    "Heun karras": ("HeunDiscreteScheduler", {**SD, "use_karras_sigmas": True}),
    "KDPM2": ("KDPM2DiscreteScheduler", SD),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", SD),
    "LMS": ("LMSDiscreteScheduler", SD),
    "DPM++": ("DPMSolverMultistepScheduler", SD),
    "DPM++ karras": ("DPMSolverMultistepScheduler", {**SD, "use_karras_sigmas": True}),
    "DPM++ SDE": ("DPMSolverMultistepScheduler", {**SD, "algorithm_type": "sde-dpmsolver++"}),
    "DPM++ sample": ("DPMSolverMultistepScheduler", {**SD, "prediction_type": "sample"}),
    "DPM++ single step": ("DPMSolverSinglestepScheduler", SD),
    "UniPC": ("UniPCMultistepScheduler", SD),
    "UniPC v": ("UniPCMultistepScheduler", {**SD, "prediction_type": "v_prediction"}),
    "DEIS": ("DEISMultistepScheduler", SD),
    "PNDM": ("PNDMScheduler", {**SD, "skip_prk_steps": True}),
    "SA": ("SASolverScheduler", SD),
    "LCM": ("LCMScheduler", SD),
    "TCD": ("TCDScheduler", SD),
    "EDM Euler": ("EDMEulerScheduler", {}),
    "EDM DPM": ("EDMDPMSolverMultistepScheduler", {}),
    "EDM Euler v": ("EDMEulerScheduler", {"prediction_type": "v_prediction"}),
    "EDM DPM v": ("EDMDPMSolverMultistepScheduler", {"prediction_type": "v_prediction"}),
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow Euler shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "flow Heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    "flow UniPC": (
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    ),
}


def made(name):
    kind, config = CASES[name]
    return getattr(diffusers, kind)(**config)


def network(scheduler, power=1.0):
    net = UNetExact(schedule_of(scheduler, UNetExact())[1], power=power)
    if hasattr(scheduler, "alphas_cumprod"):
        net.table = np.clip(scheduler.alphas_cumprod.double().numpy(), 1e-12, 1 - 1e-12)
    return net


@pytest.mark.parametrize("case", CASES)
def test_guidance_by_an_exact_denoiser_changes_nothing(nets, case):
    scheduler = made(case)
    net, x = network(scheduler), nets.noise(2, 1, SIZE, SIZE)
    plain = sampled(net, scheduler, x)
    # The first entries of a table have nothing cleaner to match them with; tau is clamped there.
    stop = None if net.table is None else 10
    with UpsampleGuidance(2, stop=stop).attach(net, scheduler=scheduler):
        guided = sampled(net, made(case), x)
    assert plain.std() > 0.1 and torch.isfinite(plain).all()
    assert (guided - plain).abs().max() < 2e-3 * plain.abs().max()


@pytest.mark.parametrize(
    ("case", "wrong"),
    [
        ("DDIM", {"schedule": FlowSchedule(times=1000.0)}),
        ("DDIM v", {"prediction": "epsilon"}),
        ("DDIM", {"schedule": DiscreteSchedule(np.linspace(0.999, 0.001, 1000))}),
        ("EDM Euler", {"prediction": "sample"}),
        ("EDM Euler v", {"prediction": "edm"}),
        ("EDM Euler v", {"prediction": "v_prediction"}),
        ("flow Euler", {"schedule": FlowSchedule(shift=2.0, times=1000.0)}),
        ("flow Euler", {"prediction": "v_prediction"}),
    ],
)
def test_a_wrong_schedule_or_kind_shows(nets, case, wrong):
    """So that the test above can fail: by 100 times what it allows."""
    scheduler = made(case)
    net, x = network(scheduler), nets.noise(2, 1, SIZE, SIZE)
    plain = sampled(net, scheduler, x)
    with UpsampleGuidance(2, **wrong).attach(net, scheduler=scheduler):
        guided = sampled(net, made(case), x)
    assert not (guided - plain).abs().max() < 0.05 * plain.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_the_network_is_fed_the_noise_that_the_schedule_says(nets, case):
    """Where all images are black, what the network is fed is noise alone, as strong as the schedule says for its time.

    A whole run of the sampler, so that what it rescales, rounds and interpolates is what it is in use.
    """
    scheduler = made(case)
    kind = schedule_of(scheduler, UNetExact())[1]
    net, fed = network(scheduler, power=1e-9), []
    net.register_forward_pre_hook(lambda _m, args: fed.append((float(args[1]), args[0].std().item())))
    x = nets.noise(4, 1, SIZE, SIZE)
    sampled(net, scheduler, x / x.std(), steps=8)
    schedule, _ = schedule_of(scheduler, UNetExact())
    strong = [(t, found) for t, found in fed if 0.2 < schedule.sigma(schedule.log_snr(t)) < 0.995]
    assert len(strong) >= 3
    for t, found in strong:
        wanted = float(schedule.sigma(schedule.log_snr(t)))
        # Samplers that choose sigmas round their times to whole ones; some draw fresh noise in every step.
        assert found == pytest.approx(wanted, rel=0.05 if kind in ("epsilon", "sample") else 0.02), t


def test_variance_exploding_score_model(nets):
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
    net, x = UNetExact("score"), nets.noise(2, 1, SIZE, SIZE)
    for sigma in (20.0, 1.0, 0.1):
        with torch.no_grad():
            plain = net(x * sigma, torch.full((2,), sigma)).sample
            with UpsampleGuidance(2).attach(net, scheduler=scheduler):
                guided = net(x * sigma, torch.full((2,), sigma)).sample
        assert torch.allclose(guided, plain, rtol=1e-3, atol=1e-4 / sigma)


def test_in_a_pipeline_of_diffusers(nets):
    """DDIMPipeline itself, from noise to pictures; and four times the size, nested."""
    scheduler = diffusers.DDIMScheduler()
    net = network(scheduler)
    pipe = diffusers.DDIMPipeline(net, scheduler)
    pipe.set_progress_bar_config(disable=True)

    def pictures():
        generator = torch.Generator().manual_seed(0)
        return pipe(batch_size=2, num_inference_steps=4, output_type="np", generator=generator).images

    plain = pictures()
    with UpsampleGuidance(2).attach(pipe) as guidance:
        assert "DDIMPipeline, epsilon, DiscreteSchedule(1000 timesteps)" in repr(guidance)
        guided = pictures()
    assert np.abs(guided - plain).max() < 1e-3 and plain.std() > 0.05


def test_an_exchanged_scheduler_is_followed(nets):
    pipe = diffusers.DDIMPipeline(network(diffusers.DDIMScheduler()), diffusers.DDIMScheduler())
    with UpsampleGuidance(2).attach(pipe) as guidance:
        pipe.scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")
        assert "v_prediction" in repr(guidance)
        pipe.scheduler = diffusers.SCMScheduler()
        assert "SCMScheduler" in repr(guidance)  # says so instead of failing
        with pytest.raises(rk.RekernelError, match="SCMScheduler"):
            pipe.unet(nets.noise(1, 1, SIZE, SIZE), 500)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("SCMScheduler", {}), ("IPNDMScheduler", {}), ("CMStochasticIterativeScheduler", {}),
        ("DDPMWuerstchenScheduler", {}), ("LTXEulerAncestralRFScheduler", {}),
        ("EDMDPMSolverMultistepScheduler", {"prediction_type": "sample"}),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_at_once_in_one_line(nets, name, config):
    with pytest.raises(rk.RekernelError, match=rf"{name}.*pass schedule=.*prediction=") as found:
        UpsampleGuidance(2).attach(nets.unet, scheduler=getattr(diffusers, name)(**config))
    assert "\n" not in str(found.value)
    assert "forward" not in vars(nets.unet) and "_diffusers_hook" not in vars(nets.unet)


@pytest.mark.parametrize("sigma", [80.0, 2.0, 0.5, 0.05])
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_image_that_an_edm_scheduler_reads(nets, name, prediction_type, sigma):
    """The oracle is diffusers' own: what its scheduler makes of the network's output is what guidance takes it for."""
    scheduler = getattr(diffusers, name)(prediction_type=prediction_type, sigma_data=0.7)
    schedule, kind = schedule_of(scheduler)
    noisy, output = nets.noise(1, 1, 4, 4).double() * sigma, nets.noise(1, 1, 4, 4, seed=1).double()
    fed = scheduler.precondition_inputs(noisy, torch.tensor(sigma))
    snr = schedule.log_snr(scheduler.precondition_noise(torch.tensor(sigma)).item())
    found = to_x0(kind, fed, output, float(schedule.alpha(snr)), float(schedule.sigma(snr)))
    assert torch.allclose(found, scheduler.precondition_outputs(noisy, output, sigma), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["flow_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_the_image_that_a_scheduler_of_flow_sigmas_reads(nets, name, prediction_type):
    """Its sigmas are those of rectified flow; what the network predicts is another matter."""
    scheduler = getattr(diffusers, name)(prediction_type=prediction_type, use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[2]
    scheduler._init_step_index(t)
    x, output = nets.noise(1, 1, 4, 4), nets.noise(1, 1, 4, 4, seed=1)
    schedule, kind = schedule_of(scheduler, nets.unet)
    snr = schedule.log_snr(float(t))
    found = to_x0(kind, x, output, float(schedule.alpha(snr)), float(schedule.sigma(snr)))
    assert torch.allclose(found, scheduler.convert_model_output(output, sample=x), rtol=0.01, atol=0.01)


def test_v_of_edm_with_unit_data_is_v():
    alpha, sigma = 0.8, 0.6
    assert slopes("edm_v", alpha, sigma) == pytest.approx(slopes("v_prediction", alpha, sigma))


def test_a_denoiser_alone_needs_a_scheduler(nets):
    with pytest.raises(rk.RekernelError, match=r"needs scheduler=, or schedule= and prediction="):
        UpsampleGuidance(2).attach(nets.unet)
    with UpsampleGuidance(2, schedule=DiscreteSchedule(np.linspace(0.99, 0.01, 9)), prediction="epsilon").attach(
        nets.unet
    ):
        nets.call(nets.unet, t=4)


def test_flow_of_a_network_whose_times_are_not_known_is_refused(nets):
    class Transformer(torch.nn.Module):
        def forward(self, hidden_states, timestep):
            return hidden_states

    with pytest.raises(
        rk.RekernelError, match=r"Transformer: rekernel does not know whether its times go up to 1 or to 1000"
    ):
        UpsampleGuidance(2).attach(Transformer(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    backwards = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)  # as Mochi has it: time 0 is noise
    with pytest.raises(rk.RekernelError, match=r"which end is noise; pass schedule=FlowSchedule\(times=1000\), pred"):
        UpsampleGuidance(2).attach(nets.unet, scheduler=backwards)
