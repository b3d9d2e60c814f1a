"""Pipelines with a rescaled network in them, saved by diffusers and opened by `load_pipeline`."""

from __future__ import annotations

import json

import pytest
import torch

import rekernel.torch as rkt
from rekernel import RekernelError
from rekernel.diffusion import load_pipeline

diffusers = pytest.importorskip("diffusers")


def pipeline(sample_size: int | None) -> object:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=sample_size, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8),
        norm_num_groups=2, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    return diffusers.DDIMPipeline(unet.eval(), diffusers.DDIMScheduler())


@pytest.fixture(scope="module", params=[8, None])
def swapped(request):
    pipe = pipeline(request.param)
    pipe.unet = rkt.rescale(pipe.unet, 2, {"sample": torch.zeros(1, 1, 8, 8), "timestep": torch.tensor(1)})
    return pipe


def answer(pipe):
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return pipe.unet(x, 1).sample


@pytest.mark.parametrize("options", [{}, {"variant": "fp16"}, {"max_shard_size": 8000}], ids=str)
def test_a_pipeline_with_a_rescaled_unet_opens_again_and_again(swapped, options, tmp_path):
    swapped.save_pretrained(tmp_path / "once", **options)
    once = load_pipeline(tmp_path / "once")
    once.save_pretrained(tmp_path / "twice")
    twice = load_pipeline(tmp_path / "twice")
    new = None if swapped.unet.config.sample_size is None else 16
    for loaded in (once, twice):
        assert torch.equal(answer(loaded), answer(swapped)) and loaded.unet.config.sample_size == new
        assert loaded.rekernel.rescaled == {"unet": 2.0} and "weights of unet rescaled by 2" in repr(loaded)
    trained = json.loads((tmp_path / "twice" / "unet" / "config.json").read_text())["_rekernel"].get("sample_size")
    assert trained == swapped.unet.config.sample_size
    assert torch.equal(answer(load_pipeline(tmp_path / "once", unet=twice.unet)), answer(swapped))


def test_pickled_weights_say_what_to_do(swapped, tmp_path):
    swapped.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(RekernelError, match="not in safetensors; save the pipeline again with safe_serialization=True"):
        load_pipeline(tmp_path)
