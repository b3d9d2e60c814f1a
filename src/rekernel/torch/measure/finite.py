"""Find and write down numbers that are not finite.

Scope: outputs of layers, and plain dicts and lists for JSON. Not here: verdicts (see `torch.measure.verdict`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def first_not_finite(*models: nn.Module) -> Iterator[list[str]]:
    """While it lasts, list the name of the first layer with parameters whose outputs are not finite; others not.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> with first_not_finite(model) as found:
    ...     _ = model(torch.full((1, 2), torch.inf))
    >>> found
    ['0']
    """
    found: list[str] = []
    with ExitStack() as stack:
        for model in models:
            for name, module in model.named_modules():
                if not name or not any(True for _ in module.parameters(recurse=False)):
                    continue

                def note(_module: nn.Module, _args: Any, out: Any, name: str = name) -> None:
                    if not found and isinstance(out, Tensor) and not bool(torch.isfinite(out).all()):
                        found.append(name)

                stack.callback(module.register_forward_hook(note).remove)
        yield found


def for_json(value: Any) -> Any:
    """The same with None in place of NaN and infinity, which Python writes as words that other readers refuse.

    Examples
    --------
    >>> for_json({"error": float("nan"), "times": [0.5, float("inf")]})
    {'error': None, 'times': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
