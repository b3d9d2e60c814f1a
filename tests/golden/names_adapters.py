"""Adapters (LoRA and its kin) whose plans are compared."""

from __future__ import annotations

from collections.abc import Iterator

from .header_files import Files
from .old_defaults import plan_checkpoint
from .plan_text import Case

RANK = 3
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


def adapter_kinds(o: int, i: int) -> dict[str, dict[str, tuple[int, ...]]]:
    r = RANK
    return {
        "LoRA": {"lora_down.weight": (r, i, 3, 3), "lora_up.weight": (o, r, 1, 1)},
        "LoRA, kernel above": {"lora_down.weight": (r, i, 1, 1), "lora_up.weight": (o, r, 3, 3)},
        "Tucker": {"lora_down.weight": (r, i, 1, 1), "lora_mid.weight": (r, r, 3, 3), "lora_up.weight": (o, r, 1, 1)},
        "LoKr": {"lokr_w1": (2, 2), "lokr_w2": (o // 2, i // 2, 3, 3)},
        "LoKr, flat": {"lokr_w1": (2, 2), "lokr_w2_a": (o // 2, r), "lokr_w2_b": (r, i // 2 * 9)},
        "LoKr, Tucker": {
            "lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_t2": (r, r, 3, 3), "lokr_w2_a": (r, o // 2),
            "lokr_w2_b": (r, i // 2),
        },
        "whole": {"diff": (o, i, 3, 3), "diff_b": (o,)},
        "LoHa": {f"hada_w{n}_{s}": (r, i * 9) if s == "b" else (o, r) for n in (1, 2) for s in "ab"},
        "LoHa with a core": {
            **{f"hada_w{n}_{s}": (r, i * 9) if s == "b" else (o, r) for n in (1, 2) for s in "ab"},
            "hada_t1": (r, r, 3, 3), "hada_t2": (r, r, 3, 3),
        },
        "DoRA": {"lora_down.weight": (r, i, 3, 3), "lora_up.weight": (o, r, 1, 1), "dora_scale": (o, 1, 1, 1)},
        "two kernels": {"lora_down.weight": (r, i, 3, 3), "lora_up.weight": (o, r, 3, 3)},
    }  # fmt: skip


def adapters(files: Files) -> Iterator[Case]:
    for named, layers in (("diffusers", DIFFUSERS), ("original", ORIGINAL)):
        for kind in adapter_kinds(2, 2):
            shapes: dict[str, tuple[int, ...]] = {}
            for layer, (o, i) in layers.items():
                flat = "lora_unet_" + layer.replace(".", "_")
                shapes |= {f"{flat}.{part}": s for part, s in adapter_kinds(o, i)[kind].items()}
                shapes[f"{flat}.alpha"] = ()
            shapes["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"] = (RANK, 16)
            shapes["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = (RANK, 16)
            path = files.file(shapes, "F16")
            for preset in ("inner", "all"):
                title = f"adapter {kind}, names of {named}, {preset}"
                yield title, lambda p=path, q=preset: plan_checkpoint(p, 2, preset=q)
    for down, up in (
        ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
        ("base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight"),
        ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight"), ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
    ):  # fmt: skip
        shapes = {}
        for layer, (o, i) in DIFFUSERS.items():
            shapes |= {down.format(layer): (RANK, i, 3, 3), up.format(layer): (o, RANK, 1, 1)}
        path = files.file(shapes)
        yield f"adapter {down}", lambda p=path: plan_checkpoint(p, 2)
        yield f"adapter {down}, 1.5 by 2, cubic", lambda p=path: plan_checkpoint(p, (1.5, 2), method="cubic")
    alone = files.file({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": (RANK, 8, 3, 3)})
    yield "adapter of the middle alone", lambda: plan_checkpoint(alone, 2, taps=5)
