"""Read the noise schedule and the kind of prediction from a diffusers scheduler's config.

Scope: class names and configs of diffusers' schedulers; imports none of them. Not here: the schedules themselves (see
`formulas/schedules`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import RekernelError
from ..formulas.schedules import DiscreteSchedule, EDMSchedule, FlowSchedule, NoiseSchedule, SigmaSchedule

# Networks of rectified flow by what their pipelines in diffusers give them as time and do with their prediction: times
# from 0 to 1; the timesteps of the scheduler; 1 minus times from 0 to 1, and a prediction of the opposite sign.
_TIME_IN_UNIT_INTERVAL = ("FluxTransformer2DModel", "Flux2Transformer2DModel", "QwenImageTransformer2DModel")
_TIME_IN_TIMESTEPS = (
    "SD3Transformer2DModel", "SanaTransformer2DModel", "WanTransformer3DModel", "HunyuanVideoTransformer3DModel",
    "LTXVideoTransformer3DModel", "PixArtTransformer2DModel", "DiTTransformer2DModel",
)  # fmt: skip
_NOISE_AT_TIME_0 = ("Lumina2Transformer2DModel", "ZImageTransformer2DModel")
_INVERTED = ("MochiTransformer3DModel",)  # its scheduler turns time and sign round, in timesteps
_EDM_KINDS = {"epsilon": "edm", "v_prediction": "edm_v"}


def schedule_of(scheduler: Any, denoiser: Any = None) -> tuple[NoiseSchedule, str]:
    """The noise schedule of the network's input, and the kind of the network's prediction.

    Samplers that keep `x0 + sigma noise` (Euler, Heun, DPM2, LMS, ...) divide by sqrt(sigma^2 + 1) before they call the
    network, so the network's input is variance preserving for every scheduler with an alpha-bar table. Where a sampler
    rounds its timesteps, the network gets the rounded time, and so does this schedule.

    Parameters
    ----------
    scheduler : a diffusers scheduler
    denoiser : the network; its class name and its config are read

    Returns
    -------
    (NoiseSchedule, kind of prediction as in `predictions.KINDS`)

    Raises
    ------
    RekernelError
        For a scheduler or a network that this function does not know.
    """
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    kind = config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or kind == "flow_prediction" or config.get("use_flow_sigmas"):
        as_said = kind if config.get("use_flow_sigmas") and kind in ("epsilon", "sample") else None
        schedule = _flow_schedule(denoiser, float(config.get("num_train_timesteps", 1000)), config.get("invert_sigmas"))
        return schedule, as_said or ("negated_flow" if schedule.reverse else "flow")
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
    if config.get("timestep_type") == "continuous":  # the time is log(sigma)/4; inputs are divided by sqrt(sigma^2 + 1)
        sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
        least, most = config.get("sigma_min") or sigma.min(), config.get("sigma_max") or sigma.max()
        return EDMSchedule(1.0, float(least), float(most)), kind
    looked_up = getattr(getattr(denoiser, "config", None), "time_embedding_type", None) == "learned"
    return DiscreteSchedule(alpha_bar, snap=looked_up), kind


def _flow_schedule(denoiser: Any, scheduled: float, inverted: Any) -> FlowSchedule:
    """The schedule of a network of rectified flow, of one that is listed above or of a UNet."""
    network = type(denoiser).__name__
    if inverted and network in _INVERTED:
        return FlowSchedule(times=scheduled, reverse=True)
    if not inverted and network in _NOISE_AT_TIME_0:
        return FlowSchedule(reverse=True)
    if not inverted and network in _TIME_IN_UNIT_INTERVAL:
        return FlowSchedule()
    if not inverted and (network in _TIME_IN_TIMESTEPS or network.startswith("UNet")):
        scale = float(getattr(getattr(denoiser, "config", None), "timestep_scale", 1.0))  # Sana has one
        return FlowSchedule(times=scheduled * scale)
    raise RekernelError(
        f"{network}: rekernel does not know whether its times go up to 1 or to 1000, nor which end is noise; pass "
        f"schedule=FlowSchedule(times=1000), prediction='flow' (of noise - image, as most networks predict), or "
        f"schedule=FlowSchedule(times=1, reverse=True), prediction='negated_flow' (time 0 is noise)"
    )
