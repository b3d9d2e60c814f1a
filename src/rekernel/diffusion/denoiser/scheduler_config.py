"""The noise schedule and the kind of prediction behind a diffusers scheduler, read from its config.

Knows diffusers' schedulers by class name and config; imports none of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import RekernelError
from ..formulas.schedules import DiscreteSchedule, EDMSchedule, FlowSchedule, NoiseSchedule, SigmaSchedule

_FED_UP_TO_1 = ("FluxTransformer2DModel",)
_FED_AS_SCHEDULED = (
    "SD3Transformer2DModel", "SanaTransformer2DModel", "WanTransformer3DModel", "HunyuanVideoTransformer3DModel",
)  # fmt: skip
_EDM_KINDS = {"epsilon": "edm", "v_prediction": "edm_v"}


def schedule_of(scheduler: Any, denoiser: Any = None) -> tuple[NoiseSchedule, str]:
    """What the network that this scheduler drives is fed, and what it predicts.

    Samplers that keep `x0 + sigma noise` (Euler, Heun, DPM2, LMS, ...) divide by sqrt(sigma^2 + 1) before the network,
    so every scheduler with an alpha-bar table is variance preserving there. Where a sampler rounds its timesteps, the
    time is the rounded one, which is what the network is fed too.

    Parameters
    ----------
    scheduler : a diffusers scheduler
    denoiser : the network; its class name and its config matter

    Returns
    -------
    (NoiseSchedule, kind of prediction as in `predictions.KINDS`)

    Raises
    ------
    RekernelError
        For a scheduler that is none of these.
    """
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    kind = config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or kind == "flow_prediction" or config.get("use_flow_sigmas"):
        times = _flow_times(denoiser, float(config.get("num_train_timesteps", 1000)))
        if times is None or config.get("invert_sigmas"):
            raise RekernelError(
                f"{type(denoiser).__name__}: whether it is fed times up to 1 or up to 1000, and which end is noise, is "
                f"not known; pass schedule=FlowSchedule(times=...) and prediction='flow'"
            )
        as_said = config.get("use_flow_sigmas") and kind in ("epsilon", "sample")
        return FlowSchedule(times=times), kind if as_said else "flow"
    if name.startswith("EDM"):
        if kind not in _EDM_KINDS:
            raise RekernelError(f"{name} with prediction_type={kind!r}: pass schedule= and prediction= yourself")
        return EDMSchedule(config["sigma_data"], config["sigma_min"], config["sigma_max"]), _EDM_KINDS[kind]
    if name.startswith("ScoreSdeVe"):
        return SigmaSchedule(config["sigma_min"], config["sigma_max"]), "score"
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or kind not in ("epsilon", "sample", "v_prediction"):
        raise RekernelError(
            f"{name} (prediction_type={kind!r}) has no schedule that rekernel knows; "
            f"pass schedule= (rekernel.diffusion.DiscreteSchedule, FlowSchedule, ...) and prediction="
        )
    alpha_bar = np.asarray(table.detach().cpu().double().numpy() if hasattr(table, "detach") else table, np.float64)
    if config.get("timestep_type") == "continuous":  # fed log(sigma)/4 with inputs over sqrt(sigma^2 + 1)
        sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
        least, most = config.get("sigma_min") or sigma.min(), config.get("sigma_max") or sigma.max()
        return EDMSchedule(1.0, float(least), float(most)), kind
    looked_up = getattr(getattr(denoiser, "config", None), "time_embedding_type", None) == "learned"
    return DiscreteSchedule(alpha_bar, snap=looked_up), kind


def _flow_times(denoiser: Any, scheduled: float) -> float | None:
    """The noisiest time that a network of rectified flow is fed; None where that is not known."""
    network = type(denoiser).__name__
    if network in _FED_UP_TO_1:
        return 1.0
    if network in _FED_AS_SCHEDULED or network.startswith("UNet"):
        return scheduled * float(getattr(getattr(denoiser, "config", None), "timestep_scale", 1.0))  # Sana has one
    return None
