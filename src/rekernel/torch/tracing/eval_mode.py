"""Put models into evaluation mode for the duration of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode, so that a pass changes no statistics; restore their modes afterwards."""
    before = {module: module.training for model in models for module in model.modules()}
    if any(before.values()):
        for model in models:
            model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            if module.training != training:  # setting an attribute of a module takes longer than looking
                module.training = training
