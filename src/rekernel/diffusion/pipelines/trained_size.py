"""Find the trained size of a pipeline folder, on the grid of its denoiser, without loading its weights.

Scope: configs and the default sizes of diffusers' pipelines. Not here: a loaded pipeline (see `denoiser/target`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ...checkpoint.pipeline_folder import Component, Pipeline
from ..denoiser.names import SIZE_OF_PIPELINE

_AUTOENCODERS = ("vae", "vqvae")


def trained_size(pipeline: Pipeline, component: Component, config: Mapping[str, Any]) -> int | tuple[int, ...] | None:
    """The trained size of a denoiser: a number, or one per axis; None where nothing in the folder says it.

    Parameters
    ----------
    pipeline : the folder
    component, config : the denoiser in it
    """
    size = config.get("sample_size")
    if size is None and not any(name in pipeline.components for name in _AUTOENCODERS):
        size = pipeline.index.get("sample_size")  # a pipeline of pixels on tokens
    if size is None and component.class_name in SIZE_OF_PIPELINE:
        size = _default_of(pipeline.index.get("_class_name"))
    sides: list[Any] = size if isinstance(size, list) else [size]
    if not sides or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides):
        return None
    if isinstance(size, list):
        return tuple(sides)
    return int(sides[0])


def _default_of(name: object) -> Any:
    """The `default_sample_size` of a pipeline class of diffusers, which its constructor sets, whatever its parts."""
    kind: Any = getattr(importlib.import_module("diffusers"), name, None) if isinstance(name, str) else None
    if not inspect.isclass(kind):
        return None
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    try:
        made = kind(**{p.name: None for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD})
    except (TypeError, ValueError, AttributeError):
        return None
    return getattr(made, "default_sample_size", None)


__all__ = ["trained_size"]
