"""Both layouts of Stable Diffusion: diffusers' names and those of a single file."""

from __future__ import annotations

import re

import pytest

from .test_families import built, plan_of, shapes_of

RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)


OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def original(name, layers, levels):
    """The single-file name of a diffusers UNet's tensor, by block arithmetic."""
    for ours, theirs in OUTSIDE.items():
        if name.startswith(ours + "."):
            return f"model.diffusion_model.{theirs}.{name.removeprefix(ours + '.')}"
    block, part, j, rest = re.fullmatch(r"(\w+?_blocks?(?:\.\d+)?)\.(\w+)\.(\d+)\.(.*)", name).groups()
    j = int(j)
    if part == "resnets":
        for ours, theirs in RESNET:
            rest = re.sub(rf"^{ours}\.", f"{theirs}.", rest)
    if block == "mid_block":
        place = f"middle_block.{1 if part == 'attentions' else 2 * j}"
    elif block.startswith("down_blocks"):
        i = int(block.rpartition(".")[2])
        first = 1 + i * (layers + 1)
        if part == "downsamplers":
            place, rest = f"input_blocks.{first + layers}.0", rest.replace("conv.", "op.")
        else:
            place = f"input_blocks.{first + j}.{int(part == 'attentions')}"
    else:
        i = int(block.rpartition(".")[2])
        if part == "upsamplers":
            attends = i > 0 if levels == 4 else i < 2  # the block at the other end has no attention in front
            place = f"output_blocks.{i * (layers + 1) + layers}.{1 + attends}"
        else:
            place = f"output_blocks.{i * (layers + 1) + j}.{int(part == 'attentions')}"
    return f"model.diffusion_model.{place}.{rest}"


@pytest.mark.parametrize("name", ["SD1.5", "SD2.1", "SDXL"])
def test_both_layouts_of_stable_diffusion_select_corresponding_tensors(name, tmp_path):
    model = built(name)
    shapes = shapes_of(model)
    levels = len(model.config.block_out_channels)
    names = {tensor: original(tensor, 2, levels) for tensor in shapes}
    assert len(set(names.values())) == len(names)
    # diffusers itself reads the derived names back: the mapping above is the public one.
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    back = convert_ldm_unet_checkpoint({new: old for old, new in names.items()}, dict(model.config))
    assert back == {tensor: tensor for tensor in shapes}
    single = {names[tensor]: shape for tensor, shape in shapes.items()}
    single |= {"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3), "alphas_cumprod": (1000,)}
    single |= {"cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768)}
    ours, ours_by_name = plan_of(tmp_path, shapes)
    theirs, theirs_by_name = plan_of(tmp_path, single)
    assert (ours.family, theirs.family) == ("diffusers UNet", "Stable Diffusion single file")
    assert {names[c.name] for c in ours.changed} == {c.name for c in theirs.changed}
    assert len(ours.changed) > 20
    for change in ours.changed:
        other = theirs_by_name[names[change.name]]
        assert (change.new_shape, change.geometry, change.new_geometry, change.operators) == (
            other.new_shape,
            other.geometry,
            other.new_geometry,
            other.operators,
        )
    everything, _ = plan_of(tmp_path, shapes, preset="all")
    theirs_all, _ = plan_of(tmp_path, single, preset="all")
    assert {names[c.name] for c in everything.changed} == {c.name for c in theirs_all.changed}
    assert {c.name for c in everything.changed} - {c.name for c in ours.changed} >= {
        "conv_in.weight",
        "conv_out.weight",
    }
    assert all(ours_by_name[n].kept for n in ("conv_in.weight", "conv_out.weight"))


def test_a_preset_of_a_single_file_covers_the_autoencoder_with_its_own_padding(tmp_path):
    prefix = "first_stage_model."
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.middle_block.0.in_layers.2.weight": (320, 320, 3, 3),
        f"{prefix}encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
        f"{prefix}decoder.up.1.upsample.conv.weight": (128, 128, 3, 3),
    }
    _, changes = plan_of(tmp_path, shapes, preset="vae")
    down = changes[f"{prefix}encoder.down.0.downsample.conv.weight"]
    assert [(g.stride, g.padding) for g in down.geometry] == [(2, (0, 1))] * 2
    assert changes["model.diffusion_model.input_blocks.0.0.weight"].kept
