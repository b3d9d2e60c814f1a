"""The noise schedule and the kind of prediction behind a diffusers scheduler, read from its config.

Knows diffusers' schedulers by class name and config; imports none of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import RekernelError
from .schedules import DiscreteSchedule, EDMSchedule, FlowSchedule, NoiseSchedule, SigmaSchedule

_FLOW_TIMES = {"FluxTransformer2DModel": 1.0, "SD3Transformer2DModel": 1000.0}
"""The noisiest time that a network of rectified flow is fed; UNets are fed the scheduler's own."""


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
        network = type(denoiser).__name__
        times = float(config.get("num_train_timesteps", 1000)) if network.startswith("UNet") else None
        if (times := _FLOW_TIMES.get(network, times)) is None:
            raise RekernelError(
                f"{network}: whether it is fed times up to 1 or up to 1000 is not known; pass "
                f"schedule=FlowSchedule(times=...) and prediction='flow'"
            )
        return FlowSchedule(times=times), "flow"
    if name.startswith("EDM"):
        if kind != "epsilon":
            raise RekernelError(f"{name} with prediction_type={kind!r}: pass schedule= and prediction= yourself")
        return EDMSchedule(config["sigma_data"], config["sigma_min"], config["sigma_max"]), "edm"
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
