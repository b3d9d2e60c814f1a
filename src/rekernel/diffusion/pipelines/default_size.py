"""Set the default size of a loaded pipeline that has it itself: its denoiser's config has no `sample_size`.

Scope: attributes of pipelines. Not here: the sizes in configs of denoisers (see `load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...messages.warn import tell
from ..denoiser.names import SIZE_OF_PIPELINE
from .record import Recorded


def set_default_size(pipe: Any, records: Mapping[str, Recorded]) -> None:
    """Let a pipeline sample at the recorded size by default; warn where it has no default size that can be set.

    Parameters
    ----------
    pipe : a diffusers pipeline, after its constructor ran for the last time
    records : by the denoiser's name
    """
    for name, found in records.items():
        denoiser = getattr(pipe, name)
        if found.plan is not None or denoiser.config.get("sample_size") is not None:
            continue
        new, own = found.new_size, type(denoiser).__name__ in SIZE_OF_PIPELINE
        if isinstance(new, int) and own and hasattr(pipe, "default_sample_size"):
            pipe.default_sample_size = new
        elif isinstance(new, int) and pipe.config.get("sample_size") is not None:
            pipe.register_to_config(sample_size=new)
        else:
            kind = type(pipe).__name__
            note = f"{kind}: its default size stays, and a call at that size would be taken for one above the trained "
            tell([f"{note}size; pass height= and width= when calling the pipeline"])


__all__ = ["set_default_size"]
