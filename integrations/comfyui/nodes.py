"""Add two ComfyUI nodes that guide a model above its trained size: from noise, and in a stage of a cascade.

Scope: ComfyUI's model patcher, of which nothing is imported. Not here: the formulas (see `rekernel.diffusion`). The
interface used, as of github.com/comfyanonymous/ComfyUI:
`comfy/model_patcher.py` (`clone`, `model_options`, `set_model_unet_function_wrapper`, `get_model_object`),
`comfy/samplers.py` (the wrapper is called with `apply_model` and {"input", "timestep", "c", "cond_or_uncond"}),
`comfy/model_base.py` (`apply_model(x, sigma, **c)` returns the denoised image, so guidance is in its x0 form) and
`comfy/model_sampling.py` (`percent_to_sigma`; 0 is the noisy end).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from rekernel.diffusion import FlowSchedule, NoiseSchedule, SigmaSchedule, UpsampleGuidance, guided_prediction
from rekernel.diffusion.cascade.enlarging import resized

Wrapper = Callable[[Callable[..., Tensor], Mapping[str, Any]], Tensor]


class RekernelUpsampleGuidance:
    """The node: takes a MODEL and returns a guided copy of it; the original does not change."""

    CATEGORY = "sampling/custom_sampling/guidance"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "guide"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "model": ("MODEL",),
                "scale": ("FLOAT", {"default": 2.0, "min": 1.0, "max": 16.0, "step": 0.05,
                                    "tooltip": "Requested size divided by the size that the model was trained at."}),
                "theta": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 4.0, "step": 0.05,
                                    "tooltip": "Strength: 0 off, 1 take the coarse layout fully from the trained-size "
                                               "pass."}),
                "eta": ("FLOAT", {"default": 0.6, "min": 0.0, "max": 1.0, "step": 0.01,
                                  "tooltip": "Share of the range of log sigma, from the noisy end, in which guidance "
                                             "acts; not a share of the steps. For flow models: share of sigma."}),
                "levels": ("INT", {"default": 0, "min": 0, "max": 4,
                                   "tooltip": "Number of nested levels; 0 means one for each doubling of the size."}),
            }
        }  # fmt: skip

    def guide(self, model: Any, scale: float, theta: float, eta: float, levels: int) -> tuple[Any]:
        """Return a guided clone of `model`; another wrapper on the model keeps working, in every pass."""
        return (guided_clone(model, UpsampleGuidance(scale, theta, eta, levels=levels or None)),)


class RekernelCascadeStage:
    """The node for one stage of a cascade: it enlarges a finished latent and guides the model that samples it again.

    The stock KSampler does the rest, with the same `denoise`: it adds the noise and samples the end of the schedule, in
    all of its steps.
    """

    CATEGORY = "sampling/custom_sampling/guidance"
    RETURN_TYPES = ("MODEL", "LATENT", "FLOAT")
    RETURN_NAMES = ("model", "latent", "denoise")
    FUNCTION = "stage"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "model": ("MODEL",),
                "samples": ("LATENT",),
                "enlarge": ("FLOAT", {"default": 2.0, "min": 1.0, "max": 8.0, "step": 0.05,
                                      "tooltip": "New size divided by the size of the latent; 1 where it is large "
                                                 "already, for example encoded from an enlarged picture."}),
                "scale": ("FLOAT", {"default": 2.0, "min": 1.0, "max": 16.0, "step": 0.05,
                                    "tooltip": "New size divided by the size that the model was trained at. In a "
                                               "second stage it is not the same as enlarge."}),
                "denoise": ("FLOAT", {"default": 0.5, "min": 0.01, "max": 1.0, "step": 0.01,
                                      "tooltip": "The denoise of the KSampler behind this node; connect the output."}),
                "theta": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 4.0, "step": 0.05,
                                    "tooltip": "Strength of guidance, as in Upsample Guidance."}),
                "share": ("FLOAT", {"default": 0.6, "min": 0.0, "max": 1.0, "step": 0.01,
                                    "tooltip": "Share of this stage's part of the schedule, from its noisy end, in "
                                               "which guidance acts."}),
                "levels": ("INT", {"default": 0, "min": 0, "max": 4,
                                   "tooltip": "Number of nested levels; 0 means one for each doubling of the size."}),
            }
        }  # fmt: skip

    def stage(
        self, model: Any, samples: Mapping[str, Any], enlarge: float, scale: float, denoise: float, theta: float,
        share: float, levels: int,
    ) -> tuple[Any, dict[str, Any], float]:  # fmt: skip
        """Return a guided clone of `model`, the enlarged latent, and `denoise` for the KSampler."""
        latent: Tensor = samples["samples"]
        size = tuple(2 * max(1, round(n * enlarge / 2)) for n in latent.shape[-2:])  # even: Flux pairs its pixels
        made = {**samples, "samples": resized(latent, (size[0], size[1]))}
        # The stage runs from `denoise` down to 0 of the schedule, and guidance ends when a part of that is left.
        stop = float(model.get_model_object("model_sampling").percent_to_sigma(1 - denoise * (1 - share)))
        spec = UpsampleGuidance(scale, theta if share else 0.0, stop=stop, levels=levels or None)
        return guided_clone(model, spec), made, denoise


def guided_clone(model: Any, spec: UpsampleGuidance) -> Any:
    """A clone of a model with guidance; another wrapper on the model keeps working, in every pass."""
    schedule = schedule_of(model.get_model_object("model_sampling"))
    patched = model.clone()
    before = patched.model_options.get("model_function_wrapper")
    patched.set_model_unet_function_wrapper(wrapper(spec, schedule, before))
    return patched


def schedule_of(sampling: Any) -> NoiseSchedule:
    """The noise schedule of a model: rectified flow where its sampling is a CONST, else `x0 + sigma noise`.

    The time of both schedules is sigma.

    Examples
    --------
    >>> schedule_of(type("ModelSampling", (type("CONST", (), {}),), {})())
    FlowSchedule(shift=1, times=1)
    """
    if any(kind.__name__ == "CONST" for kind in type(sampling).__mro__):
        return FlowSchedule()
    return SigmaSchedule(float(sampling.sigma_min), float(sampling.sigma_max))


def wrapper(spec: UpsampleGuidance, schedule: NoiseSchedule, before: Wrapper | None = None) -> Wrapper:
    """The function that ComfyUI calls instead of `apply_model`.

    Channels joined to the image (c_concat) and ControlNet's residuals are averaged for the low-resolution pass.
    Embeddings do not change: SDXL's sizes are part of the embedding `y`, so the low-resolution pass gets the full size.
    """
    window = spec.window()

    def run(
        apply_model: Callable[..., Tensor], arguments: Mapping[str, Any], x: Tensor, sigma: Tensor, c: Any
    ) -> Tensor:
        if before is None:
            return apply_model(x, sigma, **c)
        return before(apply_model, {**arguments, "input": x, "timestep": sigma, "c": c})

    def guided(apply_model: Callable[..., Tensor], arguments: Mapping[str, Any]) -> Tensor:
        x, sigma = arguments["input"], arguments["timestep"]
        size = tuple(x.shape[2:])
        splits = spec.splits(size)
        conditions = [dict(arguments["c"])]
        for split in reversed(splits):
            conditions.append({name: _reduced(name, value, split) for name, value in conditions[-1].items()})
        conditions.reverse()

        def predict(x_level: Tensor, t: Any, level: int) -> Tensor:
            if level == len(splits):
                return run(apply_model, arguments, x, sigma, conditions[level])
            times = sigma.new_tensor(t).expand(sigma.shape)
            return run(apply_model, arguments, x_level.to(x.dtype), times, conditions[level])

        times = sigma.detach().double().cpu().numpy()
        made: Tensor = guided_prediction(predict, x, times, splits, schedule=schedule, kind="sample", window=window)
        return made

    return guided


def _reduced(name: str, value: Any, split: Any) -> Any:
    """A condition for the low-resolution pass: reduced where it lies on the image's grid, unchanged otherwise."""
    if name == "c_concat" and isinstance(value, Tensor):
        return split.at(tuple(value.shape[2:])).reduce_grid(value)
    if name == "control" and isinstance(value, Mapping):
        return {part: [_map(v, split) for v in values] for part, values in value.items()}
    return value


def _map(value: Any, split: Any) -> Any:
    """Reduce one residual of a ControlNet, a feature map (B, C, h, w); other values, such as None, do not change."""
    if not isinstance(value, Tensor) or value.ndim < 4:
        return value
    return split.at(tuple(value.shape[2:])).reduce_grid(value)


NODE_CLASS_MAPPINGS = {
    "RekernelUpsampleGuidance": RekernelUpsampleGuidance,
    "RekernelCascadeStage": RekernelCascadeStage,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RekernelUpsampleGuidance": "Upsample Guidance (rekernel)",
    "RekernelCascadeStage": "Guided Cascade Stage (rekernel)",
}
