"""Decide for one evaluation of the model whether guidance or rescaled kernels act in it.

Scope: sigmas and shares. ComfyUI puts the sigmas that a sampler visits into `transformer_options["sample_sigmas"]`.
Every evaluation belongs to a step: to the step whose sigma it has, or, between two sigmas (DPM-2, SDE samplers), to the
noisier one. So a step is guided as a whole. Where a caller gives no `sample_sigmas`, each evaluation counts by its own
sigma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rekernel.diffusion.formulas.guided import Window
from rekernel.diffusion.formulas.schedules import Floats, NoiseSchedule

from .model_facts import Clock
from .settings import Share

_SAME = 1e-4  # relative: samplers compute sigmas from logarithms in float32


def sampled(options: Mapping[str, Any]) -> Floats | None:
    """The sigmas that the sampler visits, from the noisiest; None where the caller does not say them."""
    given = options.get("sample_sigmas")
    if given is None or len(given) == 0:
        return None
    return np.asarray(given.detach().double().cpu().numpy() if hasattr(given, "detach") else given, np.float64)


def step_sigma(sigma: Any, sigmas: Floats | None) -> Floats:
    """The sigma of the step to which an evaluation at `sigma` belongs.

    Examples
    --------
    >>> step_sigma([7.0, 5.0, 0.5, 20.0], np.array([10.0, 5.0, 1.0, 0.0])).tolist()
    [10.0, 5.0, 1.0, 20.0]
    """
    sigma = np.asarray(sigma, np.float64)
    if sigmas is None:
        return np.asarray(sigma)
    ascending = np.sort(sigmas)
    at = np.searchsorted(ascending, sigma * (1 - _SAME))
    return np.asarray(np.where(at < len(ascending), ascending[np.minimum(at, len(ascending) - 1)], sigma))


EVERY_STEP = Share(0.0, 1.0)


@dataclass(frozen=True)
class StepWindow(Window):
    """The weight of guidance in one evaluation, at every level of it.

    when : Share
    clock : Clock
    first : position of the sampler's first step in the schedule
    later : log-SNR of the evaluation minus that of its step, one per sample or one number

    A smaller pass is asked at the time whose noise it has. Between two steps it is decided as at its step, too.
    """

    when: Share = EVERY_STEP
    clock: Clock | None = None
    first: float = 1.0
    later: Any = 0.0

    def weight(self, schedule: NoiseSchedule, t: Any) -> Any:
        """`theta` where guidance acts, else 0, float64."""
        assert self.clock is not None
        at_step = schedule.time(schedule.log_snr(t) - self.later)
        holds = [self.when.holds(float(p), self.first) for p in np.ravel(self.clock.position(at_step))]
        return np.where(np.reshape(holds, np.shape(at_step)), self.theta, 0.0)


def window_of(
    theta: float, when: Share, clock: Clock, schedule: NoiseSchedule, sigma: Floats, options: Mapping[str, Any]
) -> StepWindow:
    """The window of one evaluation at `sigma`, one number per sample."""
    sigmas = sampled(options)
    later = schedule.log_snr(sigma) - schedule.log_snr(step_sigma(sigma, sigmas))
    first = float(clock.position(np.max(sigma) if sigmas is None else sigmas[0]))
    return StepWindow(theta, when=when, clock=clock, first=first, later=later)


def acts(when: Share, clock: Clock, sigma: Floats, options: Mapping[str, Any]) -> bool:
    """Whether something acts in an evaluation at `sigma`."""
    sigmas = sampled(options)
    first = float(clock.position(np.max(sigma) if sigmas is None else sigmas[0]))
    return when.holds(float(clock.position(step_sigma(sigma, sigmas)).max()), first)
