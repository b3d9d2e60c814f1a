"""Say what a study is: models, methods, metrics, and what is crossed with what.

Scope: fields and their meaning. Not here: reading them from a file (see `study_file`), the list of pictures (see
`work_items`). Imports neither torch nor diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rekernel.errors import RekernelError

DTYPES = ("float32", "float16", "bfloat16")
OFFLOADS = ("none", "model")
NETWORKS = ("unet", "transformer")
PEERS: dict[str, dict[str, Any]] = {
    "img2img": {"strength": 0.5},
    "multidiffusion": {"view_batch_size": 1},
    "hidiffusion": {"apply_raunet": True, "apply_window_attn": True},
}
"""The methods of `peers` with the defaults of their options; that module imports torch, and this one does not."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of reference pictures."""
KINDS = ("noise", "enlarged", "cascade", "peer")

Lever = dict[str, Any] | bool | None


class StudyError(RekernelError):
    """A study that cannot be run as it is written."""


@dataclass(frozen=True)
class Model:
    """A pipeline and how it is called; the class of the pipeline is found in its model_index.json.

    name : short name, for tables and file names
    source : name on the Hub, or a folder
    dtype : precision of all networks
    steps, cfg : sampling steps, and scale of classifier-free guidance (for Flux, of its distilled guidance)
    trained : side of the trained size in pixels; None reads the config of the pipeline
    multiple : divisor of height and width; None reads the pipeline
    negative_prompt : for pipelines that take one
    revision, variant : as `from_pretrained` takes them
    offload : 'model' keeps the networks in main memory and moves each to the GPU while it runs
    vae_tiling : whether the VAE decodes in tiles: less memory, another picture
    without : parts of the pipeline that are not loaded, such as text_encoder_3 and tokenizer_3 of Stable Diffusion 3
    call : other arguments of the pipeline's call
    """

    name: str
    source: str
    dtype: str = "float32"
    steps: int = 30
    cfg: float = 7.5
    trained: int | None = None
    multiple: int | None = None
    negative_prompt: str = ""
    revision: str | None = None
    variant: str | None = None
    offload: str = "none"
    vae_tiling: bool = False
    without: list[str] = field(default_factory=list)
    call: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way of sampling above the trained size.

    name : for tables
    kind : 'noise' samples the new size from noise; 'enlarged' samples the trained size and enlarges the picture;
        'cascade' samples the trained size, enlarges and samples again; 'peer' is somebody else's method
    guidance, kernels, positions : options of rekernel's levers; true is the recommended setting, null is none
    strength : of the stages of a cascade after the first: one number, or one for each stage
    peer, options : name of the peer, and what it takes
    only : 'unet' or 'transformer': the networks that the method is meant for; null is both
    """

    name: str
    kind: str = "noise"
    guidance: Lever = None
    kernels: Lever = None
    positions: Lever = None
    strength: float | list[float] = 0.5
    peer: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    only: str | None = None


@dataclass(frozen=True)
class Metrics:
    """What is measured, and by which networks.

    references : folder of real pictures for FID and KID; null measures neither
    features : 'inception' (torchmetrics', which needs torch-fidelity and downloads its weights), or a TorchScript file
        that takes (N, 3, H, W) uint8 and returns (N, F)
    kid_subsets, kid_subset_size : as torchmetrics takes them; a subset is never larger than the number of pictures
    crops, crop_size : FID of so many square cut-outs of each picture, which are not reduced; 0 leaves it out
    clip : name on the Hub, or a folder, of a CLIP model for the CLIP score; null leaves it out
    duplication : whether the share of repeated content is measured
    """

    references: Path | None = None
    features: str = "inception"
    kid_subsets: int = 100
    kid_subset_size: int = 50
    crops: int = 0
    crop_size: int = 299
    clip: str | None = None
    duplication: bool = True


@dataclass(frozen=True)
class Study:
    """What is compared: every method on every model, area, prompt and seed.

    areas : pixels of the pictures over pixels of the trained size: 2 is a side 1.41 times as long, 4 is twice the side
    prompts : text file, one prompt a line; in a `Study` that was read, the prompts themselves
    tile : side of a picture on the contact sheets, in pixels
    """

    title: str
    models: tuple[Model, ...]
    areas: tuple[float, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    metrics: Metrics = field(default_factory=Metrics)
    tile: int = 320


def reference_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder and of the folders in it, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
