"""The formulas of upsample guidance: identities, agreement of the forms, and a denoiser known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rekernel import RekernelError
from rekernel.diffusion import (
    DiscreteSchedule,
    EDMSchedule,
    FlowSchedule,
    SigmaSchedule,
    Split,
    VPSchedule,
    Window,
    block_split,
    from_x0,
    guided_prediction,
    guided_x0,
    match,
    octaves,
    to_x0,
)
from rekernel.diffusion.formulas.blur_band import FilterSplit

SD15 = DiscreteSchedule(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
ALWAYS = Window(1.0)


def smooth_network(seed: int):
    """Any x0 that depends on the picture and on the time, at every size; the same function for each form."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=2)

    def x0(x, log_snr):
        rolled = np.roll(x, 1, axis=-1) - 0.5 * np.roll(x, 2, axis=-2)
        return np.tanh(a * x + b * rolled) + 0.1 * np.asarray(log_snr)

    return x0


# -- D and U ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    low=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    more=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    reduce=st.sampled_from(("area", "linear", "cubic")),
    enlarge=st.sampled_from(("nearest", "linear", "cubic")),
)
def test_reducing_what_was_enlarged_gives_it_back(low, more, reduce, enlarge):
    split = Split(tuple(a + b for a, b in zip(low, more, strict=True)), low, reduce, enlarge)
    y = np.random.default_rng(0).normal(size=(2, *low))
    np.testing.assert_allclose(split.reduce_grid(split.enlarge_grid(y)), y, atol=1e-9)
    np.testing.assert_allclose(split.reduce_grid(np.ones((1, *split.size))), 1, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, (2, 4)])
def test_whole_factors_are_block_means_and_nearest_enlargement(factor):
    rows, columns = factor if isinstance(factor, tuple) else (factor, factor)
    split = block_split((12, 12), factor)
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pooled = torch.nn.functional.avg_pool2d(x, (rows, columns))
    torch.testing.assert_close(split.reduce_grid(x), pooled)
    again = pooled.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    assert torch.equal(split.enlarge_grid(pooled), again)


@pytest.mark.parametrize(
    ("size", "low", "options"),
    [
        ((32, 32), (16, 16), {}),
        ((33, 48), (16, 32), {}),
        ((32, 32), (16, 16), {"reduce": "cubic"}),
        ((24, 20), (24, 10), {}),
    ],
)
def test_the_gain_is_what_the_reduction_leaves_of_noise(size, low, options):
    split = Split(size, low, **options)
    noise = np.random.default_rng(1).normal(size=(4000, *size))
    assert split.reduce_grid(noise).std() == pytest.approx(split.gain, rel=0.01)
    if not options and size == (32, 32):
        assert split.gain == 0.5


def test_the_gain_of_a_smoothing_split_is_that_of_its_blur():
    split = FilterSplit((48, 48), (2.0, 2.0))
    noise = np.random.default_rng(1).normal(size=(400, 48, 48))
    inside = split.reduce_grid(noise)[:, 12:-12, 12:-12]
    assert inside.std() == pytest.approx(split.gain, rel=0.01)


@pytest.mark.parametrize("method", ["optimal-filter", "linear", "nearest"])
@pytest.mark.parametrize("factor", [2.0, 3.0, 1.5])
def test_a_smoothing_split_blurs_in_place_with_the_border_repeated(method, factor):
    """A picture with one bright column blurs to the kernel around this column, on both sides alike."""
    split = FilterSplit((15, 31), (1.0, factor), method)
    x = np.zeros((2, 15, 31))
    x[1, :, 15] = 1
    blurred = split.reduce_grid(x)
    assert not blurred[0].any() and np.allclose(blurred[1], blurred[1, :, ::-1])
    assert blurred[1].sum(axis=1) == pytest.approx(1) and blurred[1, 0, 15] == pytest.approx(blurred.max())
    assert np.allclose(blurred[1, 0], blurred[1, 7])
    x[1, :, :] = np.arange(31) < 1  # its border column alone
    taps = split.reduce_grid(np.eye(31)[15:16].repeat(15, 0)[None])[0, 0]
    assert split.reduce_grid(x)[1, 0, 0] == pytest.approx(taps[15:].sum())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": float("nan")}, "start=nan must be a number"), ({"stop": float("nan")}, "stop=nan must be a number"),
        ({"start": "1"}, "start='1' must be a number"), ({"theta": True}, "theta=True must be a finite number"),
        ({"theta": float("inf")}, "theta=inf must be a finite number"), ({"eta": 1.1}, "eta=1.1 must be a number"),
        ({"eta": float("nan")}, "eta=nan must be a number"), ({"log_snr": (1, 0)}, "must be two numbers"),
        ({"log_snr": "ab"}, "must be two numbers"), ({"log_snr": (1, 2, 3)}, "must be two numbers"),
    ],
)  # fmt: skip
def test_a_window_says_what_is_wrong_with_it(options, said):
    with pytest.raises(RekernelError, match=said):
        Window(**options)


def test_a_window_and_the_bands_do_not_change_while_they_are_used():
    for value, name in ((Window(), "theta"), (FilterSplit((4,), (2.0,)), "size"), (block_split((8, 8), 2), "size")):
        with pytest.raises(AttributeError):
            setattr(value, name, 0)


def test_a_video_reduces_the_axes_that_are_asked_for():
    x = np.random.default_rng(0).normal(size=(1, 2, 4, 6, 6))
    assert block_split((4, 6, 6), (1, 2, 2)).reduce_grid(x).shape == (1, 2, 4, 3, 3)
    both = block_split((4, 6, 6), (2, 3, 2))
    assert both.gain == pytest.approx(1 / np.sqrt(12))
    with pytest.raises(RekernelError, match="lacks an axis"):
        both.at((6, 6))


# -- the guided prediction -------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(t=st.integers(1, 999), factor=st.sampled_from((2, 4, 1.5)), seed=st.integers(0, 5))
def test_every_form_of_prediction_gives_the_same_guided_image(t, factor, seed):
    size = (12, 12)
    rng = np.random.default_rng(seed)
    image, noise = rng.normal(size=(2, 1, 1, *size))
    x0_of = smooth_network(seed)
    log_snr = float(SD15.log_snr(t))
    split = block_split(size, factor)
    # Below, discrete time ends and so does the match: a network cannot be told a time before 0.
    assume(log_snr - 2 * np.log(split.gain) < SD15.log_snr(0))
    results = {}
    for kind, schedule, time in (
        ("epsilon", SD15, t),
        ("sample", SD15, t),
        ("v_prediction", SD15, t),
        ("score", SigmaSchedule(), np.exp(-log_snr / 2)),
        ("sample", SigmaSchedule(), np.exp(-log_snr / 2)),
        ("edm", EDMSchedule(0.5), -log_snr / 8),
        ("edm_v", EDMSchedule(0.5), -log_snr / 8),
        ("edm_v", EDMSchedule(1.0), -log_snr / 8),
        ("flow", FlowSchedule(), float(FlowSchedule().time(log_snr))),
        ("flow", FlowSchedule(shift=3.0, times=1000.0), float(FlowSchedule(3.0, 1000.0).time(log_snr))),
        ("epsilon", VPSchedule(), float(VPSchedule().time(log_snr))),
    ):
        alpha, sigma = schedule.alpha(schedule.log_snr(time)), schedule.sigma(schedule.log_snr(time))
        x = alpha * image + sigma * noise

        def predict(x, t, level, schedule=schedule, kind=kind):
            snr = schedule.log_snr(t)
            a, s = schedule.alpha(snr), schedule.sigma(snr)
            return from_x0(kind, x, x0_of(x / a, snr), a, s)  # the network sees x0 + noise, whatever the form

        guided = guided_prediction(predict, x, time, [split], schedule=schedule, kind=kind, window=ALWAYS)
        results[kind, repr(schedule)] = to_x0(kind, x, guided, alpha, sigma)
    m = match(SD15, t, split.gain)
    clean = image + np.exp(-log_snr / 2) * noise
    low = x0_of(split.reduce_grid(clean), SD15.log_snr(m.tau))
    expected = guided_x0(x0_of(clean, log_snr), low, 1.0, factor)
    for (kind, name), x0 in results.items():
        np.testing.assert_allclose(x0, expected, atol=1e-6, err_msg=f"{kind} {name}")


def test_at_weight_one_the_reduced_noise_prediction_is_the_low_one_over_m():
    rng = np.random.default_rng(0)
    x, low = rng.normal(size=(1, 1, 8, 8)), rng.normal(size=(1, 1, 4, 4))
    split = block_split((8, 8), 2)
    eps = rng.normal(size=x.shape)
    guided = guided_prediction(
        lambda x, t, level: eps if level else low, x, 500, [split], schedule=SD15, kind="epsilon", window=ALWAYS
    )
    np.testing.assert_allclose(split.reduce_grid(guided), low / 2, atol=1e-12)
    high = guided - split.enlarge_grid(split.reduce_grid(guided))
    np.testing.assert_allclose(high, eps - split.enlarge_grid(split.reduce_grid(eps)), atol=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_one_time_per_sample_is_as_each_by_itself(kind):
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    split = block_split((8, 8), 2)

    def predict(x, t, level):
        t = torch.as_tensor(np.broadcast_to(t, len(x)).copy()).reshape(-1, 1, 1, 1) / 1000
        return torch.tanh(x * (1 + t)) - t

    def guided(x, t):
        return guided_prediction(predict, x, t, [split], schedule=SD15, kind=kind, window=Window(1.0, eta=0.5))

    times = np.array([900, 600, 100])
    alone = torch.cat([guided(x[i : i + 1], times[i]) for i in range(3)])
    torch.testing.assert_close(guided(x, times), alone)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("theta", [0.3, 1.3, -0.5])
def test_the_change_is_proportional_to_theta(kind, theta):
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8))

    def predict(x, t, level):
        return np.tanh(x + level)

    def guided(theta):
        options = {"schedule": SD15, "kind": kind, "window": Window(theta)}
        return guided_prediction(predict, x, 500, [block_split((8, 8), 2)], **options)

    plain = predict(x, 500, 1)
    np.testing.assert_allclose(guided(theta) - plain, theta * (guided(1.0) - plain), atol=1e-12)
    assert np.abs(guided(1.0) - plain).max() > 0.1
    low = x[..., :4, :4]
    np.testing.assert_allclose(guided_x0(x, low, theta, 2) - x, theta * (guided_x0(x, low, 1.0, 2) - x), atol=1e-12)


def test_no_weight_and_no_split_give_the_prediction_itself():
    x = torch.zeros(1, 1, 8, 8)
    own = torch.ones_like(x)
    calls = []

    def predict(x, t, level):
        calls.append(level)
        return own

    for splits, window in (
        ([block_split((8, 8), 2)], Window(0.0)),
        ([], Window(1.0)),
        ([block_split((8, 8), 2)], Window(1.0, eta=0.5)),
    ):
        found = guided_prediction(predict, x, 400, splits, schedule=SD15, kind="epsilon", window=window)
        assert found is own
    assert calls == [1, 0, 1]


def test_nested_levels_see_the_noise_of_one_step():
    """Two steps of 2 give the time and the scale of one step of 4."""
    seen = {}

    def predict(x, t, level):
        seen[level] = (float(np.asarray(t)), x)
        return np.zeros_like(x)

    x = np.random.default_rng(0).normal(size=(1, 1, 16, 16))
    for name, steps in (("nested", ((2, 2), (2, 2))), ("one", ((4, 4),))):
        size, splits = (16, 16), []
        for factor in steps:
            splits.append(block_split(size, factor))
            size = splits[-1].low
        guided_prediction(predict, x, 700, splits[::-1], schedule=SD15, kind="epsilon", window=ALWAYS)
        seen[name] = seen[0]
    assert seen["nested"][0] == pytest.approx(seen["one"][0], abs=1e-9)
    np.testing.assert_allclose(seen["nested"][1], seen["one"][1], atol=1e-12)


# -- against a denoiser that is known exactly ------------------------------------------------------


class GaussianWorld:
    """Pictures with independent Haar coefficients, those of 2x2 blocks' means much stronger: everything is known.

    The reduced picture of this world is white with variance `low`; a network for the small size knows that one alone.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.split = block_split((8, 8), 2)

    def sample(self, rng, n):
        split = self.split
        means = rng.normal(size=(n, 1, 4, 4)) * np.sqrt(self.low)
        detail = rng.normal(size=(n, 1, 8, 8)) * np.sqrt(self.high)
        return split.enlarge_grid(means) + detail - split.enlarge_grid(split.reduce_grid(detail))

    def exact(self, x, alpha, sigma):
        """E[x0 | x] at full size."""
        split = self.split
        reduced = split.reduce_grid(x)
        mean = reduced * alpha * self.low / (alpha**2 * self.low + sigma**2 / 4)
        detail = x - split.enlarge_grid(reduced)
        return split.enlarge_grid(mean) + detail * alpha * self.high / (alpha**2 * self.high + sigma**2)

    def high_only(self, x, alpha, sigma):
        """A network that knows detail, and takes the low band for detail too."""
        return x * alpha * self.high / (alpha**2 * self.high + sigma**2)

    def small(self, x, alpha, sigma):
        """E[x0 | x] at the small size."""
        return x * alpha * self.low / (alpha**2 * self.low + sigma**2)


@pytest.mark.parametrize("t", [100, 300, 500, 700, 900])
def test_with_exact_networks_guidance_is_exact_and_every_wrong_exponent_is_not(t):
    world = GaussianWorld(low=2.0, high=0.3)
    rng = np.random.default_rng(t)
    alpha, sigma = (float(f(SD15.log_snr(t))) for f in (SD15.alpha, SD15.sigma))
    clean = world.sample(rng, 400)
    x = alpha * clean + sigma * rng.normal(size=clean.shape)

    def error(time_exponent, power_exponent, eps_factor):
        """Guided noise prediction, with m^a for the time, m^b for the power and a factor on the low prediction."""
        log_snr = SD15.log_snr(t) + time_exponent * np.log(2)
        low_alpha, low_sigma = SD15.alpha(log_snr), SD15.sigma(log_snr)
        x_low = world.split.reduce_grid(x) / np.sqrt(alpha**2 + sigma**2 / 2.0**power_exponent)
        x0_low = world.small(x_low, low_alpha, low_sigma)
        eps_low = (x_low - low_alpha * x0_low) / low_sigma
        eps = (x - alpha * world.high_only(x, alpha, sigma)) / sigma
        guided = eps + world.split.enlarge_grid(eps_factor * eps_low - world.split.reduce_grid(eps))
        return np.mean(((x - sigma * guided) / alpha - world.exact(x, alpha, sigma)) ** 2)

    assert error(2, 2, 0.5) < 1e-20
    wrong = {
        name: error(*exponents)
        for name, exponents in {
            "tau with m": (1, 2, 0.5), "tau with m^4": (4, 2, 0.5), "no tau": (0, 2, 0.5),
            "P with m": (2, 1, 0.5), "P with m^4": (2, 4, 0.5), "no P": (2, 0, 0.5), "no 1/m": (2, 2, 1.0),
        }.items()
    }  # fmt: skip
    assert min(wrong.values()) > 1e-9, wrong

    def predict(x, time, level):
        snr = SD15.log_snr(time)
        a, s = SD15.alpha(snr), SD15.sigma(snr)
        x0 = world.high_only(x, a, s) if level else world.small(x, a, s)
        return (x - a * x0) / s

    eps = guided_prediction(predict, x, t, [world.split], schedule=SD15, kind="epsilon", window=ALWAYS)
    np.testing.assert_allclose((x - sigma * eps) / alpha, world.exact(x, alpha, sigma), atol=1e-9)


def test_guided_x0_refuses_a_low_image_of_another_size():
    with pytest.raises(RekernelError, match=r"\(3, 3\).*\(4, 4\)"):
        guided_x0(np.zeros((8, 8)), np.zeros((3, 3)), 1.0, 2)


# -- windows and levels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "acting"),
    [
        (Window(1.0, eta=1.0), [0, 400, 999]),
        (Window(1.0, eta=0.6), [400, 999]),
        (Window(1.0, eta=0.0), []),
        (Window(1.0, start=900, stop=300), [400]),
        (Window(1.0, log_snr=(-20, -2)), [999]),
    ],
)
def test_the_window_acts_at_the_noisy_end(window, acting):
    times = [0, 399, 400, 999]
    weights = window.weight(SD15, times)
    assert [t for t, w in zip(times, weights, strict=True) if w and t != 399] == acting


@settings(max_examples=60, deadline=None)
@given(scale=st.tuples(*[st.floats(1, 16)] * 2), levels=st.none() | st.integers(1, 3))
def test_octaves_multiply_to_the_scale_and_have_no_large_step(scale, levels):
    steps = octaves(scale, levels)
    product = np.prod(np.array(steps), axis=0) if steps else np.ones(2)
    np.testing.assert_allclose(product, scale if steps else (1, 1), rtol=1e-12 if steps else 1e-1)
    if levels is None:
        assert all(f <= 2.2 for step in steps for f in step)
    else:
        assert len(steps) <= levels


@pytest.mark.parametrize("bad", [{"theta": float("nan")}, {"eta": 1.2}, {"start": 1, "stop": 2}, {"log_snr": (1, 0)}])
def test_windows_that_cannot_be_are_refused(bad):
    with pytest.raises(RekernelError, match=next(iter(bad))):
        Window(**bad).weight(SD15, 500)
