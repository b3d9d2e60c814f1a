"""The nodes against `double`, a stand-in with the recorded calls; `test_real` runs them in ComfyUI itself."""

from __future__ import annotations

import doctest
import importlib
import logging

import numpy as np
import pytest
import torch
from comfyui import NODE_CLASS_MAPPINGS
from comfyui.cascade_node import RekernelCascadeStage
from comfyui.guidance_node import RekernelUpsampleGuidance
from comfyui.kernels_node import RekernelSupersampledKernels

from rekernel.diffusion import DiscreteSchedule, guide_denoiser
from rekernel.diffusion.formulas.guided import Window
from rekernel.errors import RekernelError

from .double import CONST, EPS, RECORDED, SD3, Model, Patcher

SIGMAS = EPS().sigmas


class Denoiser:
    """Remembers what it is called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, sigma, **c):
        self.calls.append((tuple(x.shape), sigma.clone(), c))
        s = sigma.reshape(-1, *(1 for _ in x.shape[1:]))
        return torch.tanh(x / (1 + s)) + 0.1 * torch.roll(x, 1, -1) / (1 + s)

    @property
    def sizes(self):
        return [shape[2:] for shape, _, _ in self.calls]


def noisy(seed=0, size=16):
    return torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(seed))


def guided(model, *, scale=2.0, strength=1.0, end=1.0, levels=0, start=0.0, trained=0):
    return RekernelUpsampleGuidance().guide(model, scale, strength, end, levels, start, trained)[0]


def made(sampling=None, config=None):
    denoiser = Denoiser()
    return denoiser, Patcher(Model(denoiser, sampling, config))


def at(sigma, count=2):
    return torch.full((count,), float(sigma))


def test_the_node_is_the_library_s_guided_denoiser():
    denoiser, model = made()
    x = 5 * noisy()
    expected = guide_denoiser(Denoiser(), 2.0, 1.0, 1.0, sigmas=(0.03, 14.6))(x, at(5))
    torch.testing.assert_close(guided(model).evaluate(x, at(5)), expected)
    assert denoiser.sizes == [(16, 16), (8, 8)]
    assert denoiser.calls[1][1].tolist() == pytest.approx([2.5, 2.5])
    assert not model.wrappers
    torch.testing.assert_close(model.evaluate(x, at(5)), Denoiser()(x, at(5)), rtol=0, atol=0)


def test_flow_models_are_scaled_and_told_their_own_time():
    denoiser, model = made(CONST(), SD3())
    t = 0.5
    guided(model).evaluate(noisy(), at(t))
    assert denoiser.calls[1][1].tolist() == pytest.approx([t / (t + 2 * (1 - t))] * 2)


def normal(steps):
    """ComfyUI's normal schedule: the sigmas of evenly spaced times."""
    times = torch.linspace(999, 0, steps)
    logs = SIGMAS.double().log().numpy()
    return torch.tensor([*np.exp(np.interp(times.numpy(), np.arange(1000), logs)), 0.0]).float()


def karras(steps):
    low, high = SIGMAS[0] ** (1 / 7), SIGMAS[-1] ** (1 / 7)
    return torch.cat([(high + torch.linspace(0, 1, steps) * (low - high)) ** 7, torch.zeros(1)])


def passes(model, denoiser, sigmas, visited=None):
    """How many of the evaluations at `visited` are guided."""
    before = len(denoiser.calls)
    visited = sigmas[:-1] if visited is None else visited
    for sigma in visited:
        model.evaluate(noisy(), at(sigma), sigmas)
    return len(denoiser.calls) - before - len(visited)


@pytest.mark.parametrize(("schedule", "count"), [(normal, 12), (karras, 10)])
def test_end_percent_is_the_share_of_the_steps_that_diffusers_guides(schedule, count):
    table = DiscreteSchedule((1 / (1 + SIGMAS.double() ** 2)).numpy())
    sigmas = schedule(20)
    times = table.time(-2 * np.log(sigmas[:-1].double().numpy()))
    assert int((Window(1.0, 0.6).weight(table, times) > 0).sum()) == count
    denoiser, model = made()
    assert passes(guided(model, end=0.6), denoiser, sigmas) == count


def test_a_part_of_a_schedule_counts_in_the_whole():
    denoiser, model = made()
    model, sigmas = guided(model, end=0.6), normal(20)
    assert [passes(model, denoiser, part) for part in (sigmas[:11], sigmas[10:])] == [10, 2]
    assert passes(model, denoiser, normal(40)[-21:]) == 4  # denoise .5: the times below 487, of which 4 are above 400


def test_start_percent_leaves_out_the_first_steps():
    denoiser, model = made()
    assert passes(guided(model, start=0.3, end=0.6), denoiser, normal(20)) == 6


def test_a_pass_between_two_steps_belongs_to_the_noisier_one():
    denoiser, model = made()
    model, sigmas = guided(model, end=0.6), normal(20)
    between = (sigmas[11] * sigmas[12]).sqrt()  # its own time lies beyond the end
    assert (passes(model, denoiser, sigmas, [sigmas[11]]), passes(model, denoiser, sigmas, [sigmas[12]])) == (1, 0)
    assert passes(model, denoiser, sigmas, [between]) == 1
    model.evaluate(noisy(), at(between))  # without sample_sigmas it counts by its own sigma
    assert denoiser.sizes[-1] == (16, 16)
    assert passes(model, denoiser, sigmas, [sigmas[11] * (1 - 1e-6)]) == 1  # rounding of a sampler


def test_a_stage_counts_in_its_own_part():
    denoiser, model = made()
    small = {"samples": noisy(size=8), "noise_mask": torch.ones(1, 64, 64)}
    stage, latent, denoise = RekernelCascadeStage().stage(model, small, 2.0, 2.0, 0.5, 1.0, 0.6, 0, 0.0, 0)
    assert latent["samples"].shape == (2, 4, 16, 16) and latent["noise_mask"] is small["noise_mask"]
    assert denoise == 0.5 and small["samples"].shape == (2, 4, 8, 8)
    low = torch.nn.functional.avg_pool2d(latent["samples"], 2)
    assert (low - small["samples"]).abs().mean() < 0.3 * small["samples"].abs().mean()
    assert passes(stage, denoiser, normal(20)[-11:]) == 6
    video = {"samples": torch.randn(1, 4, 3, 6, 10)}
    assert RekernelCascadeStage().stage(model, video, 1.5, 1.5, 0.4, 1.0, 0.6, 0, 0.0, 0)[1]["samples"].shape == (
        1, 4, 3, 8, 16,
    )  # fmt: skip


def test_four_times_is_nested_and_the_end_ends_it():
    denoiser, model = made()
    model = guided(model, scale=4.0, end=0.5)
    model.evaluate(noisy(), at(14.0))
    model.evaluate(noisy(), at(0.05))
    assert denoiser.sizes == [(16, 16), (8, 8), (4, 4), (16, 16)]


def test_scale_0_is_that_of_the_latent():
    for size, trained, sizes in ((128, 0, [128, 64]), (64, 0, [64]), (96, 512, [96, 64]), (16, 64, [16, 8])):
        denoiser, model = made()
        guided(model, scale=0.0, trained=trained).evaluate(noisy(size=size), at(5))
        assert [rows for rows, _ in denoiser.sizes] == sizes
    denoiser, model = made(config=object())
    with pytest.raises(RekernelError, match=r"the trained size of a object model is not known here; set trained_size"):
        guided(model, scale=0.0).evaluate(noisy(), at(5))
    with pytest.raises(RekernelError, match=r"scale 0.5 would make the picture smaller"):
        guided(model, scale=0.5)
    with pytest.raises(RekernelError, match=r"start_percent 0.7 comes after end_percent 0.6"):
        guided(model, start=0.7, end=0.6)


def test_a_region_is_guided_at_the_scale_of_the_picture():
    denoiser, model = made()
    guided(model, scale=0.0, trained=64).evaluate(noisy(), at(5), rows=slice(0, 8))
    assert denoiser.sizes == [(8, 16), (4, 8)]


def test_what_lies_on_the_grid_is_reduced_and_the_rest_is_not():
    denoiser, model = made()
    concat, text = noisy(1), torch.zeros(2, 77, 8)
    tokens = torch.arange(2 * 64 * 3.0).reshape(2, 64, 3)  # a token for 2x2 pixels, as SD3's ControlNets return
    control = {"input": [torch.ones(2, 3, 8, 8), None], "middle": [torch.ones(2, 3, 4, 4)], "output": [tokens]}
    guided(model).evaluate(noisy(), at(5), c_concat=concat, c_crossattn=text, control=control)
    c = denoiser.calls[1][2]
    torch.testing.assert_close(c["c_concat"], torch.nn.functional.avg_pool2d(concat, 2))
    assert c["c_crossattn"] is text
    assert c["control"]["input"][0].shape == (2, 3, 4, 4)
    assert c["control"]["input"][1] is None
    assert c["control"]["middle"][0].shape == (2, 3, 2, 2)
    assert c["control"]["output"][0][0, 0].tolist() == tokens[0, [0, 1, 8, 9]].mean(0).tolist()


def test_a_function_wrapper_works_in_either_order_and_another_guidance_replaces_ours():
    def other(apply_model, arguments):
        return 0.5 * apply_model(2 * arguments["input"], arguments["timestep"], **arguments["c"])

    x, got = 5 * noisy(), []
    for first in (True, False):
        _, model = made()
        model = model if first else guided(model)
        model.set_model_unet_function_wrapper(other)
        got.append((guided(model) if first else model).evaluate(x, at(5)))
    torch.testing.assert_close(got[0], got[1], rtol=0, atol=0)
    _, model = made()
    torch.testing.assert_close(got[0], 0.5 * guided(model).evaluate(2 * x, at(5)))
    denoiser, model = made()
    guided(guided(model)).evaluate(x, at(5))
    assert len(denoiser.calls) == 2


def test_a_run_says_once_what_it_does(caplog):
    _, model = made()
    caplog.set_level(logging.INFO)
    model, sigmas = guided(model, scale=0.0, end=0.6, trained=64), normal(20)
    for sigma in sigmas[:3]:
        model.evaluate(noisy(), at(sigma), sigmas)
    assert [record.getMessage() for record in caplog.records] == [
        "rekernel: guidance at 2x2 times the trained size (latent 16x16), in 12 of 20 steps"
    ]
    caplog.clear()
    model.evaluate(noisy(size=8), at(5), sigmas.clone())
    assert "no larger than the trained size, so nothing changes" in caplog.text


def unet():
    """The two levels of a Stable Diffusion UNet, as far as rescaled kernels go, with its tensor names."""
    nn = torch.nn
    network = nn.Module()
    conv = nn.ModuleDict({"op": nn.Conv2d(4, 4, 3, 2, 1)})
    network.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(4, 4, 3, 1, 1)]), nn.ModuleList([conv])])
    network.middle_block = nn.ModuleList([nn.Conv2d(4, 4, 3, 1, 1)])
    up = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, 1, 1)})
    network.output_blocks = nn.ModuleList([nn.ModuleList([nn.Identity(), up]), nn.ModuleList([nn.Conv2d(4, 4, 1)])])
    return network.requires_grad_(False)


def test_kernels_are_those_of_the_library_and_only_lent():
    import rekernel.torch as rkt

    torch.manual_seed(0)
    network = unet()

    def run(x, sigma, **c):
        x = network.input_blocks[0][0](x)
        x = network.middle_block[0](network.input_blocks[1][0]["op"](x))
        return network.output_blocks[0][1]["conv"](torch.nn.functional.interpolate(x, scale_factor=2.0))

    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.middle = network.input_blocks[1][0]["op"], network.middle_block[0]
            self.up = network.output_blocks[0][1]["conv"]

        def forward(self, x):
            x = self.middle(self.down(x))
            return self.up(torch.nn.functional.interpolate(x, scale_factor=2.0))

    for method in ("optimal", "dilate"):
        model = Patcher(Model(run, network=network))
        node = RekernelSupersampledKernels()
        (rescaled,) = node.rescale(model, 2.0, method, 0.5, 0.0, 0)
        x = noisy()
        larger = rkt.rescale(Inner(), 2, torch.zeros(1, 4, 8, 8), method=method, form="factored", mode="supersample")
        expected = larger(network.input_blocks[0][0](x))
        torch.testing.assert_close(rescaled.evaluate(x, at(14)), expected)
        plain = model.evaluate(x, at(14))
        assert not torch.allclose(plain, expected, rtol=1e-2)
        torch.testing.assert_close(rescaled.evaluate(x, at(0.1)), plain, rtol=0, atol=0)
        assert all("forward" not in vars(m) and getattr(m, "dilation", (1, 1)) == (1, 1) for m in network.modules())


def test_kernels_name_what_they_cannot_do():
    network = unet()
    node, model = RekernelSupersampledKernels(), Patcher(Model(Denoiser(), network=network))
    with pytest.raises(RekernelError, match=r"needs whole scales, and this pass has 1.5x1.5 times the trained size"):
        node.rescale(model, 1.5, "optimal", 1.0, 0.0, 0)[0].evaluate(noisy(), at(5))
    network.middle_block[0].forward = lambda x: x
    with pytest.raises(RekernelError, match=r"another node has replaced a Conv2d layer"):
        node.rescale(model, 2.0, "optimal", 1.0, 0.0, 0)[0].evaluate(noisy(), at(5))
    assert "forward" not in vars(network.input_blocks[1][0]["op"])
    model = Patcher(Model(Denoiser(), CONST(), SD3(), torch.nn.Linear(2, 2)))
    with pytest.raises(RekernelError, match=r"works on the UNets of Stable Diffusion .* this model is SD3"):
        node.rescale(model, 2.0, "optimal", 1.0, 0.0, 0)[0].evaluate(noisy(), at(0.9))


def test_the_double_makes_the_recorded_calls():
    seen = []
    _, model = made()
    for kind in RECORDED["order"]:
        spy = lambda executor, *args, _kind=kind, **kwargs: seen.append((_kind, len(args))) or executor(*args, **kwargs)  # noqa: E731
        model.add_wrapper_with_key(kind, "spy", spy)
    model.evaluate(noisy(), at(5), normal(20))
    assert seen == list(zip(RECORDED["order"], RECORDED["positional"], strict=True))
    for name, arguments in RECORDED["patcher"].items():
        code = getattr(Patcher, name).__code__
        assert list(code.co_varnames[1 : code.co_argcount]) == arguments
    sigmas = [len(SIGMAS), *(round(float(s), 4) for s in SIGMAS[[0, 499, 999]])]
    assert sigmas == RECORDED["sigmas"]


@pytest.mark.parametrize("module", ["settings", "steps", "model_facts", "sdxl_sizes"])
def test_the_examples_in_the_source_are_true(module):
    assert doctest.testmod(importlib.import_module(f"comfyui.{module}"), optionflags=doctest.ELLIPSIS).failed == 0


def test_nodes_are_in_the_menu_of_model_patches():
    assert {node.CATEGORY for node in NODE_CLASS_MAPPINGS.values()} == {"model_patches/unet"}
