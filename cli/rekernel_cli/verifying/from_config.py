"""Build the network that the config.json beside its weights names: of transformers, diffusers or timm.

Scope: configurations and the libraries' constructors. Not here: weights, and models of the user's code (see
`verifying.models`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rekernel.checkpoint.strict_json import read_object
from rekernel.errors import RekernelError
from rekernel.escape import shown, shown_path
from rekernel.plan.config_file import KEY

from ..user_code import running

CONFIG = "config.json"


def config_beside(path: Path) -> tuple[Path | None, dict[str, Any]]:
    """The folder of a checkpoint and its configuration; None and nothing where there is none."""
    folder = path if path.is_dir() else path.parent
    return (folder, read_object(folder / CONFIG)) if (folder / CONFIG).is_file() else (None, {})


def build(folder: Path | None, config: Mapping[str, Any], source: str) -> nn.Module:
    """The network at its trained size, with random weights, in evaluation mode.

    Raises
    ------
    RekernelError
        If the configuration names no class that an installed library has; the message asks for --model.
    """
    where = shown(source, 400)
    if folder is None:
        raise RekernelError(
            f"{where}: has no {CONFIG} that names the network's class; pass --model package.module:Class or --model "
            f"path/to/file.py:function"
        )
    made: nn.Module
    what = f"building the network of {shown_path(folder / CONFIG)}"
    with running(what, "; pass --model instead"):
        if isinstance(config.get("_class_name"), str):
            kind = _class("diffusers", config["_class_name"], folder)
            made = kind.from_config({name: value for name, value in config.items() if name != KEY})
        elif isinstance(config.get("architecture"), str):
            made = _of_timm(config, folder)
        elif isinstance(named := config.get("architectures"), list) and named and isinstance(named[0], str):
            kind = _class("transformers", named[0], folder)
            made = kind(kind.config_class.from_pretrained(folder))
        else:
            raise RekernelError(
                f"{shown_path(folder / CONFIG)}: names no class (architectures, _class_name or architecture); pass "
                f"--model package.module:Class"
            )
    return made.eval()


def input_shape(config: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[int, ...] | None:
    """Shape of the trained input (C, H, W), from a configuration, or from the size that its pictures are resized to."""
    inside = config.get("vision_config")
    config = {**config, **inside} if isinstance(inside, dict) else config
    cfg = config.get("pretrained_cfg")
    shape = cfg.get("input_size") if isinstance(cfg, dict) else None
    if isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape):
        return tuple(shape)
    channels = next((config[key] for key in ("in_channels", "num_channels") if isinstance(config.get(key), int)), 3)
    told = next((config[key] for key in ("image_size", "sample_size", "img_size") if config.get(key)), None)
    sides = [told, told] if isinstance(told, int) else told
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(n, int) and n > 0 for n in sides):
        return channels, sides[0], sides[1]
    return (channels, *size) if size is not None else None


def class_numbers(config: Mapping[str, Any]) -> dict[str, int]:
    """Class numbers by name; nothing for names that transformers made up (LABEL_0)."""
    named = config.get("label2id") or config.get("label_names")
    if isinstance(named, list):
        named = {name: number for number, name in enumerate(named)}
    if not isinstance(named, dict) or all(str(name).startswith("LABEL_") for name in named):
        return {}
    return {str(name): number for name, number in named.items() if isinstance(number, int)}


def _class(library: str, name: str, folder: Path) -> Any:
    try:
        module = importlib.import_module(library)
    except ImportError:
        raise RekernelError(
            f"{shown_path(folder / CONFIG)}: {shown(name)} needs {library}, which is not installed; install {library}, "
            f"or pass --model"
        ) from None
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise RekernelError(
            f"{shown_path(folder / CONFIG)}: {library} has no network {shown(name)}; pass --model with the code that "
            f"builds it"
        )
    return found


def _of_timm(config: Mapping[str, Any], folder: Path) -> nn.Module:
    name = config["architecture"]
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError:
        raise RekernelError(
            f"{shown_path(folder / CONFIG)}: {shown(name)} needs timm: install timm, or pass --model"
        ) from None
    more = config.get("model_args")
    options = dict(more) if isinstance(more, dict) else {}
    if isinstance(config.get("num_classes"), int):
        options["num_classes"] = config["num_classes"]
    made: nn.Module = timm.create_model(name, pretrained=False, **options)
    return made
