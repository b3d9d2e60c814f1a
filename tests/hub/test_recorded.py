"""A pipeline whose folder records how it is sampled: pushed with its weights as they are, and loaded as recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import card
from .test_round_trip import UNET, ok, pasted, saved

MADE = """
from diffusers import DDPMPipeline, DDPMScheduler
DDPMPipeline(model, DDPMScheduler()).save_pretrained('source')
"""
PIPELINE = UNET.replace('model.save_pretrained("source")', MADE)


def recorded(hub, rekernel, name, tmp_path, guidance):
    """A pipeline of the hub's in `source`, converted to `out`."""
    ok(rekernel(python=PIPELINE))
    (tmp_path / "source" / "README.md").write_bytes(card(license="mit"))
    ok(rekernel("convert", "source", "out", "--scale", 2, "--guidance", guidance))


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["none", "switched"])
def test_recorded_guidance_is_pushed_and_samples_larger(hub, rekernel, name, tmp_path, kernels):
    recorded(hub, rekernel, name, tmp_path, f"theta=1,eta=1,kernels={kernels}")
    repo = f"me/{name}"
    report = rekernel("push", "out", repo, "--base-model", "org/some", "--json").json
    there = hub.repos[repo].head.files
    source = saved(tmp_path / "source")
    assert set(there) == {*source, ".gitattributes"}
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert there[weights].data == source[weights]
    assert {path for path, data in source.items() if there[path].data != data} == {"unet/config.json", "README.md"}
    lent = " and rescaled kernels, lent to the network while it samples" if kernels == "switched" else ""
    assert hub.repos[repo].head.message == f"Record upsample guidance{lent}, at 2x, for org/some"
    text = report["card"]
    assert "license: mit" in text and "library_name: diffusers" in text and "base_model: org/some" in text
    assert f"to be sampled at 2 times its trained size: its folder records upsample guidance{lent}. Nothing" in text
    assert "| unet: sampled at | 2 times the trained size, 16 to 32 on the denoiser's grid |" in text
    assert "| unet: upsample guidance | theta=1, eta=1 |" in text
    assert ("| unet: lent kernels | layers=inner, method=optimal |" in text) == (kernels == "switched")
    said = ok(rekernel(python=pasted(hub, repo) + f"""
pipe.set_progress_bar_config(disable=True)
print(pipe.rekernel.guidance, pipe.rekernel.kernels is None, pipe(num_inference_steps=1, output_type="np").images.shape)
from diffusers import DiffusionPipeline
plain = DiffusionPipeline.from_pretrained("{repo}")  # what the Hub shows beside the card
plain.set_progress_bar_config(disable=True)
print(plain(num_inference_steps=1, output_type="np").images.shape)
"""))  # fmt: skip
    larger, plain = said.strip().splitlines()[-2:]
    assert larger.startswith("UpsampleGuidance(") and larger.endswith(f"{kernels == 'none'} (1, 32, 32, 3)")
    assert plain == "(1, 16, 16, 3)"


@pytest.mark.slow
def test_the_card_of_a_pipeline_with_code_of_its_own_says_that_it_runs(hub, rekernel, name):
    glyphs = Path(__file__).parents[2] / "examples" / "glyph_diffusion"
    ok(rekernel("convert", glyphs, "out", "--scale", 2, "--guidance", "kernels=none"))
    ok(rekernel("push", "out", f"me/{name}", "--base-model", "org/glyphs"))
    lines = pasted(hub, f"me/{name}")
    assert "trust_remote_code=True)  # runs the Python in the repository" in lines
    said = ok(rekernel(python=lines + """
pipe.set_progress_bar_config(disable=True)
print(pipe([3], num_inference_steps=1, output_type="np").images.shape)
"""))  # fmt: skip
    assert said.endswith("(1, 32, 32, 1)\n")


@pytest.mark.slow
def test_rescaled_weights_that_diffusers_saved_again_are_pushed_with_the_plan_of_the_config(
    hub, rekernel, name, tmp_path
):
    ok(rekernel(python=PIPELINE))
    ok(rekernel("convert", "source", "wide", "--scale", 2, "--preset", "all"))
    again = "from rekernel.diffusion import load_pipeline\nload_pipeline('wide').save_pretrained('out')\n"
    ok(rekernel(python=again))
    repo = f"me/{name}"
    text = rekernel("push", "out", repo, "--json").json["card"]
    assert "library_name: rekernel" in text and "with its weights rescaled by 2" in text
    said = ok(rekernel(python=pasted(hub, repo) + """
pipe.set_progress_bar_config(disable=True)
print(pipe.unet.conv_in.kernel_size, pipe(num_inference_steps=1, output_type="np").images.shape)
"""))  # fmt: skip
    assert said.endswith("(5, 5) (1, 32, 32, 3)\n")


def test_a_record_that_cannot_be_read_is_not_published_and_none_is_no_conversion(rekernel, tmp_path):
    unet = tmp_path / "pipe" / "unet"
    unet.mkdir(parents=True)
    (tmp_path / "pipe" / "model_index.json").write_text(
        json.dumps({"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]})
    )
    config = {"_class_name": "UNet2DModel", "sample_size": 16}
    (unet / "config.json").write_text(json.dumps(config))
    assert "holds no recipe, so rekernel did not convert it" in rekernel("push", "pipe", "me/model", "--dry-run").line
    (unet / "config.json").write_text(json.dumps(config | {"_rekernel": {"version": 99}}))
    assert "is not of version 1" in rekernel("push", "pipe", "me/model", "--dry-run").line
    entry = {"version": 1, "scale": 2, "sample_size": 16, "guidance": {"theta": 1.0}}
    (unet / "config.json").write_text(json.dumps(config | {"_rekernel": entry | {"guidance": {"nothing": 1}}}))
    assert "no option nothing" in rekernel("push", "pipe", "me/model", "--dry-run").line
    (unet / "config.json").write_text(json.dumps(config | {"_rekernel": entry}))
    assert rekernel("push", "pipe", "me/model", "--dry-run").code == 0
