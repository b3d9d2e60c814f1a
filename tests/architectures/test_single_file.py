"""One random Stable Diffusion in both of its layouts, converted through the command: the same tensors come out.

The names of the single file are made here by block arithmetic; diffusers' own converter reads the results back.
"""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rekernel.plan.recipe import KEY
from rekernel_cli.main import main

from ..numeric import assert_ulps

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

UNET, VAE = "model.diffusion_model.", "first_stage_model."
SMALL = {"sample_size": 16, "norm_num_groups": 4, "cross_attention_dim": 16, "attention_head_dim": 4}
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
LINES = {
    "1.x": SMALL | {"block_out_channels": (8, 16, 16, 16)},
    "2.x": SMALL | {"block_out_channels": (8, 16, 16, 16), "use_linear_projection": True},
    "XL": SMALL | {
        "block_out_channels": (8, 16, 16), "use_linear_projection": True,
        "down_block_types": (PLAIN, CROSS, CROSS), "up_block_types": (CROSS_UP, CROSS_UP, PLAIN_UP),
        "transformer_layers_per_block": (1, 1, 2), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32,
    },
}  # fmt: skip
PARTS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
VAE_PARTS = {
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "group_norm": "norm", "to_q": "q", "to_k": "k",
    "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


def unet_name(name, config):
    """The original name of a diffusers UNet's tensor: two resnets a level going down, three going up."""
    layer, _, leaf = name.rpartition(".")
    if layer in OUTSIDE:
        return f"{UNET}{OUTSIDE[layer]}.{leaf}"
    block, level, part, j, rest = re.fullmatch(r"([a-z]+)_blocks?(?:\.(\d+))?\.(\w+?)\.(\d+)\.(.*)", name).groups()
    level, j = int(level or 0), int(j)
    if part == "resnets":
        inner, _, leaf = rest.rpartition(".")
        rest = f"{PARTS[inner]}.{leaf}"
    attention = int(part == "attentions")
    if block == "mid":
        return f"{UNET}middle_block.{1 if attention else 2 * j}.{rest}"
    if part == "downsamplers":
        return f"{UNET}input_blocks.{3 * (level + 1)}.0.{rest.replace('conv', 'op')}"
    if part == "upsamplers":
        behind_attention = config["up_block_types"][level] == CROSS_UP
        return f"{UNET}output_blocks.{3 * level + 2}.{1 + behind_attention}.{rest}"
    place = f"input_blocks.{3 * level + 1 + j}" if block == "down" else f"output_blocks.{3 * level + j}"
    return f"{UNET}{place}.{attention}.{rest}"


def vae_name(name, levels):
    for ours, theirs in VAE_PARTS.items():
        name = name.replace(ours, theirs)
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    return VAE + name


def run(*args):
    result = CliRunner().invoke(main, ["convert", *map(str, args), "--scale", "2", "--quiet"])
    assert result.exit_code == 0, result.output + result.stderr


def saved(model, folder):
    model.save_pretrained(folder)
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def folder_of(model, tmp_path, name, *options):
    saved(model, tmp_path / name)
    run(tmp_path / name, tmp_path / f"{name}-2x", *options)
    return load_file(tmp_path / f"{name}-2x" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("preset", ["inner", "all"])
@pytest.mark.parametrize("line", LINES)
def test_both_layouts_of_one_unet_give_the_same_tensors(line, preset, tmp_path):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**LINES[line])
    config = dict(unet.config)
    ours = saved(unet, tmp_path / "unet")
    single = {unet_name(name, config): value for name, value in ours.items()}
    assert len(single) == len(ours)
    others = {"cond_stage_model.transformer.x.weight": np.ones((4, 4), np.float16), "alphas_cumprod": np.ones(9, "f4")}
    save_file(single | others, tmp_path / "single.safetensors", metadata={"format": "pt"})

    run(tmp_path / "single.safetensors", tmp_path / "single-2x.safetensors", "--preset", preset)
    theirs = load_file(tmp_path / "single-2x.safetensors")
    expected = folder_of(unet, tmp_path, "unet", "--preset", preset)

    assert theirs.keys() == single.keys() | others.keys()
    assert all(theirs[name].tobytes() == value.tobytes() for name, value in others.items())
    back = convert_ldm_unet_checkpoint({n: torch.from_numpy(v) for n, v in theirs.items() if n not in others}, config)
    assert back.keys() == expected.keys()
    assert all(np.array_equal(back[name].numpy(), value) for name, value in expected.items())
    changed = {name for name, value in expected.items() if value.shape != ours[name].shape}
    assert ("conv_in.weight" in changed) == (preset == "all") and "mid_block.resnets.0.conv1.weight" in changed


def test_the_autoencoder_inside_a_single_file_is_that_of_the_folder(tmp_path):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    vae = diffusers.AutoencoderKL(block_out_channels=[8, 8, 16], norm_num_groups=4, layers_per_block=2, **blocks)
    ours = saved(vae, tmp_path / "vae")
    single = {vae_name(name, 3): value for name, value in ours.items()}
    for name, value in single.items():
        if ".attn_1." in name and name.endswith(("q.weight", "k.weight", "v.weight", "proj_out.weight")):
            single[name] = value[:, :, None, None]  # the original's attention is made of 1x1 convolutions
    single[f"{UNET}input_blocks.0.0.weight"] = np.ones((8, 4, 3, 3), np.float32)
    save_file(single, tmp_path / "single.safetensors")

    run(tmp_path / "single.safetensors", tmp_path / "single-2x.safetensors", "--preset", "vae")
    theirs = load_file(tmp_path / "single-2x.safetensors")
    expected = folder_of(vae, tmp_path, "vae")
    assert theirs.keys() == single.keys()
    vae_of = {n: torch.from_numpy(v) for n, v in theirs.items() if n.startswith(VAE)}
    back = convert_ldm_vae_checkpoint(vae_of, dict(vae.config))
    assert back.keys() == expected.keys()
    assert all(np.array_equal(back[name].numpy(), value) for name, value in expected.items())


def raw(path):
    """Tensors as torch reads them, which knows float8; as bytes, and as numbers."""
    from safetensors.torch import load_file as load_torch

    tensors = load_torch(path)
    return {n: t.reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in tensors.items()}, tensors


def small_single(dtype):
    rng = np.random.default_rng(0)
    shapes = {
        "input_blocks.0.0.weight": (8, 4, 3, 3), "input_blocks.1.0.in_layers.2.weight": (8, 8, 3, 3),
        "input_blocks.3.0.op.weight": (8, 8, 3, 3), "middle_block.0.in_layers.2.weight": (8, 8, 3, 3),
        "output_blocks.2.1.conv.weight": (8, 8, 3, 3), "output_blocks.3.0.in_layers.2.weight": (8, 8, 3, 3),
        "time_embed.0.weight": (8, 8),
    }  # fmt: skip
    return {UNET + name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def test_metadata_of_image_tools_is_kept_and_the_resolution_becomes_the_new_one(tmp_path):
    given = {
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-diffusion-v1-5",
        "modelspec.resolution": "512x768", "modelspec.title": "A title, kept", "format": "pt",
    }  # fmt: skip
    save_file(small_single(np.float16), tmp_path / "in.safetensors", metadata=given)
    run(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata.pop(KEY)
    assert metadata == given | {"modelspec.resolution": "1024x1536"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_and_unselected_bytes_stay_the_same(dtype, tmp_path):
    given = small_single(dtype)
    save_file(given, tmp_path / "in.safetensors")
    run(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        dtypes = {file.get_slice(name).get_dtype() for name in shapes}
    assert shapes.keys() == given.keys() and dtypes == {{2: "F16"}[2] if dtype is np.float16 else "BF16"}
    kept = {n for n in given if shapes[n] == given[n].shape}
    finest = ("input_blocks.0.", "input_blocks.1.", "output_blocks.3.", "time_embed.")
    assert kept == {n for n in given if n.removeprefix(UNET).startswith(finest)}
    theirs = load_file(tmp_path / "out.safetensors")
    assert all(theirs[n].tobytes() == given[n].tobytes() for n in kept)


def test_float8_is_left_alone_unless_selected_and_cast_when_allowed(tmp_path):
    given = small_single(ml_dtypes.float8_e4m3fn)
    middle = f"{UNET}middle_block.0.in_layers.2.weight"
    given[middle] = given[middle].astype(np.float16)
    source = tmp_path / "in.safetensors"
    save_file(given, source)
    refused = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "x.safetensors"), "--scale", "2"])
    assert refused.exit_code == 1 and "F8_E4M3" in refused.stderr and "--allow-cast" in refused.stderr
    run(source, tmp_path / "out.safetensors", "--include", middle)
    data, theirs = raw(tmp_path / "out.safetensors")
    assert theirs[middle].shape == (8, 8, 5, 5)
    assert all(data[n] == given[n].tobytes() for n in given if n != middle)
    run(source, tmp_path / "cast.safetensors", "--allow-cast")
    cast = raw(tmp_path / "cast.safetensors")[1]
    inner = f"{UNET}input_blocks.3.0.op.weight"
    save_file({n: v.astype(np.float32) for n, v in given.items()}, tmp_path / "wide.safetensors")
    run(tmp_path / "wide.safetensors", tmp_path / "wide-2x.safetensors")
    exact = load_file(tmp_path / "wide-2x.safetensors")[inner]
    assert cast[inner].dtype == torch.float8_e4m3fn
    assert_ulps(cast[inner], exact.astype(ml_dtypes.float8_e4m3fn))


def test_averaged_copies_of_the_weights_are_rescaled_like_the_weights(tmp_path):
    given = small_single(np.float32)
    copies = {f"model_ema.{''.join(n.split('.')[1:])}": v for n, v in given.items()}
    save_file(given | copies, tmp_path / "in.safetensors")
    run(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    theirs = load_file(tmp_path / "out.safetensors")
    assert all(np.array_equal(theirs[c], theirs[n]) for c, n in zip(copies, given, strict=True))
    assert theirs["model_ema.diffusion_modelinput_blocks30opweight"].shape == (8, 8, 6, 6)
