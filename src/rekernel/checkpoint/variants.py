"""Which of several weights in a component's folder diffusers reads: plain ones, or a variant such as fp16.

Knows diffusers' and transformers' file names; no file is opened.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import RekernelError
from ..escape import shown_path
from .pipeline_folder import Component, Pipeline

_NAME = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<file>[\w-]+?))?(?:-\d{5}-of-\d{5})?"
    r"\.safetensors(?:\.index(?:\.(?P<index>[\w-]+))?\.json)?"
)


def by_variant(component: Component) -> dict[str, Path]:
    """The component's weights, plain ones under ''; those of other names are not loaded by diffusers."""
    found = {}
    for path in component.candidates:
        if named := _NAME.fullmatch(path.name):
            found[named["file"] or named["index"] or ""] = path
    return found


def only_variant(pipeline: Pipeline) -> str | None:
    """The variant that some component has instead of plain weights, where there is no choice; else None."""
    lacking = [set(names) for c in pipeline.components.values() if (names := by_variant(c)) and "" not in names]
    common = set.intersection(*lacking) if lacking else set()
    return common.pop() if len(common) == 1 else None


def weights_of(component: Component, variant: str | None = None) -> Path:
    """The weights that are loaded: of the variant where there are some, else the plain ones, else the only ones.

    Raises
    ------
    RekernelError
        Where there are none in safetensors, and for several to choose from.
    """
    found = by_variant(component)
    chosen = found.get(variant or "") or found.get("") or component.checkpoint
    if chosen is None:
        raise RekernelError(
            f"{shown_path(component.folder)}: its rescaled weights are not in safetensors; save the pipeline again "
            f"with safe_serialization=True"
        )
    return chosen


def plain_candidate(component: Component) -> Path | None:
    """The component's weights; of plain ones and variants (.fp16) together the plain ones, as diffusers loads them."""
    plain = [p for p in component.candidates if not split_variant(p.name.partition(".safetensors")[0])[1]]
    plain = [p for p in plain if not re.search(r"\.index\.[\w-]+\.json$", p.name)]
    if len(component.candidates) > 1 and len(plain) == 1:
        return plain[0]
    return component.checkpoint


def split_variant(stem: str) -> tuple[str, str]:
    """The name without its variant, and the variant with its dot.

    Examples
    --------
    >>> split_variant("model.fp16"), split_variant("model.v2")
    (('model', '.fp16'), ('model.v2', ''))
    """
    base, dot, variant = stem.partition(".")
    return (base, dot + variant) if variant in ("fp16", "bf16", "fp32", "ema", "non_ema") else (stem, "")
