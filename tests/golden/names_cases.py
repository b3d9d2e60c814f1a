"""Checkpoints of every family and framework, planned by the names and shapes of their tensors.

The files have headers alone: a plan reads no weights. Imports diffusers and transformers where used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rekernel as rk
from rekernel import Hints

from .header_files import METHODS, Files, Shapes
from .names_adapters import adapters
from .names_models import CROSS_UP, PLAIN_UP, TOKENS, UNETS, VITS, models, shapes_of
from .old_defaults import plan_checkpoint, plan_source
from .plan_text import Case


def families(files: Files) -> Iterator[Case]:
    built = {name: shapes_of(build) for name, build in models().items()}
    for name, shapes in built.items():
        path = files.file(shapes, "F16", {"format": "pt"})
        presets = rk.inspect(path).presets
        small = "+" if len(shapes) < 60 else ""
        yield f"{small}{name}, as it comes", lambda p=path: plan_checkpoint(p, 2)
        if name == "SD2.1":
            continue  # its convolutions are those of SD1.5
        yield f"{name}, everything included", lambda p=path: plan_checkpoint(p, 2, include=["*"])
        for preset in presets:
            yield f"{name}, preset {preset}", lambda p=path, q=preset: plan_checkpoint(p, 2, preset=q)
    for name in (
        "SD1.5",
        "UNet2DModel",
        "AutoencoderKL",
        "ResNet, basic",
        "torchvision ResNet, bottleneck",
        "ConvNeXt",
    ):
        path = files.file(built[name], "BF16")
        for scale in (3, (2, 1), 1.5, 0.5) if name in ("UNet2DModel", "ResNet, basic") else ((2, 1.5),):
            yield f"{name}, scale {scale}", lambda p=path, s=scale: plan_checkpoint(p, s)
    for name in ("UNetMotionModel", "AutoencoderKLTemporalDecoder"):
        path = files.file(built[name])
        for scale in ((2, 2), (2, 1, 3)):
            yield f"{name}, scale {scale}", lambda p=path, s=scale: plan_checkpoint(p, s)
    for name in (*VITS, "BEiT with absolute positions", "DPT"):
        path = files.file(built[name])
        for mode in ("absorb", "supersample"):
            hints = Hints(mode={"*": mode})
            for scale, method in ((2, "optimal"), (1.5, "cubic"), ((2, 1), "dilate"), (0.5, "linear")):
                yield (
                    f"{name}, {mode}, scale {scale}, {method}",
                    lambda p=path, s=scale, m=method, h=hints: plan_checkpoint(p, s, method=m, hints=h),
                )
    trunk = {f"backbone.{n}": s for n, s in built["torchvision ResNet, bottleneck"].items()}
    heads: dict[str, Shapes] = {
        "DeepLabV3": {"classifier.0.convs.1.0.weight": (16, 80, 3, 3)},
        "FCN": {"classifier.0.weight": (16, 80, 3, 3), "classifier.4.weight": (21, 16, 1, 1)},
        "PSPNet": {"decode_head.bottleneck.conv.weight": (16, 160, 3, 3)},
        "UPerNet": {f"decode_head.{part}.0.conv.weight": (64, 64, 3, 3) for part in ("psp_modules", "fpn_convs")},
        "UNet decoder": {
            "decoder.blocks.0.conv1.0.weight": (16, 112, 3, 3),
            "segmentation_head.0.weight": (1, 16, 3, 3),
        },
        "attention": {"layer4.1.attention.conv.weight": (1, 2, 7, 7)},
        "CLIP": {"backbone.attnpool.positional_embedding": (50, 80)},
    }
    for name, head in heads.items():
        path = files.file(trunk | dict(head))
        yield f"ResNet trunk with the head of {name}", lambda p=path: plan_checkpoint(p, 2)
    yield from single_files(files, built)
    yield from folders(files, built)


# --- single files of Stable Diffusion --------------------------------------------------------------------------

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


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The original name of a diffusers UNet's tensor: two blocks a level going down, three going up."""
    prefix = "model.diffusion_model."
    layer, _, leaf = name.rpartition(".")
    if layer in OUTSIDE:
        return f"{prefix}{OUTSIDE[layer]}.{leaf}"
    found = re.fullmatch(r"([a-z]+)_blocks?(?:\.(\d+))?\.(\w+?)\.(\d+)\.(.*)", name)
    assert found, name
    block, level, part, j, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    if part == "resnets":
        inner, _, leaf = rest.rpartition(".")
        rest = f"{PARTS[inner]}.{leaf}"
    attention = int(part == "attentions")
    if block == "mid":
        return f"{prefix}middle_block.{1 if attention else 2 * j}.{rest}"
    if part == "downsamplers":
        return f"{prefix}input_blocks.{3 * (level + 1)}.0.{rest.replace('conv', 'op')}"
    if part == "upsamplers":
        ups = config.get("up_block_types", (PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP))
        return f"{prefix}output_blocks.{3 * level + 2}.{1 + (ups[level] == CROSS_UP)}.{rest}"
    place = f"input_blocks.{3 * level + 1 + j}" if block == "down" else f"output_blocks.{3 * level + j}"
    return f"{prefix}{place}.{attention}.{rest}"


def vae_name(name: str, levels: int = 3) -> str:
    for ours, theirs in VAE_PARTS.items():
        name = name.replace(ours, theirs)
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    return f"first_stage_model.{name}"


def single_files(files: Files, built: Mapping[str, Shapes]) -> Iterator[Case]:
    for line, config in UNETS.items():
        shapes = {unet_name(n, config): s for n, s in built[line].items()}
        shapes |= {vae_name(n): s for n, s in built["AutoencoderKL"].items()}
        copies = {f"model_ema.{''.join(n.split('.')[1:])}": s for n, s in shapes.items() if n.startswith("model.")}
        shapes |= {"cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 16)}
        shapes |= {"alphas_cumprod": (1000,)}
        path = files.file(shapes | (copies if line == "SDXL" else {}), "F16")
        for preset in rk.inspect(path).presets if line == "SD1.5" else ("inner",):
            yield f"single file {line}, preset {preset}", lambda p=path, q=preset: plan_checkpoint(p, 2, preset=q)
    mixed = {n: s for n, s in built["SD1.5"].items() if n.startswith(("conv_in", "mid_block", "time_emb"))}
    path = files.file(mixed, "F8_E4M3")
    yield "float8 UNet", lambda p=path: plan_checkpoint(p, 2)
    yield "float8 UNet, cast", lambda p=path: plan_checkpoint(p, 2, allow_cast=True)


def folders(files: Files, built: Mapping[str, Shapes]) -> Iterator[Case]:
    pipeline, vit = files.folder / "pipeline", files.folder / "vit"
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"vae": ["diffusers", "AutoencoderKL"]}
    for name, shapes in (("unet", built["SD1.5"]), ("vae", built["AutoencoderKL"])):
        files.at(pipeline / name / "diffusion_pytorch_model.safetensors", shapes)
        (pipeline / name / "config.json").write_text(json.dumps({"sample_size": 16}))
    (pipeline / "model_index.json").write_text(json.dumps(index))
    yield "pipeline", lambda: plan_source(pipeline, scale=2)
    yield "pipeline, both components", lambda: plan_source(pipeline, scale=2, components=["unet", "vae"])
    files.at(vit / "model.safetensors", built["ViT"])
    (vit / "config.json").write_text(json.dumps({"model_type": "vit", **TOKENS}))
    yield "folder of a ViT", lambda: plan_source(vit, scale=2)
    parts = {"first": {}, "second": {}}
    for i, (name, shape) in enumerate(built["ConvNeXt"].items()):
        parts["first" if i % 2 else "second"][name] = shape
    shards = files.folder / "shards"
    for name, shapes in parts.items():
        files.at(shards / f"{name}.safetensors", shapes)
    where = {n: f"{part}.safetensors" for part, shapes in parts.items() for n in shapes}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    yield "sharded ConvNeXt", lambda: plan_source(shards, scale=2)


# --- checkpoints of no family ----------------------------------------------------------------------------------

MIXED = {
    "a.weight": (8, 4, 3, 3), "a.bias": (8,), "five.weight": (8, 8, 5, 5), "seven.weight": (8, 8, 7, 7),
    "even.weight": (8, 8, 4, 4), "two.weight": (8, 8, 2, 2), "point.weight": (8, 8, 1, 1), "flat.weight": (8, 8, 3, 1),
    "down.weight": (8, 8, 3, 3), "hand.weight": (8, 8, 3, 3), "stem.weight": (8, 3, 8, 8), "eat.weight": (8, 8, 7, 7),
    "one.weight": (8, 8, 3), "one.bias": (8,), "volume.weight": (8, 4, 3, 3, 3), "fc.weight": (10, 72),
    "fc.bias": (10,), "last.weight": (10, 72), "head.weight": (48, 10), "head.bias": (48,), "plain.weight": (10, 10),
}  # fmt: skip
HINTS = {
    "linear_grid": {"fc": (3, 4, 6), "last": (3, 4, 6)}, "output_grid": {"head": (3, 4, 4)},
    "order": {"last": "channels-last"}, "stride": {"*": 1, "down": 2, "hand": 2, "stem": 8, "eat": 4, "two": 2},
    "padding": {"hand": (0, 1), "stem": 0, "eat": 3, "two": 0, "even": (1, 2)}, "layout": {"one": "OIW"},
    "mode": {"stem": "absorb", "eat": "absorb"},
}  # fmt: skip
FEW = {"a.weight": (8, 4, 3, 3), "down.weight": (8, 8, 4, 4), "seven.weight": (8, 8, 7, 7), "stem.weight": (8, 3, 8, 8)}
FEW_HINTS = {"stride": {"down": 2, "stem": 8}, "padding": {"down": 1, "stem": 0}, "mode": {"stem": "absorb"}}


def settings(files: Files) -> Iterator[Case]:
    mixed, few = files.file(MIXED), files.file(FEW)
    images = files.file({n: s for n, s in MIXED.items() if not n.startswith(("one", "volume"))})
    no_one = {k: {n: v for n, v in t.items() if n != "one"} for k, t in HINTS.items()}
    yield "+mixed, no hints", lambda: plan_checkpoint(mixed, 2)
    yield "+mixed, hints", lambda: plan_checkpoint(mixed, 2, hints=Hints(**HINTS))
    for method in METHODS:
        grids = ["fc.*", "last.*", "head.*", "stem.*"]  # a pseudo-inverse is for grids alone
        for scale in (2, 3, 1.5, 0.5, (2, 1.5), 1):
            hints, path = (Hints(**no_one), images) if isinstance(scale, tuple) else (Hints(**HINTS), mixed)
            for include in [grids] if method.startswith("pinv") else [["*"], grids]:
                yield (
                    f"mixed, {method}, scale {scale}{', grids' if include is grids else ''}",
                    lambda p=path, m=method, s=scale, h=hints, i=include: plan_checkpoint(
                        p, s, method=m, hints=h, include=i
                    ),
                )
        for scale in (2, 3) if not method.startswith("pinv") else ():
            for taps in ("full", "same-extent", 5, 6, 11):
                yield (
                    f"few, {method}, scale {scale}, taps {taps}",
                    lambda m=method, s=scale, t=taps: plan_checkpoint(
                        few, s, method=m, taps=t, hints=Hints(**FEW_HINTS)
                    ),
                )
    for gain in ("ratio", "none"):
        yield (
            f"mixed, gain {gain}, a and smoothness",
            lambda g=gain: plan_checkpoint(
                mixed, 2, method="cubic", gain=g, a=-0.75, smoothness=0.1, hints=Hints(**HINTS)
            ),
        )
    yield "few, taps none", lambda: plan_checkpoint(few, 2, taps="none")
    yield "mixed, two scales leave time alone", lambda: plan_checkpoint(mixed, (2, 2), hints=Hints(**HINTS))
    yield "mixed, three scales", lambda: plan_checkpoint(mixed, (2, 1, 3))
    yield (
        "mixed, include and exclude",
        lambda: plan_checkpoint(mixed, 2, include=["*.weight", "re:a"], exclude=["five", "re:one.*"]),
    )
    each = {
        "*": {"method": "linear"}, "five": {"taps": 7}, "seven": {"method": "cubic", "scale": [2, 3], "a": -0.6},
        "down": {"gain": "ratio", "scale": 3}, "volume": {"scale": (1, 2, 2)}, "even": {"scale": 1},
    }  # fmt: skip
    yield "mixed, overrides", lambda: plan_checkpoint(mixed, 2, overrides=each, hints=Hints(**HINTS))
    for mode in ("absorb", "supersample"):
        for stride in (1, 2, 4):
            hints = Hints(stride={"*": stride}, mode={"*": mode}, padding={"*": 1}, layout={"one": "OIW"})
            yield f"mixed, all {mode}, stride {stride}", lambda h=hints: plan_checkpoint(mixed, 2, hints=h)
            hints = Hints(stride={"*": stride}, mode={"*": mode}, padding={"*": 0}, layout={"one": "OIW"})
            yield (
                f"mixed, all {mode}, stride {stride}, no padding",
                lambda h=hints: plan_checkpoint(mixed, 2, hints=h),
            )
    bare = {
        "patch_embed.proj.weight": (32, 3, 8, 8), "patch_embed.proj.bias": (32,), "blocks.0.attn.qkv.weight": (96, 32),
    }  # fmt: skip
    vit = bare | {"cls_token": (1, 1, 32)}
    two, five = vit | {"dist_token": (1, 1, 32)}, vit | {"reg_token": (1, 4, 32)}
    beside = {16: bare, 18: two, 21: five, 198: two, 201: five}
    for tokens in (16, 17, 18, 21, 197, 198, 201, 257, 23):
        path = files.file(beside.get(tokens, vit) | {"pos_embed": (1, tokens, 32)})
        for mode in ({}, {"*": "supersample"}, {"pos_embed": "supersample"}, {"patch_embed.proj": "supersample"}):
            for scale in (2, (2, 3)) if tokens == 17 else (2,):
                title = f"timm ViT of {tokens} tokens, {'; '.join(mode) or 'no hint'}, scale {scale}"
                yield title, lambda p=path, m=mode, s=scale: plan_checkpoint(p, s, hints=Hints(mode=m))
    for method in METHODS:
        path = files.file(vit | {"pos_embed": (1, 17, 32)})
        for mode in ({}, {"*": "supersample"}):
            title = f"timm ViT, {'; '.join(mode) or 'no hint'}, {method}"
            yield title, lambda p=path, m=mode, n=method: plan_checkpoint(p, 2, method=n, hints=Hints(mode=m))


UNCLEAR: tuple[dict[str, tuple[int, ...]], ...] = (
    {"fc.weight": (10, 3072), "a.weight": (8, 3, 3, 3)},
    {"conv.weight": (64, 3, 3, 3), "fc.weight": (10, 4096)},
    {"a.weight": (8, 4, 4, 4)}, {"a[0].weight": (8, 4, 2, 2)}, {"w.weight": (8, 4, 5)}, {"a.kernel": (3, 3, 64, 128)},
    {"a.weight": (3, 3, 64, 128)}, {"a.filters": (16, 4, 3, 3)}, {"a.kernel": (3, 3, 3, 64, 128)},
    {"w.weight": (64, 3, 3, 64)}, {"a.weight": (8, 4, 33, 33)}, {"x.pos_embed": (1, 4, 4, 8), "a.weight": (8, 8, 3, 3)},
    {"a.weight": (2, 2, 3, 3, 3, 3)}, {"0.weight": (10, 20), "1.weight": (5, 7)}, {"0.weight": (4, 4)},
    {"s": (), "a.weight": (4, 4, 3, 3)},
)  # fmt: skip
FLAX_UNET = {
    "conv_in/kernel": (3, 3, 4, 8), "time_embedding/linear_1/kernel": (8, 8),
    "down_blocks_0/resnets_0/conv1/kernel": (3, 3, 8, 8), "down_blocks_0/downsamplers_0/conv/kernel": (3, 3, 8, 8),
    "down_blocks_1/resnets_0/conv1/kernel": (3, 3, 8, 16), "mid_block/resnets_0/conv1/kernel": (3, 3, 16, 16),
    "up_blocks_0/resnets_0/conv1/kernel": (3, 3, 16, 16), "up_blocks_1/resnets_0/conv1/kernel": (3, 3, 16, 8),
    "down_blocks_1/attentions_0/proj_in/kernel": (1, 1, 16, 16),
}  # fmt: skip


def layouts(files: Files) -> Iterator[Case]:
    for i, shapes in enumerate(UNCLEAR):
        path = files.file(shapes)
        yield f"+unclear {i}", lambda p=path: plan_checkpoint(p, 2)
        yield f"+unclear {i}, absorb", lambda p=path: plan_checkpoint(p, 2, hints=Hints(mode={"*": "absorb"}))
    for layout, shape in (
        ("HWIO", (3, 3, 4, 8)), ("OHWI", (8, 3, 3, 4)), ("IOHW", (4, 8, 3, 3)), ("HWOI", (3, 3, 8, 4)),
        ("DHWIO", (3, 3, 3, 4, 8)), ("ODHWI", (8, 3, 3, 3, 4)), ("WIO", (3, 4, 8)), ("OWI", (8, 3, 4)),
        ("OIW", (8, 4, 3)),
    ):  # fmt: skip
        path = files.file({"a.kernel": shape, "a.bias": (8,)})
        yield f"layout {layout}", lambda p=path, x=layout: plan_checkpoint(p, 2, hints=Hints(layout={"a": x}))
    nets = {
        "flax": {
            "params/conv1/kernel": (3, 3, 3, 6), "params/conv1/bias": (6,), "params/conv2/kernel": (5, 5, 6, 4),
            "params/fc/kernel": (256, 5), "params/conv3/kernel": (3, 6, 6), "params/conv4/kernel": (3, 3, 3, 6, 6),
        },
        "keras": {
            "conv1/kernel": (3, 3, 3, 6), "conv1/bias": (6,), "conv2/kernel": (5, 5, 6, 4), "fc/kernel": (256, 5),
        },
        "mlx": {"conv1.weight": (6, 3, 3, 3), "conv1.bias": (6,), "conv2.weight": (4, 5, 5, 6), "fc.weight": (5, 256)},
    }  # fmt: skip
    for name, shapes in nets.items():
        for kind in ("flax", "jax", "keras", "tf", "tensorflow", "mlx", "pt", ""):
            if name[:2] != kind[:2] and kind not in ("jax", "tf", "tensorflow", "pt", ""):
                continue
            path = files.file(shapes, metadata={"format": kind} if kind else None)
            grid = {"*fc": (4, 8, 8)}
            title = f"{name} with format {kind or 'none'}"
            yield title, lambda p=path: plan_checkpoint(p, 2)
            yield f"{title}, grid", lambda p=path, g=grid: plan_checkpoint(p, 2, hints=Hints(linear_grid=g))
            for layout in ("HWIO", "OHWI", "OIHW"):
                hints = Hints(linear_grid=grid, layout={"*": layout})
                yield f"{title}, grid, layout {layout}", lambda p=path, h=hints: plan_checkpoint(p, (2, 3), hints=h)
    unet = files.file(FLAX_UNET, metadata={"format": "flax"})
    for preset in ("inner", "all"):
        yield f"Flax UNet, {preset}", lambda q=preset: plan_checkpoint(unet, 2, preset=q)
    heads = {"attn/query/kernel": (16, 4, 4), "attn/query/bias": (4, 4), "attn/out/kernel": (4, 4, 16)}
    path = files.file(heads | {"conv/kernel": (3, 3, 4, 4)}, metadata={"format": "flax"})
    yield "+Flax heads", lambda p=path: plan_checkpoint(p, 2)
    path = files.file({"fc.weight": (32, 5)})
    yield (
        "one turned matrix",
        lambda p=path: plan_checkpoint(p, 2, hints=Hints(linear_grid={"fc": (2, 4, 4)}, layout={"fc": "IO"})),
    )
    path = files.file({"a.weight": (8, 4, 3, 3), "q.weight": (8, 4, 3, 3), "c": (4,)}, **{"q.weight": "I8", "c": "I64"})
    yield "an integer weight", lambda p=path: plan_checkpoint(p, 2)
    yield "an integer weight left out", lambda p=path: plan_checkpoint(p, 2, exclude=["q.weight"])
    yield "an integer weight cast", lambda p=path: plan_checkpoint(p, 2, allow_cast=True)


def cases(folder: Path) -> Iterator[Case]:
    """All of them; files are made in `folder`."""
    files = Files(folder)
    yield from families(files)
    yield from settings(files)
    yield from layouts(files)
    yield from adapters(files)
