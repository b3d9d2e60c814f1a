"""Every family of schedulers, started late: the noise of the start, and none left at the end."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
np = pytest.importorskip("numpy")

import rekernel as rk  # noqa: E402
from rekernel.diffusion import GuidedCascade  # noqa: E402

from ..test_schedulers import CASES, made, network  # noqa: E402

TWICE = {"Heun", "Heun karras", "KDPM2", "KDPM2 ancestral", "flow Heun"}


def black(case):
    """A network that knows that all images are black, as if it had been trained at 8x8."""
    scheduler = made(case)
    net = network(scheduler, power=1e-9)
    net.register_to_config(sample_size=8)
    return net, scheduler


@pytest.mark.parametrize("case", CASES)
def test_no_noise_is_left_at_the_end_and_no_step_is_left_out(case):
    """All images are black, so whatever is left at the end is noise that the steps did not remove."""
    net, scheduler = black(case)
    cascade = GuidedCascade(net, [8, 16], scheduler=scheduler, guidance=False, strength=0.5)
    generator = torch.Generator().manual_seed(0)
    whole = cascade.pipe(4, 10, generator, height=16, width=16)[0]
    (found,) = cascade(4, 10, generator)
    assert found.shape == (4, 1, 16, 16)
    assert found.std() <= 1.5 * whole.std() + 1e-5
    small, large = (19, 9) if case in TWICE else (11, 6) if case == "PNDM" else (10, 5)
    assert cascade.passes == pytest.approx(small / 4 + large)


@pytest.mark.parametrize("case", CASES)
def test_the_start_has_the_noise_of_its_first_time_in_every_band(nets, case):
    """The picture is black, so the first image that the network sees at the new size is noise: white, and as strong
    as the network expects it for the time that it is told."""
    net, scheduler = black(case)
    seen = []
    net.register_forward_pre_hook(lambda _m, args: seen.append((args[0].clone(), float(args[1]))))
    cascade = GuidedCascade(net, [8, 16], scheduler=scheduler, guidance=False, strength=0.5)
    value = 0.5 if net.config.kind != "score" else 0.0
    cascade(64, 10, torch.Generator().manual_seed(1), start=torch.full((64, 1, 8, 8), value))
    first, time = seen[0]
    assert first.shape == (64, 1, 16, 16)
    _, sigma = net.coefficients(time)
    power = np.abs(np.fft.fft2(first.double().numpy(), norm="ortho")).mean((0, 1))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16)))
    for least, most in ((0.0, 0.125), (0.125, 0.25), (0.25, 0.375), (0.375, 0.8)):
        band = (least <= frequency) & (frequency < most)
        mean = (power[band] ** 2).mean() * 4 / np.pi  # of a Rayleigh distribution: mean^2 = pi/4 power
        assert mean == pytest.approx(sigma**2, rel=0.12), (least, most)


def test_a_band_that_enlarging_leaves_empty_is_filled_with_noise_alone(nets):
    """Below the trained Nyquist frequency the start is picture and noise; above, where bicubic enlargement leaves
    next to nothing, it has the power of the noise."""
    net, scheduler = black("DDIM")
    seen = []
    net.register_forward_pre_hook(lambda _m, args: seen.append((args[0].clone(), float(args[1]))))
    picture = nets.noise(256, 1, 8, 8) * 0.1 + 0.5
    GuidedCascade(net, [8, 16], scheduler=scheduler, guidance=False, strength=0.3)(
        256, 10, torch.Generator().manual_seed(1), start=picture
    )
    first, time = seen[0]
    alpha, sigma = net.coefficients(time)
    power = (np.abs(np.fft.fft2(first.double().numpy(), norm="ortho")) ** 2).mean((0, 1))
    across = np.abs(np.fft.fftfreq(16))
    high, low = across > 0.4, (across > 0) & (across < 0.1)
    assert power[np.ix_(high, high)].mean() == pytest.approx(sigma**2, rel=0.05)
    assert power[np.ix_(low, low)].mean() == pytest.approx(sigma**2 + (alpha * 0.2) ** 2 * 4, rel=0.15)


@pytest.mark.parametrize("strength", [0.05, 0.09])
def test_a_strength_that_leaves_no_step(nets, strength):
    net, scheduler = black("DDIM")
    cascade = GuidedCascade(net, [8, 16], scheduler=scheduler, strength=strength)
    with pytest.raises(rk.RekernelError, match=rf"strength={strength} of 10 steps leaves no step; raise the strength"):
        cascade(1, 10)


def test_a_scheduler_whose_first_steps_follow_another_rule():
    net, _ = black("DDIM")
    cascade = GuidedCascade(net, [8, 16], scheduler=diffusers.PNDMScheduler())
    with pytest.raises(rk.RekernelError, match="skip_prk_steps=True"):
        cascade(1, 20)


def test_a_scheduler_that_adds_no_noise(nets):
    net = nets.unconditioned(in_channels=1, out_channels=1)

    class Bare(diffusers.DDIMScheduler):
        add_noise = None

    with pytest.raises(rk.RekernelError, match=r"Bare has neither add_noise\(\) nor scale_noise\(\)"):
        GuidedCascade(net, [8, 16], scheduler=Bare())(1, 4)
