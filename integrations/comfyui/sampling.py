"""Put guidance and rescaled kernels around a ComfyUI model: one wrapper that runs every pass.

Scope: ComfyUI's model patcher and its wrappers, of which nothing is imported. The interface used, as of ComfyUI 0.3.64:
`ModelPatcher.clone`, `.get_wrappers(type, key)`, `.remove_wrappers_with_key(type, key)`, `.add_wrapper_with_key(type,
key, function)`. The wrapper "apply_model" is called as `BaseModel.apply_model` is, after an executor: calling the
executor runs the wrappers of others and the model, and `executor.class_obj` is the model, which returns the denoised
image. The wrapper "calc_cond_batch" sees the whole latent, where "apply_model" can get a region of it.

Both nodes share one wrapper, so their order does not matter. The old slot `model_function_wrapper` stays free: a node
that takes it runs around ours, in whatever order the two nodes stand.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from rekernel.diffusion import UpsampleGuidance, guided_prediction

from .conditions import reduced
from .model_facts import Clock, cell_of, kind_of, patch_of, schedule_of, trained_size
from .settings import Guidance, Kernels, Size
from .spread_kernels import lent_kernels
from .steps import acts, sampled, step_sigma, window_of

KEY = "rekernel"
APPLY_MODEL, CALC_COND_BATCH = "apply_model", "calc_cond_batch"

log = logging.getLogger(__name__)


class Executor(Protocol):
    """What a wrapper of ComfyUI gets in front of its arguments; calling it runs the wrappers that are left."""

    class_obj: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Asked:
    """What the nodes in front of a sampler ask for; a later node replaces what an earlier one of its kind asked for."""

    guidance: Guidance | None = None
    kernels: Kernels | None = None


def patched(model: Any, **asked: Any) -> Any:
    """A clone of a ComfyUI MODEL that is sampled with `guidance=` or `kernels=`; `model` itself does not change."""
    clone = model.clone()
    before = clone.get_wrappers(APPLY_MODEL, KEY)
    clone.remove_wrappers_with_key(APPLY_MODEL, KEY)
    clone.remove_wrappers_with_key(CALC_COND_BATCH, KEY)
    clone.add_wrapper_with_key(CALC_COND_BATCH, KEY, tell_size)
    clone.add_wrapper_with_key(APPLY_MODEL, KEY, Passes(replace(before[0].asked if before else Asked(), **asked)))
    return clone


def tell_size(executor: Executor, model: Any, conds: Any, x: Tensor, timestep: Any, model_options: Any) -> Any:
    """Write the size of the whole latent where the passes find it: a pass can get a region of it alone."""
    options = dict(model_options.get("transformer_options", {}))
    options[KEY] = {"size": tuple(x.shape[2:])}
    return executor(model, conds, x, timestep, {**model_options, "transformer_options": options})


class Passes:
    """The wrapper of `apply_model`: the guided image, from one pass for each level."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._clock: Clock | None = None
        self._said: Any = None

    def __call__(
        self, executor: Executor, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None,
        control: Any = None, transformer_options: Mapping[str, Any] | None = None, **more: Any,
    ) -> Any:  # fmt: skip
        conditions = {"c_concat": c_concat, "c_crossattn": c_crossattn, "control": control, **more}
        one = _Evaluation(executor, x, t, conditions, transformer_options or {}, self._clock_of(executor.class_obj))
        self._say(one)
        return one.guided(self.asked)

    def _clock_of(self, model: Any) -> Clock:
        if self._clock is None or self._clock.of is not model.model_sampling:
            self._clock = Clock(model.model_sampling)
        return self._clock

    def _say(self, one: _Evaluation) -> None:
        """Say once for each run of a sampler what is going to happen in it."""
        run = one.options.get("sample_sigmas")
        if run is not None and run is not self._said:
            self._said = run
            for line in one.described(self.asked):
                log.info("rekernel: %s", line)


class _Evaluation:
    """One call of the model."""

    def __init__(
        self, executor: Executor, x: Tensor, t: Tensor, conditions: Mapping[str, Any], options: Mapping[str, Any],
        clock: Clock,
    ) -> None:  # fmt: skip
        self.executor, self.x, self.t, self.conditions, self.options = executor, x, t, conditions, options
        self.model, self.clock = executor.class_obj, clock
        self.sigma = np.atleast_1d(t.detach().double().cpu().numpy())
        self.latent = tuple(options.get(KEY, {}).get("size", x.shape[2:]))

    def factors(self, size: Size) -> tuple[float, ...]:
        """Size of the whole latent over the trained size, per axis."""
        return size.factors(self.latent, trained_size(self.model), cell_of(self.model), kind_of(self.model))

    def splits(self, guidance: Guidance) -> tuple[Any, ...]:
        """The reductions from this image to the trained size; none at the trained size or with strength 0."""
        if guidance.strength == 0:
            return ()
        spec = UpsampleGuidance(self.factors(guidance.size), guidance.strength, levels=guidance.levels)
        return spec.splits(tuple(self.x.shape[2:]), None, patch_of(self.model))

    def guided(self, asked: Asked) -> Any:
        """The denoised image."""
        splits = () if asked.guidance is None else self.splits(asked.guidance)
        if asked.guidance is None or not splits:
            return self._pass(asked.kernels, self.x, self.t, self.conditions, self.options)
        schedule = schedule_of(self.model.model_sampling)
        theta, when = asked.guidance.strength, asked.guidance.when
        window = window_of(theta, when, self.clock, schedule, self.sigma, self.options)

        def predict(x: Tensor, t: Any, level: int) -> Any:
            if level == len(splits):
                return self._pass(asked.kernels, self.x, self.t, self.conditions, self.options)
            conditions = self.conditions
            for split in reversed(splits[level:]):
                conditions = reduced(conditions, split, self.model)
            ratio = tuple(n / m for n, m in zip(self.x.shape[2:], x.shape[2:], strict=True))
            times = self.t.new_tensor(t).expand(self.t.shape)
            options = {**self.options, KEY: {"size": self.latent, "reduced": ratio}}
            return self._pass(asked.kernels, x.to(self.x.dtype), times, conditions, options)

        return guided_prediction(predict, self.x, self.sigma, splits, schedule=schedule, kind="sample", window=window)

    def _pass(
        self, kernels: Kernels | None, x: Tensor, t: Tensor, conditions: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        """One pass of the model, with the kernels of its size."""
        arguments = dict(conditions)
        given = (x, t, arguments.pop("c_concat"), arguments.pop("c_crossattn"), arguments.pop("control"), {**options})
        factors = self._kernel_factors(kernels, t, options)
        if kernels is None or all(f == 1 for f in factors):
            return self.executor(*given, **arguments)
        with lent_kernels(self.model.diffusion_model, factors, kernels.method, kind_of(self.model)):
            return self.executor(*given, **arguments)

    def _kernel_factors(self, kernels: Kernels | None, t: Tensor, options: Mapping[str, Any]) -> tuple[float, ...]:
        """Scale of the kernels in a pass: 1 where they stay as they are."""
        sigma = np.atleast_1d(t.detach().double().cpu().numpy())
        if kernels is None or not acts(kernels.when, self.clock, sigma, options):
            return (1.0,)
        less = options.get(KEY, {}).get("reduced", (1.0,) * len(self.latent))
        found = [f / r for f, r in zip(self.factors(kernels.size), less, strict=True)]
        return tuple(float(round(f)) if abs(f - round(f)) < _WHOLE else max(1.0, f) for f in found)

    def described(self, asked: Asked) -> list[str]:
        """What is going to happen in this run, a line for each node."""
        lines, sizes = [], "x".join(map(str, self.latent))
        sigmas = sampled(self.options)
        assert sigmas is not None
        steps = step_sigma(sigmas[:-1], sigmas)
        for name, one in (("guidance", asked.guidance), ("rescaled kernels", asked.kernels)):
            if one is None:
                continue
            factors = self.factors(one.size)
            if all(f == 1 for f in factors):
                lines.append(f"{name}: a latent of {sizes} is no larger than the trained size, so nothing changes")
                continue
            first = float(self.clock.position(sigmas[0]))
            count = sum(one.when.holds(float(p), first) for p in self.clock.position(steps))
            scale = "x".join(f"{f:g}" for f in factors)
            lines.append(f"{name} at {scale} times the trained size (latent {sizes}), in {count} of {len(steps)} steps")
        return lines


_WHOLE = 0.05  # a reduced size is rounded to pixels, so 2.02 times the trained size means twice the trained size
