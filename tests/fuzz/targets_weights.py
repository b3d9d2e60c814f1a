"""Fuzz targets for files of weights: headers, indices, recipes, plans, adapters, pickles and pipeline folders."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

import rekernel as rk

from .inputs import Choices, document_bytes, json_bytes, mutated, spoiled
from .readers import cleared, read_everywhere, shown, tried

SHAPES = {
    "conv1.weight": (8, 3, 3, 3), "conv1.bias": (8,), "conv2.weight": (4, 8, 3, 3), "down.conv.weight": (4, 4, 2, 2),
    "fc.weight": (6, 32), "pos_embed": (1, 17, 4), "signal.weight": (4, 2, 5), "conv3.weight_g": (4, 1, 1, 1),
    "conv3.weight_v": (4, 2, 3, 3),
}  # fmt: skip
ADAPTER = {
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": [4, 8, 3, 3],
    "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": [8, 4, 1, 1],
    "lora_unet_down_blocks_0_resnets_0_conv1.alpha": [],
    "lora_unet_mid_block_resnets_0_conv1.lokr_w1": [2, 2],
    "lora_unet_mid_block_resnets_0_conv1.lokr_w2_a": [4, 2],
    "lora_unet_mid_block_resnets_0_conv1.lokr_w2_b": [2, 36],
    "lora_unet_mid_block_resnets_0_conv2.hada_w1_a": [4, 2],
    "lora_unet_mid_block_resnets_0_conv2.hada_w1_b": [2, 36],
    "base_model.model.mid_block.resnets.1.conv1.lora_A.weight": [4, 8, 3, 3],
    "base_model.model.mid_block.resnets.1.conv1.lora_B.weight": [8, 4, 1, 1],
    "lora_unet_down_blocks_0_resnets_0_conv1.dora_scale": [1, 8, 1, 1],
}
_MOST = 1 << 16  # values of a tensor that a target fills


def weights() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def framed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def header(data: bytes, folder: Path) -> None:
    """A safetensors file whose header is wrong."""
    whole = save({name: w for name, w in weights().items() if w.size < 500}, {"format": "pt"})
    end = 8 + int.from_bytes(whole[:8], "little")
    choices = Choices(data)
    if choices.below(4) == 0:
        raw = spoiled(whole, choices)
    else:
        text = document_bytes(json.loads(whole[8:end]), choices.rest())
        raw = framed(text, whole[end:])
    path = folder / "x.safetensors"
    path.write_bytes(raw)
    read_everywhere(path, folder / "out.safetensors")


def index(data: bytes, folder: Path) -> None:
    """A folder of two shards whose index is wrong."""
    model = folder / "sharded"
    model.mkdir(exist_ok=True)
    names = list(SHAPES)
    files = {"one.safetensors": names[:4], "two.safetensors": names[4:]}
    for file, held in files.items():
        if not (model / file).exists():
            (model / file).write_bytes(save({name: weights()[name] for name in held}))
    document = {
        "metadata": {"total_size": 100},
        "weight_map": {name: file for file, held in files.items() for name in held},
    }
    (model / "model.safetensors.index.json").write_bytes(document_bytes(document, data))
    read_everywhere(model, folder / "out")


def recipe(data: bytes, folder: Path) -> None:
    """A safetensors file whose metadata holds a wrong recipe."""
    document = json.loads(_converted(folder)["rekernel"])
    text = document_bytes(document, data).decode("utf-8", "replace")
    path = folder / "x.safetensors"
    path.write_bytes(save({"conv1.weight": weights()["conv1.weight"]}, {"rekernel": text}))
    read_everywhere(path, folder / "out.safetensors")
    tried(lambda: shown(rk.Recipe.from_json(text)))


def _converted(folder: Path) -> dict[str, str]:
    from safetensors import safe_open

    path, out = folder / "source.safetensors", folder / "converted.safetensors"
    if not out.exists():
        path.write_bytes(save(weights()))
        tried(lambda: rk.convert(path, out, scale=2))
    with safe_open(out, "np") as file:
        return dict(file.metadata())


def plan(data: bytes, folder: Path) -> None:
    """The JSON of a plan, carried out on a checkpoint with the shapes that the plan names."""
    _converted(folder)
    document = json.loads(_plan_text(folder))
    text = document_bytes(document, data).decode("utf-8", "surrogateescape")
    read = tried(lambda: rk.Plan.from_json(text))
    if read is None:
        return
    shown(read)
    if sum(math.prod(change.shape) for change in read.changes) > _MOST:
        return
    kinds = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64}
    arrays = {c.name: np.ones(c.shape, kinds.get(c.dtype, np.float32)) for c in read.changes if len(c.shape) < 30}
    path, out = folder / "planned.safetensors", folder / "planned-out.safetensors"
    if tried(lambda: path.write_bytes(_saved(arrays))) is None:
        return
    try:
        if tried(lambda: rk.convert(path, out, plan=read, force=True)) is not None:
            _finite(out)
    finally:
        cleared(out)


def _saved(arrays: dict[str, Any]) -> bytes:
    try:
        return save(arrays or {"a": np.ones(1, np.float32)})
    except Exception as error:  # a name that no file can hold
        raise rk.RekernelError("not a checkpoint") from error


def _plan_text(folder: Path) -> str:
    path = folder / "plan.json"
    if not path.exists():
        made = tried(lambda: rk.plan_source(folder / "source.safetensors", (2, 1.5), mode="supersample"))
        path.write_text(next(iter(made.values())).to_json() if isinstance(made, dict) else made.to_json())
    return path.read_text()


def _finite(path: Path) -> None:
    from safetensors.numpy import load_file

    for name, values in load_file(path).items():
        assert np.isfinite(values).all(), f"{name!r} was written with NaN or infinity"


def lora(data: bytes, folder: Path) -> None:
    """An adapter whose names and shapes are wrong."""
    found = mutated(ADAPTER, Choices(data))
    if not isinstance(found, dict):
        return
    entries, end = {}, 0
    for name, shape in found.items():
        fits = isinstance(shape, list) and len(shape) < 100 and all(type(n) is int and 0 <= n < 2**31 for n in shape)
        if fits and 2 * math.prod(shape) <= _MOST:
            entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end := end + 2 * math.prod(shape)]}
    path = folder / "lora.safetensors"
    path.write_bytes(framed(json_bytes(entries), bytes(end)))
    read_everywhere(path, folder / "lora-out.safetensors")


def pickle(data: bytes, folder: Path) -> None:
    """A pickle of torch, in both formats, with spoiled bytes."""
    import torch

    choices = Choices(data)
    buffer = io.BytesIO()
    held = {"conv1.weight": torch.ones(4, 2, 3, 3), "state_dict": {"a.weight": torch.ones(2, 2, 3, 3)}}
    held = held if choices.below(2) else {"conv1.weight": torch.ones(4, 2, 3, 3)}
    torch.save(held, buffer, _use_new_zipfile_serialization=bool(choices.below(3)))
    path = folder / "x.pt"
    path.write_bytes(choices.rest() if choices.below(8) == 7 else spoiled(buffer.getvalue(), choices))
    read_everywhere(path, folder / "pickled.safetensors", allow_pickle=True)


def model_index(data: bytes, folder: Path) -> None:
    """A pipeline folder whose model_index.json or configuration is wrong."""
    choices = Choices(data)
    model = folder / "pipeline"
    (model / "unet").mkdir(parents=True, exist_ok=True)
    weights_at = model / "unet" / "diffusion_pytorch_model.safetensors"
    if not weights_at.exists():
        weights_at.write_bytes(save(weights()))
    documents = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42",
            "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDIMScheduler"], "vae": [None, None],
        },
        "unet/config.json": {"_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [8, 16]},
    }  # fmt: skip
    wrong = choices.pick(list(documents))
    rest = choices.rest()
    for name, document in documents.items():
        (model / name).write_bytes(document_bytes(document, rest) if name == wrong else json_bytes(document))
    read_everywhere(model, folder / "pipeline-out")
