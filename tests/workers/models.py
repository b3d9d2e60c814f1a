"""Checkpoints of several files for tests of workers, and how to compare what a conversion has left."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors.numpy as st


def sharded(folder: Path, shards: int = 4, channels: int = 16, seed: int = 0) -> Path:
    """A folder with an index, a configuration and shards of convolutions and vectors."""
    folder.mkdir(parents=True)
    rng, weight_map = np.random.default_rng(seed), {}
    for i in range(shards):
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        tensors = {
            f"block{i}.conv.weight": rng.normal(size=(channels, channels, 3, 3)).astype(np.float16),
            f"block{i}.conv.bias": rng.normal(size=channels).astype(np.float16),
        }
        st.save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file, hidden ones too, by its name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
