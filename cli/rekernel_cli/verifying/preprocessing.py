"""Find out how a network's pictures are prepared: from the files beside its weights, or from options.

Scope: preprocessor_config.json of transformers and the pretrained_cfg of timm, read as JSON. Not here: pixels (see
`verifying.pictures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rekernel.checkpoint.strict_json import read_object
from rekernel.errors import RekernelError
from rekernel.escape import shown, shown_path

_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers
_KNOWN = (
    "ViT", "CLIP", "ConvNext", "MobileNetV1", "MobileNetV2", "MobileViT", "Bit", "DeiT", "Segformer", "Siglip", "DPT",
    "Pvt", "Beit", "Flava", "TextNet",
)  # fmt: skip
"""Image processors of transformers whose defaults make the same of a square picture."""
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Preprocessing:
    """How the bytes of a picture become the input of a network: x = (byte * factor - mean) / std.

    factor : 1/255, unless the file beside the weights has another one
    mean, std : one per channel, or one for all
    around : shorter side to which a picture is resized, over the side that is cropped from its centre
    filter : Pillow's number of the filter that resizes
    size : trained (height, width); None if not known
    origin : what says so: a file's name, or 'nothing' where no file does
    reverses : whether the network reads blue, green, red
    note : what may be read otherwise than the network's own processor does, for a person
    """

    factor: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    around: float = 1.0
    filter: int = _FILTERS["bicubic"]
    size: tuple[int, int] | None = None
    origin: str = "nothing"
    reverses: bool = False
    note: str = ""

    def with_options(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, around: float | None
    ) -> Preprocessing:
        """The same with the values of the options that were given."""
        changed = self if mean is None else replace(self, mean=tuple(mean), origin="--mean")
        changed = changed if std is None else replace(changed, std=tuple(std), origin="--std")
        return changed if around is None else replace(changed, around=around)

    def check(self, channels: int) -> None:
        """Raise unless mean and std have one number for each channel, or one for all."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise RekernelError(
                    f"{name} of {shown(self.origin)} has {len(values)} numbers for {channels} channels; give one for "
                    f"each channel, or one for all: --{name} 0.5"
                )

    def __str__(self) -> str:
        return f"mean {_numbers(self.mean)}, std {_numbers(self.std)} ({self.origin})"


def read_preprocessing(folder: Path | None) -> Preprocessing:
    """What the files in `folder` say; only a division by 255 where they say nothing.

    Raises
    ------
    CheckpointError
        If a file cannot be read.
    RekernelError
        If an entry is not what such files hold.
    """
    if folder is None:
        return Preprocessing()
    for name in _PROCESSORS:
        if (folder / name).is_file():
            found = read_object(folder / name, "image processor")
            inside = found.get("image_processor")
            return _of_transformers(inside if isinstance(inside, dict) else found, folder / name)
    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    cfg = config.get("pretrained_cfg")
    return _of_timm(cfg, path) if isinstance(cfg, dict) else Preprocessing()


def _of_transformers(config: Mapping[str, Any], path: Path) -> Preprocessing:
    rescales = config.get("do_rescale", True)
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    usual = not kind.startswith("MobileViT")  # whose processor does not, though its files have a mean
    normalises = config.get("do_normalize", usual) and ("image_mean" in config or "image_std" in config)
    size, crop = _sides(config.get("size")), _sides(config.get("crop_size"))
    crops = crop is not None and config.get("do_center_crop", True)
    around = min(size) / min(crop) if crops and size and crop else 1.0
    whole = kind.startswith("ConvNext") and size is not None and min(size) >= 384  # then its processor cuts nothing off
    if isinstance(pct := config.get("crop_pct"), int | float) and 0 < pct <= 1 and not whole:
        around = 1 / pct
    return Preprocessing(
        factor=_number(config.get("rescale_factor", 1 / 255), path, "rescale_factor") if rescales else 1.0,
        mean=_values(config.get("image_mean", 0.0), path, "image_mean") if normalises else (0.0,),
        std=_values(config.get("image_std", 1.0), path, "image_std") if normalises else (1.0,),
        around=max(1.0, around),
        filter=config["resample"] if config.get("resample") in _FILTERS.values() else _FILTERS["bicubic"],
        size=crop if crops else size,
        origin=path.name,
        reverses=config.get("do_flip_channel_order") is True,
        note=_note(kind, path),
    )


def _note(kind: str, path: Path) -> str:
    """A sentence on a class of image processor that was not compared with this one; empty for the others."""
    name = kind.removesuffix("Fast").removesuffix("Pil")
    for ending in ("ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    if not kind or name in _KNOWN:
        return ""
    return (
        f"{path.name} is for {shown(kind, 60)}, which may prepare pictures in a way of its own; to be sure, pass an "
        f".npy of its outputs"
    )


def _of_timm(config: Mapping[str, Any], path: Path) -> Preprocessing:
    shape, pct = config.get("input_size"), config.get("crop_pct")
    size = tuple(shape[1:]) if isinstance(shape, list) and len(shape) == 3 else None
    return Preprocessing(
        mean=_values(config.get("mean", 0.0), path, "mean"),
        std=_values(config.get("std", 1.0), path, "std"),
        around=1 / pct if isinstance(pct, int | float) and 0 < pct <= 1 else 1.0,
        filter=_FILTERS.get(str(config.get("interpolation")), _FILTERS["bicubic"]),
        size=size if size and all(isinstance(n, int) and n > 0 for n in size) else None,
        origin=f"pretrained_cfg in {path.name}",
    )


def _sides(value: Any) -> tuple[int, int] | None:
    """(height, width) of an entry: a number, a pair, {'height', 'width'} or {'shortest_edge'}."""
    if isinstance(value, dict):
        value = [value.get(side, value.get("shortest_edge")) for side in ("height", "width")]
    sides = [value, value] if isinstance(value, int) else value
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(n, int) and n > 0 for n in sides):
        return sides[0], sides[1]
    return None


def _values(value: Any, path: Path, name: str) -> tuple[float, ...]:
    found = value if isinstance(value, list) and value else [value]
    numbers = tuple(_number(n, path, name) for n in found)
    if name.endswith("std") and 0 in numbers:
        raise RekernelError(f"{shown_path(path)}: {name} is 0, by which no picture can be divided; pass --std")
    return numbers


def _number(value: Any, path: Path, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RekernelError(f"{shown_path(path)}: {name} is {shown(repr(value))}, not a number; pass --mean and --std")
    return float(value)


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
