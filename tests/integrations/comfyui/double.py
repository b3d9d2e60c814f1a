"""A stand-in for ComfyUI with the calls that `recorded.json` records: the patcher, its wrappers, one evaluation.

The interface is written down in our own words. `test_real.py` records it again from a checkout, and compares.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
APPLY, BATCH = "apply_model", "calc_cond_batch"


class Executor:
    """Runs the wrappers that are left, then the function; calling it again starts again from there."""

    def __init__(self, original, class_obj, wrappers):
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args, **kwargs):
        if not self.wrappers:
            return self.original(*args, **kwargs)
        return self.wrappers[0](Executor(self.original, self.class_obj, self.wrappers[1:]), *args, **kwargs)


class EPS:
    """Stable Diffusion's sigmas, as `ModelSamplingDiscrete` has them."""

    def __init__(self):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        bar = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - bar) / bar).sqrt().float()
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def timestep(self, sigma):
        return (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(0)


class CONST:
    sigma_min, sigma_max = 0.001, 1.0


class SD15:
    pass


class SD3:
    pass


class Latents:
    spacial_downscale_ratio = 8


class Model:
    """`BaseModel`: what our wrapper reads of it, and `apply_model` with the arguments as recorded."""

    latent_format = Latents()

    def __init__(self, denoise, sampling=None, config=None, network=None):
        self.denoise, self.model_sampling = denoise, sampling or EPS()
        self.model_config, self.diffusion_model = config or SD15(), network

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more):
        options = transformer_options or {}
        found = [w for key in options.get("wrappers", {}).get(APPLY, {}).values() for w in key]
        given = {"c_concat": c_concat, "c_crossattn": c_crossattn, "control": control, "options": options}
        assert list(RECORDED["apply_model"]) == ["x", "t", "c_concat", "c_crossattn", "control", "transformer_options"]
        return Executor(self._run, self, found)(x, t, *given.values(), **more)

    def _run(self, x, t, c_concat, c_crossattn, control, transformer_options, **more):
        given = {"c_concat": c_concat, "c_crossattn": c_crossattn, "control": control, **more}
        return self.denoise(x, t, **{name: value for name, value in given.items() if value is not None})


class Patcher:
    """`ModelPatcher`, as far as the nodes use it."""

    def __init__(self, model, wrappers=None, options=None):
        self.model, self.wrappers, self.model_options = model, wrappers or {}, options or {}

    def clone(self):
        wrappers = {kind: {k: list(w) for k, w in by_key.items()} for kind, by_key in self.wrappers.items()}
        return Patcher(self.model, wrappers, dict(self.model_options))

    def get_wrappers(self, wrapper_type, key):
        return self.wrappers.get(wrapper_type, {}).get(key, [])

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type, key):
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def set_model_unet_function_wrapper(self, function):
        self.model_options["model_function_wrapper"] = function

    def evaluate(self, x, sigma, sample_sigmas=None, area=None, **c):
        """One evaluation as a sampler asks for it; `area` is a slice of rows that the condition covers."""
        options = {"wrappers": self.wrappers}
        if sample_sigmas is not None:
            options["sample_sigmas"] = sample_sigmas
        model_options = {**self.model_options, "transformer_options": options}
        found = [w for key in self.wrappers.get(BATCH, {}).values() for w in key]
        return Executor(self._batch, None, found)(self.model, [c], x, sigma, model_options)[area or slice(None)]

    def _batch(self, model, conds, x, timestep, model_options):
        part = conds[0].pop("rows", slice(None))
        c = {**conds[0], "transformer_options": {**model_options["transformer_options"], "sigmas": timestep}}
        x = x[..., part, :]
        if (wrapper := model_options.get("model_function_wrapper")) is not None:
            return wrapper(model.apply_model, {"input": x, "timestep": timestep, "c": c, "cond_or_uncond": [0, 1]})
        return model.apply_model(x, timestep, **c)
