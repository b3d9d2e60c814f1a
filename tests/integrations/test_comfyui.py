"""The ComfyUI nodes against a small double of the model patcher: its calls are those of comfy/samplers.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "integrations"))

from comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS  # noqa: E402
from comfyui.nodes import RekernelCascadeStage, RekernelUpsampleGuidance  # noqa: E402

from rekernel.diffusion import guide_denoiser  # noqa: E402


class EPS:
    sigma_min, sigma_max = 0.03, 14.6


class CONST:
    sigma_min, sigma_max = 0.0, 1.0


class Patcher:
    """`ModelPatcher` as far as the node and a sampler use it."""

    def __init__(self, denoise, sampling, options=None):
        self.denoise, self.sampling, self.model_options = denoise, sampling, options or {}

    def clone(self):
        return Patcher(self.denoise, self.sampling, dict(self.model_options))

    def get_model_object(self, name):
        assert name == "model_sampling"
        return self.sampling

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def sample_once(self, x, sigma, **c):
        """One call as `calc_cond_batch` makes it."""
        wrapper = self.model_options.get("model_function_wrapper")
        if wrapper is None:
            return self.denoise(x, sigma, **c)
        return wrapper(self.denoise, {"input": x, "timestep": sigma, "c": c, "cond_or_uncond": [0, 1]})


class Denoiser:
    """Remembers what it is called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, sigma, **c):
        self.calls.append((tuple(x.shape), sigma.clone(), c))
        s = sigma.reshape(-1, *(1 for _ in x.shape[1:]))
        return torch.tanh(x / (1 + s)) + 0.1 * torch.roll(x, 1, -1) / (1 + s)


def noisy(seed=0):
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_the_node_is_the_library_s_guided_denoiser():
    denoiser = Denoiser()
    model = Patcher(denoiser, EPS())
    (guided,) = RekernelUpsampleGuidance().guide(model, 2.0, 1.0, 1.0, 0)
    x, sigma = 5 * noisy(), torch.full((2,), 5.0)
    expected = guide_denoiser(Denoiser(), 2.0, 1.0, 1.0, sigmas=(0.03, 14.6))(x, sigma)
    torch.testing.assert_close(guided.sample_once(x, sigma), expected)
    assert [call[0][2:] for call in denoiser.calls] == [(16, 16), (8, 8)]
    assert denoiser.calls[1][1].tolist() == pytest.approx([2.5, 2.5])
    assert "model_function_wrapper" not in model.model_options
    torch.testing.assert_close(model.sample_once(x, sigma), Denoiser()(x, sigma), rtol=0, atol=0)


def test_flow_models_are_scaled_and_told_their_own_time():
    denoiser = Denoiser()
    (guided,) = RekernelUpsampleGuidance().guide(Patcher(denoiser, CONST()), 2.0, 1.0, 1.0, 0)
    t = 0.5
    guided.sample_once(noisy(), torch.full((2,), t))
    assert denoiser.calls[1][1].tolist() == pytest.approx([t / (t + 2 * (1 - t))] * 2)


def test_four_times_is_nested_and_eta_ends_it():
    denoiser = Denoiser()
    (guided,) = RekernelUpsampleGuidance().guide(Patcher(denoiser, EPS()), 4.0, 1.0, 0.5, 0)
    guided.sample_once(noisy(), torch.full((2,), 14.0))
    guided.sample_once(noisy(), torch.full((2,), 0.05))
    assert [call[0][2:] for call in denoiser.calls] == [(16, 16), (8, 8), (4, 4), (16, 16)]


def test_what_lies_on_the_grid_is_reduced_and_the_rest_is_not():
    denoiser = Denoiser()
    (guided,) = RekernelUpsampleGuidance().guide(Patcher(denoiser, EPS()), 2.0, 1.0, 1.0, 0)
    concat, text = noisy(1), torch.zeros(2, 77, 8)
    control = {"input": [torch.ones(2, 3, 8, 8), None], "middle": [torch.ones(2, 3, 4, 4)]}
    guided.sample_once(noisy(), torch.full((2,), 5.0), c_concat=concat, c_crossattn=text, control=control)
    c = denoiser.calls[1][2]
    torch.testing.assert_close(c["c_concat"], torch.nn.functional.avg_pool2d(concat, 2))
    assert c["c_crossattn"] is text
    assert c["control"]["input"][0].shape == (2, 3, 4, 4)
    assert c["control"]["input"][1] is None
    assert c["control"]["middle"][0].shape == (2, 3, 2, 2)


def test_another_wrapper_sees_every_pass():
    seen = []

    def other(apply_model, arguments):
        seen.append(tuple(arguments["input"].shape[2:]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = Patcher(Denoiser(), EPS(), {"model_function_wrapper": other})
    (guided,) = RekernelUpsampleGuidance().guide(model, 2.0, 1.0, 1.0, 0)
    guided.sample_once(noisy(), torch.full((2,), 5.0))
    assert seen == [(16, 16), (8, 8)]


def test_the_node_s_inputs_are_those_of_its_function():
    node = NODE_CLASS_MAPPINGS["RekernelUpsampleGuidance"]
    names = list(node.INPUT_TYPES()["required"])
    code = getattr(node, node.FUNCTION).__code__
    assert names == list(code.co_varnames[1 : code.co_argcount])
    assert NODE_DISPLAY_NAME_MAPPINGS.keys() == NODE_CLASS_MAPPINGS.keys()


class Scheduled(EPS):
    """The part of `ModelSamplingDiscrete` that turns a share of the schedule into sigma."""

    def __init__(self):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        bar = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - bar) / bar) ** 0.5

    def percent_to_sigma(self, percent):
        return float(self.sigmas[round((1 - percent) * 999)])


def test_a_cascade_stage_enlarges_and_guides_the_first_share_of_its_part():
    denoiser, sampling = Denoiser(), Scheduled()
    model, mask = Patcher(denoiser, sampling), torch.ones(1, 64, 64)
    latent = {"samples": noisy()[..., :8, :8], "noise_mask": mask}
    guided, made, denoise = RekernelCascadeStage().stage(model, latent, 2.0, 2.0, 0.5, 1.0, 0.6, 0)
    assert made["samples"].shape == (2, 4, 16, 16) and made["noise_mask"] is mask and denoise == 0.5
    assert latent["samples"].shape == (2, 4, 8, 8) and "model_function_wrapper" not in model.model_options
    low = torch.nn.functional.avg_pool2d(made["samples"], 2)
    assert (low - latent["samples"]).abs().mean() < 0.3 * latent["samples"].abs().mean()
    for t, passes in ((499, 2), (210, 2), (190, 1)):  # .6 of .5: down to .2 of the schedule
        denoiser.calls.clear()
        guided.sample_once(made["samples"], sampling.sigmas[t].float().expand(2))
        assert len(denoiser.calls) == passes
    expected = guide_denoiser(Denoiser(), 4.0, 1.0, 1.0, sigmas=(0.03, 14.6))
    x, sigma = noisy(3), torch.full((2,), 1.5)
    second, _, _ = RekernelCascadeStage().stage(model, latent, 2.0, 4.0, 0.5, 1.0, 1.0, 0)
    torch.testing.assert_close(second.sample_once(x, sigma), expected(x, sigma))
    off, _, _ = RekernelCascadeStage().stage(model, latent, 1.0, 2.0, 0.5, 1.0, 0.0, 0)
    denoiser.calls.clear()
    off.sample_once(x, sigma)
    assert len(denoiser.calls) == 1


def test_a_stage_of_a_video_keeps_its_frames():
    latent = {"samples": torch.randn(1, 4, 3, 6, 10)}
    _, made, _ = RekernelCascadeStage().stage(Patcher(Denoiser(), Scheduled()), latent, 1.5, 1.5, 0.4, 1.0, 0.6, 0)
    assert made["samples"].shape == (1, 4, 3, 8, 16)  # even sizes


def test_the_example_workflow_is_wired_as_its_nodes_say():
    path = ROOT / "integrations" / "comfyui" / "example_workflows" / "guided_cascade.json"
    flow = json.loads(path.read_text())
    nodes = {node["id"]: node for node in flow["nodes"]}
    for number, source, out, target, into, kind in flow["links"]:
        output, given = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        assert number in output["links"] and given["link"] == number and output["type"] == given["type"] == kind
    assert all(given["link"] is not None for node in nodes.values() for given in node["inputs"])
    stages = [node for node in nodes.values() if node["type"] in NODE_CLASS_MAPPINGS]
    assert len(stages) == 2
    for node in stages:
        kind = NODE_CLASS_MAPPINGS[node["type"]]
        declared = kind.INPUT_TYPES()["required"]
        sockets = {name for name, (of, *_) in declared.items() if of in ("MODEL", "LATENT")}
        assert {given["name"] for given in node["inputs"]} == sockets
        assert [out["type"] for out in node["outputs"]] == list(kind.RETURN_TYPES)
        widgets = dict(zip([name for name in declared if name not in sockets], node["widgets_values"], strict=True))
        for name, value in widgets.items():
            assert declared[name][1]["min"] <= value <= declared[name][1]["max"]
        assert hasattr(kind, kind.FUNCTION)
