"""Let a pipeline start its scheduler late: a stand-in for the scheduler that shows only the last steps.

Scope: the interface that the schedulers of diffusers share. Not here: the pipeline (see `running`).

A pipeline of diffusers asks its scheduler for timesteps, scales the noise by `init_noise_sigma` and calls `step` for
each of them. The stand-in is of the same class and passes everything on to a copy of the scheduler, with four
differences: `timesteps` and `sigmas` are the last ones, the copy's begin index is moved to the first of them,
`init_noise_sigma` is 1 because the image that it starts from is noisy already, and the noise that an inpainting
pipeline adds to the known part of its picture is the noise of the start. The copy itself keeps all its timesteps, since
multistep schedulers count in them.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...errors import Option, RekernelError

_NEEDED = ("set_timesteps", "step")
_CLOSE = 0.02  # the pipeline may have rounded the start to half precision


class Prepared(BaseException):
    """Ends a call of a pipeline at the point where its timesteps are known; no `except Exception` catches it."""


class LateScheduler:
    """A copy of a scheduler, from which `stand_in` starts at the last steps.

    Parameters
    ----------
    scheduler : a diffusers scheduler; it does not change
    strength : share of the steps that are run; None for all of them, from noise; 0 for no step
    name : what the steps belong to, for messages

    Attributes
    ----------
    timesteps : the timesteps that the pipeline sees, once it has set them
    result : what the last step returned
    started : the noisy image with which sampling starts, in the pipeline's own form; None for the first stage
    noise : the noise in it
    substitutes : whether `started` replaces the image that the pipeline drew itself
    rehearses : whether the call ends as soon as the timesteps are known
    """

    def __init__(self, scheduler: Any, strength: float | None, name: str) -> None:
        if missing := [part for part in _NEEDED if not hasattr(scheduler, part)]:
            raise RekernelError(f"{name}: its scheduler {type(scheduler).__name__} has no {missing[0]}()")
        self.inner = copy.deepcopy(scheduler)
        self.strength, self.name = strength, name
        self.timesteps: Any = getattr(self.inner, "timesteps", None)
        self.started: Tensor | None = None
        self.noise: Tensor | None = None
        self.substitutes = self.rehearses = False
        self.result: Any = None
        self.steps = self._offset = 0
        self._life = SimpleNamespace(over=False)  # shared with copies

    @property
    def first_time(self) -> float:
        """The timestep of the first step."""
        return float(self.timesteps[0])

    @property
    def noise_share(self) -> float:
        """The share of noise at the first step, in the unit of a flow-matching scheduler: 1 is pure noise."""
        share = self.first_time / float(getattr(self.inner.config, "num_train_timesteps", 1000))
        return 1 - share if self._inverted else share

    @property
    def _inverted(self) -> bool:
        """Whether times grow from the noise to the picture (Mochi)."""
        return bool(getattr(getattr(self.inner, "config", None), "invert_sigmas", False))

    def noised(self, image: Tensor, noise: Tensor) -> Tensor:
        """The image with noise of the first timestep, as the scheduler itself adds it.

        Raises
        ------
        RekernelError
            For a scheduler that cannot add noise.
        """
        add = getattr(self.inner, "scale_noise", None) or getattr(self.inner, "add_noise", None)
        if add is None:
            raise RekernelError(
                f"{self.name}: its scheduler {type(self.inner).__name__} has neither add_noise() nor scale_noise(), so "
                f"a stage cannot start from a picture; use another scheduler"
            )
        times = self.timesteps[:1].repeat(len(image))
        if self._inverted:  # its sigma is the share of the picture, and scale_noise() takes it for that of the noise
            image, noise = noise, image
        named = inspect.signature(add).parameters
        made: Tensor = add(image, times, noise) if list(named)[1].startswith("timestep") else add(image, noise, times)
        return made.to(image.dtype)

    def stand_in(self) -> Any:
        """The object that takes the scheduler's place in the pipeline."""
        inner, own, life = self.inner, self._own(), self._life
        kind = type(inner)

        def get(_: Any, name: str) -> Any:
            return own[name]() if name in own and not life.over else getattr(inner, name)

        def put(_: Any, name: str, value: Any) -> None:
            setattr(inner, name, value)

        named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        stand_in = type(kind.__name__, (kind,), {**named, "__getattribute__": get, "__setattr__": put})
        return object.__new__(stand_in)

    def retire(self) -> None:
        """Let the stand-in be a scheduler like any other: a pipeline that was made during the stage may keep it."""
        self._life.over = True

    def _copied(self, memo: Any) -> Any:
        """A stand-in with a scheduler of its own, which starts as late; its steps are not those of the sample."""
        other = copy.copy(self)
        other.inner = copy.deepcopy(self.inner, memo)
        other.started = other.noise = None
        other.rehearses = False
        return other.stand_in()

    def _own(self) -> dict[str, Callable[[], Any]]:
        """The attributes that differ from those of the scheduler, each as a function that returns it."""
        own: dict[str, Callable[[], Any]] = {
            "set_timesteps": lambda: _signed(self._set_timesteps, self.inner.set_timesteps),
            "step": lambda: _signed(self._step, self.inner.step),
            "timesteps": lambda: self.timesteps,
            "__deepcopy__": lambda: self._copied,
        }
        if self.strength is None:
            return own
        own["init_noise_sigma"] = lambda: 1.0
        if hasattr(self.inner, "sigmas"):  # pipelines index them like their timesteps
            own["sigmas"] = self._sigmas
        if hasattr(self.inner, "set_begin_index"):
            own["set_begin_index"] = lambda: self._set_begin_index
        for name in ("add_noise", "scale_noise"):
            if hasattr(self.inner, name):
                own[name] = functools.partial(self._with_same_noise, getattr(self.inner, name))
        return own

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        if "num_inference_steps" in vars(self.inner):  # some leave that of an earlier call beside custom timesteps
            self.inner.num_inference_steps = None
        self.inner.set_timesteps(*args, **kwargs)
        self.timesteps, self.steps = self.inner.timesteps, 0
        if self.strength is not None:
            self._cut(self.strength)
        if self.rehearses:
            raise Prepared

    def _cut(self, strength: float) -> None:
        """Keep the share `strength` of the steps."""
        order = getattr(self.inner, "order", 1)
        said = getattr(self.inner, "num_inference_steps", None)
        steps = said if isinstance(said, int) else -(-len(self.timesteps) // order)
        kept = _kept(self.inner, steps, strength)
        if strength == 0:
            self.timesteps = self.timesteps[:0]
            return
        if kept < 1:
            raise RekernelError(
                f"{self.name}: strength={strength:g} of {steps} steps leaves no step; raise the strength or ",
                Option("num_inference_steps", "--steps"),
            )
        self._offset = (steps - kept) * order
        self.timesteps = self.timesteps[self._offset :]
        if hasattr(self.inner, "plms_timesteps"):
            if len(self.inner.prk_timesteps):
                raise RekernelError(
                    f"{self.name}: a PNDMScheduler with skip_prk_steps=False cannot start late, since it takes its "
                    f"first steps by another rule; use PNDMScheduler.from_config(pipe.scheduler.config, "
                    f"skip_prk_steps=True)"
                )
            self.timesteps = _repeated_second(self.timesteps[-kept:])
        if hasattr(self.inner, "set_begin_index"):
            self.inner.set_begin_index(self._offset)

    def _sigmas(self) -> Any:
        sigmas = self.inner.sigmas
        return sigmas[self._offset :] if self._offset else sigmas

    def _set_begin_index(self, begin_index: int = 0) -> None:
        self.inner.set_begin_index(self._offset + begin_index)

    def _step(self, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(self.inner.step).bind(*args, **kwargs)
        name = "sample" if "sample" in bound.arguments else list(bound.arguments)[2]
        if self.steps == 0 and self.started is not None:
            bound.arguments[name] = self._checked(bound.arguments[name])
        if "order" in bound.signature.parameters and self.strength is not None:
            # LMS takes its order from the number of steps before the start too, of which it has no derivatives.
            bound.apply_defaults()
            bound.arguments["order"] = min(bound.arguments["order"], self.steps + 1)
        made = self.inner.step(*bound.args, **bound.kwargs)
        self.result = made[0] if isinstance(made, tuple) else made.prev_sample
        self.steps += 1
        return made

    def _checked(self, sample: Tensor) -> Tensor:
        """The image of the first step: the start, where the pipeline cannot be given one, or the pipeline's own."""
        assert self.started is not None
        if self.substitutes:
            return repeated(self.started, len(sample))
        same = sample.shape == self.started.shape
        if not same or not torch.allclose(sample.float(), self.started.float(), rtol=_CLOSE, atol=_CLOSE):
            raise RekernelError(
                f"{self.name}: it does not sample from the latents that it is given as they are (shape "
                f"{tuple(self.started.shape)}, and its first step has {tuple(sample.shape)}), so a stage cannot start "
                f"from a picture"
            )
        return sample

    def _with_same_noise(self, add: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(add)
        def added(*args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(add).bind(*args, **kwargs)
            given = bound.arguments.get("noise")
            if isinstance(given, Tensor) and self.noise is not None and given.shape[1:] == self.noise.shape[1:]:
                bound.arguments["noise"] = repeated(self.noise.to(given), len(given))
            return add(*bound.args, **bound.kwargs)

        return added


def _kept(scheduler: Any, steps: int, strength: float) -> int:
    """The steps of a stage, as diffusers' img2img pipelines round them: up for flow matching, else down."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return steps - int(max(steps - steps * strength, 0))
    return min(int(steps * strength), steps)


def _signed(call: Callable[..., Any], like: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the signature of another one: pipelines ask which arguments their scheduler takes."""

    @functools.wraps(like)
    def signed(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    return signed


def _repeated_second(timesteps: Tensor) -> Tensor:
    """PNDM takes its first step twice: it needs the second timestep two times, wherever it starts."""
    return torch.cat([timesteps[:1], timesteps[1:2], timesteps[1:]])


def repeated(image: Tensor, count: int) -> Tensor:
    """The image repeated along the batch, as classifier-free guidance doubles it."""
    return image if len(image) == count else image.repeat(count // len(image), *(1 for _ in image.shape[1:]))


__all__ = ["LateScheduler", "Prepared", "repeated"]
