"""Find adapters around convolutions whose kernel is more than the sum of two kernels: DoRA, LoHa, LoKr, OFT.

A low-rank adapter (LoRA) adds a convolution to a convolution, and both are rescaled as they are. DoRA divides by the
norm of the summed kernel, which rescaling changes; the others compute a kernel from factors that have no taps.
Scope: modules of PEFT, and of others with its names. Not here: adapters in files (see `architectures.lora`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..layers.module_names import owner_of

_BASE = "base_layer"
_SUMS = {_BASE, "lora_A", "lora_B", "lora_dropout", "lora_embedding_A", "lora_embedding_B", "lora_bias"}
_NORM = "lora_magnitude_vector"


def adapted(path: str, modules: Mapping[str, nn.Module]) -> str:
    """Why the convolution at `path` cannot be rescaled under its adapter; empty if it can, or if it has none.

    Examples
    --------
    >>> adapted("0", {"": nn.Sequential(nn.Conv1d(1, 1, 3)), "0": nn.Conv1d(1, 1, 3)})
    ''
    """
    here = path
    while here:
        here = owner_of(here)
        module: Any = modules.get(here)
        children = vars(module).get("_modules", {}) if module is not None else {}
        if _BASE not in children:
            continue
        if getattr(module, "merged", False) or getattr(module, "disable_adapters", False):
            return ""
        merge = "merge the adapter into the model first (PEFT: model = model.merge_and_unload())"
        if _holds(module, _NORM):
            return f"DoRA divides by the norm of its kernel, and rescaling changes that norm; {merge}"
        others = [name for name in (*children, *module._parameters) if name not in _SUMS and _holds(module, name)]
        if others:
            return f"its adapter computes a kernel ({others[0]}) that rescaling does not reach; {merge}"
    return ""


def _holds(module: nn.Module, name: str) -> bool:
    """Whether a module or parameter of that name holds a tensor."""
    found: Any = getattr(module, name, None)
    return any(True for _ in found.parameters()) if isinstance(found, nn.Module) else found is not None
