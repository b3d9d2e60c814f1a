"""Adapters through the command: what the rescaled file adds is the rescaled model's share of what the file added.

The oracle multiplies each adapter out to its difference and converts that as the model's own weight.
"""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from rekernel import inspect, plan_checkpoint
from rekernel.architectures.lora import base_layer
from rekernel_cli.main import main

DIFFUSERS = {
    "conv_in": (8, 4), "down_blocks.0.resnets.0.conv1": (8, 8), "down_blocks.0.downsamplers.0.conv": (8, 8),
    "down_blocks.1.resnets.0.conv2": (16, 8), "mid_block.resnets.1.conv1": (16, 16),
    "up_blocks.0.upsamplers.0.conv": (16, 16), "up_blocks.1.resnets.2.conv1": (8, 24),
}  # fmt: skip
ORIGINAL = {
    "input_blocks.0.0": (8, 4), "input_blocks.1.0.in_layers.2": (8, 8), "input_blocks.3.0.op": (8, 8),
    "input_blocks.4.0.out_layers.3": (16, 8), "middle_block.2.in_layers.2": (16, 16),
    "output_blocks.2.1.conv": (16, 16), "output_blocks.5.0.in_layers.2": (8, 24),
}  # fmt: skip
POINTWISE, LINEAR = "conv_shortcut", "attn1.to_q"
RANK = 3


def run(*args):
    return CliRunner().invoke(main, ["convert", *map(str, args), "--scale", "2"])


def converted(tensors, tmp_path, name, *options):
    source, target = tmp_path / f"{name}.safetensors", tmp_path / f"{name}-2x.safetensors"
    save_file({n: np.asarray(t, order="C") for n, t in tensors.items()}, source)
    result = run(source, target, *options)
    assert result.exit_code == 0, result.output + result.stderr
    return load_file(target)


def base_of(layers, deltas):
    """A model whose weights are the differences, with what else tells its family."""
    if "conv_in" in layers:
        more = {"time_embedding.linear_1.weight": np.ones((8, 8), np.float32)}
        return {f"{n}.weight": d for n, d in deltas.items()} | more
    return {f"model.diffusion_model.{n}.weight": d for n, d in deltas.items()}


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


# Each kind: its tensors for one layer, and the difference they make. All are the definitions of their authors.


def lora(rng, o, i):
    parts = {"lora_down.weight": normal(rng, RANK, i, 3, 3), "lora_up.weight": normal(rng, o, RANK, 1, 1)}
    return parts, lora_delta


def lora_delta(p):
    return np.einsum("or,rihw->oihw", p["lora_up.weight"][:, :, 0, 0], p["lora_down.weight"])


def swapped(rng, o, i):
    """The kernel in the factor on the output's side."""
    parts = {"lora_down.weight": normal(rng, RANK, i, 1, 1), "lora_up.weight": normal(rng, o, RANK, 3, 3)}
    return parts, lambda p: np.einsum("orhw,ri->oihw", p["lora_up.weight"], p["lora_down.weight"][:, :, 0, 0])


def tucker(rng, o, i):
    parts = {
        "lora_down.weight": normal(rng, RANK, i, 1, 1), "lora_mid.weight": normal(rng, RANK, RANK, 3, 3),
        "lora_up.weight": normal(rng, o, RANK, 1, 1),
    }  # fmt: skip
    return parts, lambda p: np.einsum(
        "or,rshw,si->oihw", p["lora_up.weight"][..., 0, 0], p["lora_mid.weight"], p["lora_down.weight"][..., 0, 0]
    )


def kron(w1, w2):
    return np.einsum("ab,cdhw->acbdhw", w1, w2).reshape(w1.shape[0] * w2.shape[0], -1, *w2.shape[2:])


def lokr(rng, o, i):
    parts = {"lokr_w1": normal(rng, 2, 2), "lokr_w2": normal(rng, o // 2, i // 2, 3, 3)}
    return parts, lambda p: kron(p["lokr_w1"], p["lokr_w2"])


def lokr_flat(rng, o, i):
    parts = {"lokr_w1": normal(rng, 2, 2), "lokr_w2_a": normal(rng, o // 2, RANK)}
    parts["lokr_w2_b"] = normal(rng, RANK, i // 2 * 9)

    def delta(p):
        w2 = p["lokr_w2_a"] @ p["lokr_w2_b"]
        side = round((w2.shape[1] // (i // 2)) ** 0.5)
        return kron(p["lokr_w1"], w2.reshape(o // 2, i // 2, side, side))

    return parts, delta


def lokr_tucker(rng, o, i):
    parts = {
        "lokr_w1_a": normal(rng, 2, 1), "lokr_w1_b": normal(rng, 1, 2), "lokr_t2": normal(rng, RANK, RANK, 3, 3),
        "lokr_w2_a": normal(rng, RANK, o // 2), "lokr_w2_b": normal(rng, RANK, i // 2),
    }  # fmt: skip
    return parts, lambda p: kron(
        p["lokr_w1_a"] @ p["lokr_w1_b"],
        np.einsum("rshw,ro,si->oihw", p["lokr_t2"], p["lokr_w2_a"], p["lokr_w2_b"]),
    )


def whole(rng, o, i):
    return {"diff": normal(rng, o, i, 3, 3), "diff_b": normal(rng, o)}, lambda p: p["diff"]


KINDS = (lora, swapped, tucker, lokr, lokr_flat, lokr_tucker, whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [DIFFUSERS, ORIGINAL], ids=["diffusers", "original"])
@pytest.mark.parametrize("preset", ["inner", "all"])
def test_the_rescaled_adapter_makes_the_rescaled_difference(kind, layers, preset, tmp_path):
    rng = np.random.default_rng(0)
    file, deltas, made = {}, {}, {}
    for layer, (o, i) in layers.items():
        parts, delta = kind(rng, o, i)
        name = "lora_unet_" + layer.replace(".", "_")
        file |= {f"{name}.{part}": value for part, value in parts.items()}
        file[f"{name}.alpha"] = np.float32(2).reshape(())
        deltas[layer], made[layer] = delta(parts), delta
    theirs = converted(file, tmp_path, "adapter", "--preset", preset)
    model = converted(base_of(layers, deltas), tmp_path, "model", "--preset", preset)
    assert theirs.keys() == file.keys()
    prefix = "" if "conv_in" in layers else "model.diffusion_model."
    grown = 0
    for layer in layers:
        name = "lora_unet_" + layer.replace(".", "_")
        parts = {n.removeprefix(f"{name}."): t for n, t in theirs.items() if n.startswith(f"{name}.")}
        expected = model[f"{prefix}{layer}.weight"]
        assert np.allclose(made[layer](parts), expected, rtol=1e-4, atol=1e-4)
        assert parts["alpha"] == 2
        grown += expected.shape[-1] > 3
        spatial = [n for n, t in parts.items() if t.shape != file[f"{name}.{n}"].shape]
        assert len(spatial) == (expected.shape[-1] > 3)
    assert grown == (4 if preset == "inner" else 7)


PEFT = ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight")
NAMED = ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight")
PIPELINE = ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight")
OLD = ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight")


@pytest.mark.parametrize("names", [PEFT, NAMED, PIPELINE, OLD])
def test_the_names_of_peft_and_diffusers_select_the_layers_that_kohyas_do(names, tmp_path):
    rng = np.random.default_rng(1)
    file, kohya = {}, {}
    for layer, (o, i) in DIFFUSERS.items():
        down, up = normal(rng, RANK, i, 3, 3), normal(rng, o, RANK, 1, 1)
        file |= {names[0].format(layer): down, names[1].format(layer): up}
        flat = "lora_unet_" + layer.replace(".", "_")
        kohya |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
    theirs, ours = converted(file, tmp_path, "peft"), converted(kohya, tmp_path, "kohya")
    for layer in DIFFUSERS:
        flat = "lora_unet_" + layer.replace(".", "_")
        assert np.array_equal(theirs[names[0].format(layer)], ours[f"{flat}.lora_down.weight"])
        assert np.array_equal(theirs[names[1].format(layer)], ours[f"{flat}.lora_up.weight"])


def test_a_downsamplers_adapter_has_the_stride_and_half_pixel_of_its_layer(tmp_path):
    file = {
        "lora_unet_down_blocks_0_downsamplers_0_conv.lora_down.weight": np.ones((RANK, 8, 3, 3), np.float32),
        "lora_unet_down_blocks_0_downsamplers_0_conv.lora_up.weight": np.ones((8, RANK, 1, 1), np.float32),
    }
    save_file(file, tmp_path / "in.safetensors")
    [change] = plan_checkpoint(tmp_path / "in.safetensors", scale=2, taps=5).changed
    assert change.geometry[0].stride == change.new_geometry[0].stride == 2
    assert change.operators[0].phase == 0.5


def test_linear_and_pointwise_parts_keep_every_byte(tmp_path):
    rng = np.random.default_rng(2)
    file = {}
    for layer, tail in (("mid_block_attentions_0_transformer_blocks_0_attn1_to_q", ()),
                        ("mid_block_attentions_0_proj_in", (1, 1)), ("te_x_mlp_fc1", ())):  # fmt: skip
        name = f"lora_unet_{layer}" if not layer.startswith("te") else f"lora_{layer}"
        file[f"{name}.lora_down.weight"] = normal(rng, RANK, 8, *tail)
        file[f"{name}.lora_up.weight"] = normal(rng, 8, RANK, *tail)
        file[f"{name}.dora_scale"] = normal(rng, 1, 8)
    file["lora_unet_mid_block_resnets_0_conv1.lora_down.weight"] = normal(rng, RANK, 8, 3, 3)
    file["lora_unet_mid_block_resnets_0_conv1.lora_up.weight"] = normal(rng, 8, RANK, 1, 1)
    theirs = converted(file, tmp_path, "mixed")
    changed = {n for n in file if not np.array_equal(theirs[n], file[n])}
    assert changed == {"lora_unet_mid_block_resnets_0_conv1.lora_down.weight"}


def test_an_adapter_without_kernels_says_that_it_needs_no_conversion(tmp_path):
    file = {
        f"lora_unet_down_blocks_1_attentions_0_proj_in.lora_{p}.weight": np.ones((4, 4), "f4") for p in ("up", "down")
    }
    save_file(file, tmp_path / "in.safetensors")
    result = run(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert result.exit_code == 1 and "the plan changes nothing" in result.stderr and "use it unchanged" in result.stderr


CONV = "lora_unet_mid_block_resnets_0_conv1"
LOHA = {f"{CONV}.hada_w{n}_{s}": (RANK, 72) if s == "b" else (8, RANK) for n in (1, 2) for s in "ab"}
REFUSED = {
    "LoHa": LOHA,
    "LoHa with a core": LOHA | {f"{CONV}.hada_t{n}": (RANK, RANK, 3, 3) for n in (1, 2)},
    "DoRA": {f"{CONV}.lora_down.weight": (RANK, 8, 3, 3), f"{CONV}.lora_up.weight": (8, RANK, 1, 1),
             f"{CONV}.dora_scale": (8, 1, 1, 1)},
    "both have a kernel": {f"{CONV}.lora_down.weight": (RANK, 8, 3, 3), f"{CONV}.lora_up.weight": (8, RANK, 3, 3)},
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_rescaled_exactly_is_refused_by_name(why, tmp_path):
    save_file({n: np.ones(s, np.float32) for n, s in REFUSED[why].items()}, tmp_path / "in.safetensors")
    result = run(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert result.exit_code == 1 and CONV in result.stderr and why.removesuffix(" with a core") in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_the_family_is_named_and_presets_are_the_models(tmp_path):
    file = {
        f"lora_unet_input_blocks_3_0_op.lora_{p}.weight": np.ones((4, 4, k, k), "f4")
        for p, k in (("up", 1), ("down", 3))
    }
    save_file(file, tmp_path / "in.safetensors")
    info = inspect(tmp_path / "in.safetensors")
    assert info.family == "LoRA" and {"inner", "all"} <= set(info.presets)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("lora_unet_output_blocks_11_1_transformer_blocks_0_norm1", "output_blocks.11.1.transformer_blocks.0.norm1"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "te1.text_model_encoder_layers.0.mlp_fc1"),
        ("base_model.model.unet.conv_in", "conv_in"),
    ],
)  # fmt: skip
def test_layers_get_the_models_names(layer, name):
    assert base_layer(layer) == name


def test_an_adapter_of_the_middle_alone_is_still_one_for_a_unet(tmp_path):
    file = {f"{CONV}.lora_down.weight": np.ones((RANK, 8, 3, 3), np.float32)}
    save_file(file, tmp_path / "in.safetensors")
    plan = plan_checkpoint(tmp_path / "in.safetensors", scale=2)
    assert len(plan.changed) == 1 and any("diffusers UNet" in note for note in plan.warnings)
