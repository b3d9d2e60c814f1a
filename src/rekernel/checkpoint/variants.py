"""Choose the weights that a loader reads from a component's folder: plain ones, or a variant such as fp16.

Scope: the file names of diffusers and transformers. Not here: opening files (see `checkpoint.open_local`).
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import RekernelError
from ..escape import shown_path
from .pipeline_folder import Component, Pipeline

_LOADED = ("diffusion_pytorch_model", "model")  # as safetensors
_NAMED_BY_LOADERS = (*_LOADED, "pytorch_model")  # in any format
_COMMON = ("fp16", "bf16", "fp32", "ema", "non_ema")
_WORD = re.compile(r"[\w-]+")
_COUNT = re.compile(r"-\d{5}-of-\d{5}(?=\.|$)")
_INDEX = re.compile(r"(.+)\.safetensors\.index(\.[\w-]+)?\.json")


def split_variant(stem: str) -> tuple[str, str]:
    """Split a file name without its suffix into the base name and the variant with its dot.

    In a name that diffusers or transformers gives, every word after the dot is a variant. Any other name may contain
    dots, so only common variants count.

    Examples
    --------
    >>> split_variant("model.fp16"), split_variant("model.mine")
    (('model', '.fp16'), ('model', '.mine'))
    >>> split_variant("net.v2.fp16"), split_variant("net.mine")
    (('net.v2', '.fp16'), ('net.mine', ''))
    """
    base, dot, word = stem.rpartition(".")
    named = base in _NAMED_BY_LOADERS and _WORD.fullmatch(word) and not _COUNT.search(word)
    return (base, dot + word) if base and (named or word in _COMMON) else (stem, "")


def split_name(name: str) -> tuple[str, str]:
    """Split the full name of a file, shard or index, in every spelling, as `split_variant` does.

    Examples
    --------
    >>> split_name("model.fp16.safetensors"), split_name("model.safetensors.index.fp16.json")
    (('model', '.fp16'), ('model', '.fp16'))
    >>> split_name("model.fp16-00001-of-00002.safetensors"), split_name("pytorch_model-00001-of-00002.fp16.bin")
    (('model', '.fp16'), ('pytorch_model', '.fp16'))
    """
    if index := _INDEX.fullmatch(name):
        return (index[1], index[2]) if index[2] else split_variant(index[1])
    return split_variant(_COUNT.sub("", Path(name).stem))


def by_variant(component: Component) -> dict[str, list[Path]]:
    """Group the weights that a loader finds by variant; plain weights are under ''.

    Files with other names are left out, since no loader reads them.
    """
    found: dict[str, list[Path]] = {}
    for path in component.candidates:
        base, variant = split_name(path.name)
        if base in _LOADED:
            found.setdefault(variant.removeprefix("."), []).append(path)
    return found


def only_variant(pipeline: Pipeline) -> str | None:
    """Return the one variant that all components without plain weights have; None if there is not exactly one."""
    lacking = [set(names) for c in pipeline.components.values() if (names := by_variant(c)) and "" not in names]
    common = set.intersection(*lacking) if lacking else set()
    return common.pop() if len(common) == 1 else None


def chosen_weights(component: Component, variant: str | None = None) -> Path | None:
    """Choose the weights to load: those of the variant, else the plain ones, else the only ones.

    None if the component has no safetensors weights.

    Raises
    ------
    SeveralCheckpointsError
        If there are several to choose from. A file and an index count as two, since loaders differ in which one they
        read.
    """
    found = by_variant(component)
    chosen = found.get(variant or "") or found.get("")
    chosen = chosen or [path for path in component.candidates if not split_name(path.name)[1]]
    return chosen[0] if len(chosen) == 1 else component.checkpoint


def weights_of(component: Component, variant: str | None = None) -> Path:
    """Choose the weights as `chosen_weights` does; raise if there are none.

    Raises
    ------
    RekernelError
        If the component has no safetensors weights, or several to choose from.
    """
    chosen = chosen_weights(component, variant)
    if chosen is None:
        raise RekernelError(
            f"{shown_path(component.folder)}: the rescaled weights are not in safetensors; save the pipeline "
            f"again with safe_serialization=True"
        )
    return chosen
