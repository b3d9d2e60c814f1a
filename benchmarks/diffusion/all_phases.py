"""Guidance whose low band is the mean over all phases of the block grid: an experiment.

A network whose kernels are dilated and whose reading layer averages areas gives, at each phase, the trained network's
answer to the reduced shifted picture (docs/mathematics.md). So one pass of it at the full size predicts the low band at
all four phases of 2x2 blocks. Here the four answers come from four passes at the trained size, which is the same
function and needs no rescaled network; both cost one full pass. Rolling wraps the border around: the pictures here have
an even border.
Scope: 2x, pixels, a UNet that predicts noise. Not here: guidance itself (see `rekernel.diffusion`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rekernel.diffusion import DiscreteSchedule, Window, block_split, guided_prediction

PHASES = [(y, x) for y in (0, 1) for x in (0, 1)]


class AllPhases:
    """Guidance at 2x with the mean of four phases; `low_passes` counts the passes at the trained size."""

    def __init__(self, pipe: Any, trained: int, theta: float, eta: float, enlarge: str) -> None:
        self.unet, self.trained, self.enlarge = pipe.unet, trained, enlarge
        self.schedule = DiscreteSchedule(pipe.scheduler.alphas_cumprod.double().numpy())
        self.window = Window(theta, eta)
        self.low_passes = 0

    @contextmanager
    def attached(self) -> Iterator[AllPhases]:
        """Guide every call of the network above the trained size."""
        self.forward = self.unet.forward
        self.unet.forward = self._forward
        try:
            yield self
        finally:
            del self.unet.forward

    def _forward(self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None, **options: Any) -> Any:
        out = self.forward(sample, timestep, class_labels=class_labels, **options)
        size = sample.shape[-1]
        if size == self.trained:
            return out
        full, split = out[0], block_split((size, size), size / self.trained, enlarge=self.enlarge)
        times = np.full(len(sample), float(timestep))
        change = torch.zeros_like(full)
        for shift in PHASES:
            back = tuple(-n for n in shift)
            moved = torch.roll(full, back, (-2, -1))

            def predict(x: Tensor, t: Any, level: int, moved: Tensor = moved) -> Tensor:
                if level:
                    return moved
                self.low_passes += 1
                at = torch.as_tensor(np.asarray(t), dtype=torch.float32)
                low: Tensor = self.forward(x, at, class_labels=class_labels, **options)[0]
                return low

            guided = guided_prediction(
                predict, torch.roll(sample, back, (-2, -1)), times, [split], schedule=self.schedule, kind="epsilon",
                window=self.window,
            )  # fmt: skip
            change += torch.roll(guided - moved, shift, (-2, -1)) / len(PHASES)
        return type(out)(full + change)
