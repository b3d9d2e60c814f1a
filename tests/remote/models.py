"""Small models on the disk, and their copies in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import rekernel as rk


def weights(layers: int = 4, channels: int = 16, seed: int = 0) -> dict[str, Any]:
    """Kernels that are rescaled, and tensors of other dtypes and sizes that are kept."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, Any] = {"empty": np.zeros((0, 4), np.float32), "steps": np.arange(7, dtype=np.int64)}
    for layer in range(layers):
        tensors[f"conv{layer}.weight"] = rng.normal(size=(channels, channels, 3, 3)).astype(np.float32)
        tensors[f"conv{layer}.bias"] = rng.normal(size=channels).astype(np.float16)
    tensors["head.weight"] = rng.normal(size=(300, 1000)).astype(np.float16)
    return tensors


def file(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights(**options), path, {"made": "here"})
    return path


def sharded(folder: Path, count: int = 3) -> Path:
    """A sharded checkpoint with a configuration, and an index that lists its shards."""
    folder.mkdir(parents=True)
    listed: dict[str, str] = {}
    for number in range(1, count + 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        tensors = {f"block{number}.{key}": value for key, value in weights(2, seed=number).items()}
        save_file(tensors, folder / name, {"format": "pt"})
        listed |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 1}, "weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"hidden": 3}')
    return folder


def pipeline(folder: Path) -> Path:
    """A diffusers pipeline folder: a UNet, a text encoder that is copied, and small files in nested folders."""
    index = {"_class_name": "P", "unet": ["diffusers", "U"], "text_encoder": ["transformers", "T"]}
    file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    file(folder / "text_encoder" / "model.safetensors", seed=5)
    (folder / "unet" / "config.json").write_text('{"sample_size": 8}')
    (folder / "tokenizer" / "deep").mkdir(parents=True)
    (folder / "tokenizer" / "deep" / "vocab.txt").write_bytes(b"a\nb\n")
    (folder / "tokenizer" / "empty.txt").touch()
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name in the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def converted(source: Path, target: Path, **options: Any) -> Path:
    """The result on this disk, which every other one has to equal."""
    return rk.convert(source, target, **{"scale": 2, **options}).target
