"""Families of diffusion models: diffusers UNets and AutoencoderKL, and single-file Stable Diffusion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from .base import LayerFacts, Shapes, exactly, has_all, indices


class DiffusersUNet:
    """UNet2DModel, UNet2DConditionModel and similar UNets of diffusers."""

    name = "diffusers UNet"
    default = "inner"

    def recognises(self, shapes: Shapes) -> bool:
        return has_all(shapes, r"^conv_in\.weight$", r"^down_blocks\.0\.", r"^up_blocks\.0\.", r"^time_embedding\.")

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        if re.search(r"\.downsamplers\.\d+\.conv\.weight$", name):
            return LayerFacts(stride=2, padding=(1, 1))
        return LayerFacts(reads_image=name == "conv_in.weight")

    def gives_image(self, shapes: Shapes) -> bool:
        return True

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        down, up = (indices(shapes, rf"^{side}_blocks\.(\d+)\.") for side in ("down", "up"))
        finest = max(down[-1:] + up[-1:], default=0)  # an adapter of a UNet may lack blocks
        inner = [f"down_blocks.{i}.*" for i in down if i > 0] + [f"up_blocks.{i}.*" for i in up if i < finest]
        inner += [p for p, there in (("mid_block.*", "mid_block."),) if any(n.startswith(there) for n in shapes)]
        inner += [f"*.{part}.*" for part in ("downsamplers", "upsamplers") if has_all(shapes, rf"\.{part}\.")]
        return {"inner": tuple(inner), "all": ("*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()


class AutoencoderKL:
    """AutoencoderKL of diffusers."""

    name = "diffusers AutoencoderKL"
    default = "all"

    def recognises(self, shapes: Shapes) -> bool:
        return has_all(
            shapes, r"^encoder\.conv_in\.weight$", r"^decoder\.conv_in\.weight$", r"^encoder\.down_blocks\.0\."
        )

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        # diffusers pads explicitly, on the right and bottom only, before a convolution without padding.
        if ".downsamplers." in name:
            return LayerFacts(stride=2, padding=(0, 1))
        return LayerFacts(reads_image=name == "encoder.conv_in.weight")

    def gives_image(self, shapes: Shapes) -> bool:
        return True

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        return {"all": ("*",), "encoder": ("encoder.*",), "decoder": ("decoder.*",)}

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()


class SingleFileDiffusion:
    """Stable Diffusion 1.x, 2.x and XL in one file with the original tensor names, or only the UNet (ComfyUI)."""

    name = "Stable Diffusion single file"
    default = "inner"
    _prefixes = ("model.diffusion_model.", "diffusion_model.", "")
    _layers = re.compile(r"^((model\.)?diffusion_model\.)?(input_blocks|middle_block|output_blocks|out)\.")
    _beside = ("first_stage_model.", "model_ema.")

    def recognises(self, shapes: Shapes) -> bool:
        # Other models use these names without a prefix: guided-diffusion, which has no `op`.
        prefix = self._prefix(shapes)
        return prefix is not None and (bool(prefix) or has_all(shapes, r"^input_blocks\.\d+\.0\.op\.weight$"))

    def facts(self, name: str, shapes: Shapes) -> LayerFacts | None:
        # The names of averaged weights have no dots: model_ema.diffusion_modelinput_blocks30opweight.
        if re.search(r"input_blocks(\.\d+\.0\.op\.|\d+op)weight$", name):
            return LayerFacts(stride=2, padding=(1, 1))
        if re.search(r"encoder\.down\.\d+\.downsample\.conv\.weight$", name):
            return LayerFacts(stride=2, padding=(0, 1), autoencoder=True)
        if self._layers.match(name) or name.startswith(self._beside):
            unet, averaged = self._prefix(shapes), "model_ema.diffusion_modelinput_blocks00weight"
            readers = (f"{unet}input_blocks.0.0.weight", averaged, "first_stage_model.encoder.conv_in.weight")
            return LayerFacts(reads_image=name in readers, autoencoder=name.startswith("first_stage_model."))
        return None

    def gives_image(self, shapes: Shapes) -> bool:
        return True

    def presets(self, shapes: Shapes) -> dict[str, tuple[str, ...]]:
        unet = self._prefix(shapes) or ""
        downs = indices(shapes, rf"^{re.escape(unet)}input_blocks\.(\d+)\.0\.op\.")
        ups = indices(shapes, rf"^{re.escape(unet)}output_blocks\.(\d+)\.\d+\.conv\.")
        blocks = indices(shapes, rf"^{re.escape(unet)}input_blocks\.(\d+)\.")
        outputs = indices(shapes, rf"^{re.escape(unet)}output_blocks\.(\d+)\.")
        # The first downsampler ends the finest level; after the last upsampler the finest level begins again.
        inner = [f"{unet}input_blocks.{i}.*" for i in blocks if downs and i >= downs[0]]
        inner += [f"{unet}middle_block.*"] if any(n.startswith(f"{unet}middle_block.") for n in shapes) else []
        inner += [f"{unet}output_blocks.{i}.*" for i in outputs if ups and i <= ups[-1]]
        presets = {
            "inner": (*inner, *self._averaged(shapes, inner)),
            "all": (f"{unet}*", *self._averaged(shapes, [f"{unet}*"])),
        }
        if has_all(shapes, r"^first_stage_model\."):
            presets["vae"] = ("first_stage_model.*",)
        return presets

    def notes(self, shapes: Shapes) -> tuple[str, ...]:
        return ()

    def _prefix(self, shapes: Shapes) -> str | None:
        return next((p for p in self._prefixes if f"{p}input_blocks.0.0.weight" in shapes), None)

    @staticmethod
    def _averaged(shapes: Shapes, patterns: Iterable[str]) -> tuple[str, ...]:
        """Return patterns for the averaged copies of the tensors that `patterns` match."""
        copies = {f"model_ema.{''.join(name.split('.')[1:])}": name for name in shapes if name.startswith("model.")}
        return exactly(n for n, of in copies.items() if n in shapes and any(fnmatchcase(of, p) for p in patterns))
