"""Read what guidance must know of a ComfyUI model: its noise, its time, its usual size.

Scope: the attributes of `comfy.model_base.BaseModel`, of which nothing is imported. They are read when the model
samples, so that a node behind ours can still exchange `model_sampling` (LCM, zsnr, shift).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rekernel.diffusion.formulas.schedules import Floats, FlowSchedule, NoiseSchedule, SigmaSchedule

TRAINED = {
    "SD15": 512, "SD20": 512, "SDXL": 1024, "SDXLRefiner": 1024, "SD3": 1024, "Flux": 1024, "Chroma": 1024,
    "AuraFlow": 1024, "Lumina2": 1024, "HiDream": 1024, "HunyuanDiT": 1024, "QwenImage": 1328,
}  # fmt: skip
"""Pixels along a side, by the names of the classes in `comfy.supported_models`; subclasses are included."""

V_SD20 = 768  # Stable Diffusion 2.x predicts noise at 512 and v at 768


def is_flow(sampling: Any) -> bool:
    """Whether a model's input is `(1 - sigma) x0 + sigma noise`, as for SD3 and Flux."""
    return any(kind.__name__ == "CONST" for kind in type(sampling).__mro__)


def schedule_of(sampling: Any) -> NoiseSchedule:
    """The noise of a model as a function of sigma: rectified flow, or `x0 + sigma noise`.

    Examples
    --------
    >>> schedule_of(type("ModelSampling", (type("CONST", (), {}),), {})())
    FlowSchedule(shift=1, times=1)
    """
    if is_flow(sampling):
        return FlowSchedule()
    return SigmaSchedule(float(sampling.sigma_min), float(sampling.sigma_max))


class Clock:
    """The position of a sigma in a model's training schedule: 0 at the image, 1 at noise.

    It is the time that the network is told, divided by the largest one. This is what `eta` counts in rekernel with
    diffusers. For models of noise or v it is also what ComfyUI's own `start_percent` counts. For flow models the time
    is sigma itself, without the shift.

    sampling : the `model_sampling` of a model
    """

    def __init__(self, sampling: Any) -> None:
        self.of = sampling
        self.flow = is_flow(sampling)
        if self.flow:
            return
        with torch.no_grad():
            sigmas = sampling.sigmas.detach().float().cpu()
            times = sampling.timestep(sampling.sigmas).detach().double().cpu().numpy()
        self._logs = np.log(np.maximum(sigmas.double().numpy(), 1e-30))
        first = 0.0 if times[0] >= 0 else float(times[0])  # a distilled model knows 50 of 1000 times, from 19 on
        self._positions = (times - first) / (float(times[-1]) - first)

    def position(self, sigma: Any) -> Floats:
        """The position of each sigma, float64."""
        sigma = np.asarray(sigma, np.float64)
        if self.flow:
            return np.asarray(np.clip(sigma, 0.0, 1.0))
        return np.asarray(np.interp(np.log(np.maximum(sigma, 1e-30)), self._logs, self._positions))


def kind_of(model: Any) -> str:
    """The name of a model's kind, as `comfy.supported_models` calls it."""
    return type(getattr(model, "model_config", model)).__name__


def trained_size(model: Any) -> int | None:
    """Pixels along a side of the pictures that this kind of model was trained on; None where that is not known."""
    names = [kind.__name__ for kind in type(getattr(model, "model_config", None)).__mro__]
    found = next((name for name in names if name in TRAINED), None)
    predicts_v = getattr(getattr(model, "model_type", None), "name", "") == "V_PREDICTION"
    return V_SD20 if found == "SD20" and predicts_v else TRAINED.get(found or "")


def cell_of(model: Any) -> int:
    """Pixels of the picture for one pixel of the latent, along an axis."""
    return int(getattr(getattr(model, "latent_format", None), "spacial_downscale_ratio", 8))


def patch_of(model: Any) -> int:
    """Pixels of the latent along a side of one token of a transformer; 1 for a UNet."""
    patch = getattr(getattr(model, "diffusion_model", None), "patch_size", 1)
    patch = patch[-1] if isinstance(patch, list | tuple) else patch
    return patch if isinstance(patch, int) and patch > 0 else 1
