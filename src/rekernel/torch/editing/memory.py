"""Refuse weights that the memory of this machine cannot hold, before they are made.

Scope: sizes of tensors. Not here: a scale that must be a slip (see `planning.allowed_values`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from torch import Tensor

from ...errors import RekernelError
from ...escape import shown
from ...plan.plan import Plan
from ...text import byte_size, dims


def refuse_too_large(plan: Plan, tensors: Mapping[str, Tensor], memory: int | None = None) -> None:
    """Raise if the new weights of a plan need more memory than the machine has.

    Parameters
    ----------
    tensors : mapping
        The tensors of the model by name; those on the meta device or on another one than the CPU do not count.
    memory : int, optional
        Bytes of memory; by default those of this machine, if it tells them.

    Raises
    ------
    RekernelError
        Naming the largest of them.
    """
    memory = _installed() if memory is None else memory
    here = {name: t.element_size() for name, t in tensors.items() if t.device.type == "cpu"}
    sizes = {c.name: math.prod(c.new_shape) * here[c.name] for c in plan.changed if c.operators and c.name in here}
    total = sum(sizes.values())
    if memory is None or total <= memory:
        return
    largest = next(c for c in plan.changed if c.name == max(sizes, key=sizes.__getitem__))
    raise RekernelError(
        f"the new weights take {byte_size(total)}, and this machine has {byte_size(memory)} of memory; the largest is "
        f"{shown(largest.name)}, {dims(largest.shape)} -> {dims(largest.new_shape)}. Choose a smaller scale (new "
        f"pixels per old pixel), or exclude the layer"
    )


def _installed() -> int | None:
    """The bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
