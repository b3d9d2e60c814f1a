"""Train a judge for each size, a small classifier of true glyphs of that size.

Scope: glyphs, and which judge is trained on them. Not here: the network and its training (see `judge_network`), the
distance of features (see `frechet`), sampling (see `diffusion`).
Imports torch and, from examples/glyphs, the drawing. Judges are trained where they are needed and kept in the system's
temporary folder, under a digest of their settings; none is shipped. A judge is trained on clean glyphs of the training
fonts only, so it recognises glyphs but does not detect pictures that are not glyphs.
"""

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "glyphs"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "diffusion"))

import numpy as np
import torch
from judge_network import Judge, fit
from numpy.typing import NDArray
from render import render_glyphs

CACHE = Path(tempfile.gettempdir()) / "rekernel-judges"
SETTINGS: dict[str, Any] = {
    "images": 10_000,
    "images_seed": 31,
    "seed": 0,
    "epochs": 10,
    "batch": 100,
    "lr": 1e-2,
    "weight_decay": 0.05,
    "channels": (24, 32, 48, 64),
}


def judge_for(size: int, settings: dict[str, Any] = SETTINGS, cache: Path = CACHE) -> Judge:
    """The judge of `size`, read from `cache` or trained on one thread and kept there.

    Training draws its own images, and takes minutes.
    """
    key = hashlib.sha256(json.dumps([size, settings, torch.__version__]).encode()).hexdigest()[:16]
    path = cache / f"judge-{size}-{key}.pt"
    with torch.random.fork_rng(devices=[]):  # the caller's random state is left as it was
        torch.manual_seed(settings["seed"])
        judge = Judge(size, tuple(settings["channels"]))
        if path.exists():
            judge.load_state_dict(torch.load(path, weights_only=True))
            return judge.eval()
        fit(judge, *true_glyphs(settings["images"], settings["images_seed"], size), settings)
    cache.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    torch.save(judge.state_dict(), aside)
    aside.replace(path)
    return judge.eval()


def true_glyphs(n: int, seed: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`n` glyphs of the training fonts, drawn at `size`: (N, S, S) in [0, 1] and (N,) labels."""
    images, labels = render_glyphs(n, seed, size)
    return images.astype(np.float32) / 255, labels
