"""Find the size of image that a model on disk was trained at, where a configuration beside its weights tells it.

Scope: configurations of pipelines, transformers and timm. Not here: what is asked of the size (see
`planning.asked_scale`).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoint.pipeline_folder import Pipeline, find_pipeline
from ..checkpoint.strict_json import read_object
from ..errors import RekernelError
from ..planning.position_grid import CONFIG, pair_of, trained_image
from ..sources.place import Place

_DENOISERS = ("unet", "transformer")
_AUTOENCODERS = ("vae", "vqvae")


def trained_size(place: Place) -> tuple[int, int] | None:
    """Height and width in pixels; None where nothing tells them.

    A config.json gives the size for a model of transformers or timm. For a pipeline it is the size in the denoiser's
    config, in pixels of the picture: the latents times the reduction of the VAE.
    """
    pipeline = find_pipeline(place.path)
    if pipeline is not None:
        return _of_pipeline(pipeline)
    folder = place.path if place.path.is_dir() else place.path.parent
    with suppress(RekernelError):
        place.complete(folder / CONFIG)
    return trained_image(folder)


def _of_pipeline(pipeline: Pipeline) -> tuple[int, int] | None:
    configs = {name: _config(component.folder) for name, component in pipeline.components.items()}
    size = next((pair_of(configs[name].get("sample_size")) for name in _DENOISERS if name in configs), None)
    vae = next((configs[name] for name in _AUTOENCODERS if name in configs), None)
    if size is None or vae is None:
        return size
    widths = vae.get("block_out_channels")
    if not isinstance(widths, list) or not widths:
        return None
    cell = 2 ** (len(widths) - 1)
    return size[0] * cell, size[1] * cell


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with suppress(RekernelError):  # a component without one, or with one that cannot be read, tells nothing
        found = dict(read_object(folder / CONFIG))
    return found


__all__ = ["trained_size"]
