"""Render the glyphs on which the example models of digits are trained, or read them from where they were kept.

Scope: pictures and labels. Not here: drawing a glyph (see `examples/glyphs/render.py`), training (see `train` of each
example).
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "glyphs"))

import numpy as np
import torch
from render import area_reduce, render_glyphs
from torch import Tensor


def load_images(cache: Path, data: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """(N, 1, S, S) float32 in [-1, 1] and (N,) int64: from `cache` where it holds these settings, else drawn.

    Parameters
    ----------
    cache : Path
    data : mapping
        'images' the number N, 'seed', 'size' S, and 'rendered_size', which is drawn and then averaged down to S.
    """
    if cache.exists():
        with np.load(cache) as stored:
            if stored["settings"] == json.dumps(data):
                return torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"])
    start = time.perf_counter()
    drawn, labels = render_glyphs(data["images"], data["seed"], data["rendered_size"])
    images = 2 * area_reduce(drawn, data["rendered_size"] // data["size"])[:, None] - 1
    np.savez(cache, images=images, labels=labels, settings=json.dumps(data))
    print(f"{len(images)} images rendered in {time.perf_counter() - start:.0f} s", flush=True)
    return torch.from_numpy(images), torch.from_numpy(labels)
