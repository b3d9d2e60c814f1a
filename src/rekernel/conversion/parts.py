"""Choose the components of a pipeline folder to convert.

Scope: names of components. Not here: their weights (see `conversion.run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.paths import StrPath
from ..checkpoint.pipeline_folder import find_pipeline
from ..checkpoint.variants import chosen_weights
from ..errors import Option, RekernelError
from ..escape import shown, shown_path
from ..text import near

DEFAULT_COMPONENTS = ("unet",)
"""Components that are rescaled by default. Text encoders have no pixel grid, and a VAE works at any size."""


def parts_of(source: StrPath, components: Sequence[str] | None) -> dict[str, Path]:
    """Return the weights to convert in `source`, by component name; the name is '' for a single checkpoint."""
    pipeline = find_pipeline(source)
    where = shown_path(source)
    components = [components] if isinstance(components, str) else components
    if pipeline is None:
        if components:
            raise RekernelError(
                f"{where}: is not a pipeline folder (model_index.json is missing), so it has no component "
                f"{shown(components[0])}; leave the component out"
            )
        return {"": Path(source)}
    with_weights = sorted(name for name, c in pipeline.components.items() if c.candidates)
    listed = f"its components with safetensors weights: {', '.join(map(shown, with_weights)) or 'none'}"
    chosen = list(components) if components else [n for n in DEFAULT_COMPONENTS if n in with_weights]
    if not chosen:
        named = Option("components=[...]", "--component")
        raise RekernelError(f"{where}: has no UNet to rescale; name a component with ", named, f". {listed}")
    parts = {}
    for name in chosen:
        path = chosen_weights(pipeline.components[name]) if name in pipeline.components else None
        if path is None:
            meant = f"did you mean {shown(found[0])}? " if (found := near(name, with_weights)) else ""
            raise RekernelError(f"{where}: component {shown(name)} has no safetensors weights; {meant}{listed}")
        parts[name] = path
    return parts
