"""Which of several weights in a component's folder a loader reads: plain ones, or a variant such as fp16.

Scope: the file names of diffusers and transformers. No file is opened here.
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
    """A file's name without suffix: the name without its variant, and the variant with its dot.

    In a name that diffusers and transformers give, every word after the dot is a variant. Any other name may hold dots,
    so that only a common variant counts.

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
    """As `split_variant`, of the whole name of a file, a shard or an index, in every spelling.

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
    """The component's weights as its loader names them, plain ones under ''; those of other names are not loaded."""
    found: dict[str, list[Path]] = {}
    for path in component.candidates:
        base, variant = split_name(path.name)
        if base in _LOADED:
            found.setdefault(variant.removeprefix("."), []).append(path)
    return found


def only_variant(pipeline: Pipeline) -> str | None:
    """The variant that some component has instead of plain weights, where there is no choice; else None."""
    lacking = [set(names) for c in pipeline.components.values() if (names := by_variant(c)) and "" not in names]
    common = set.intersection(*lacking) if lacking else set()
    return common.pop() if len(common) == 1 else None


def chosen_weights(component: Component, variant: str | None = None) -> Path | None:
    """The weights that are loaded: of the variant where there are some, else the plain ones, else the only ones.

    None where there are none in safetensors.

    Raises
    ------
    SeveralCheckpointsError
        For several to choose from. A file and an index are two: loaders do not agree about which of them counts.
    """
    found = by_variant(component)
    chosen = found.get(variant or "") or found.get("")
    chosen = chosen or [path for path in component.candidates if not split_name(path.name)[1]]
    return chosen[0] if len(chosen) == 1 else component.checkpoint


def weights_of(component: Component, variant: str | None = None) -> Path:
    """As `chosen_weights`, for a component that has to have some.

    Raises
    ------
    RekernelError
        Where there are none in safetensors, and for several to choose from.
    """
    chosen = chosen_weights(component, variant)
    if chosen is None:
        raise RekernelError(
            f"{shown_path(component.folder)}: its rescaled weights are not in safetensors; save the pipeline again "
            f"with safe_serialization=True"
        )
    return chosen
