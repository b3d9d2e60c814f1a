"""Build the two models of `rekernel verify`, and load the original and the converted weights.

Scope: the user's code and files. Not here: models that a config.json names (see `verifying.from_config`), and running
the models (see `verifying.run`).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from rekernel.checkpoint.paths import missing
from rekernel.errors import RekernelError
from rekernel.escape import shown
from rekernel.plan.plan import Plan
from rekernel.plan.recipe import find_recipe
from rekernel.sources.opening import local_path, open_source
from rekernel.text import choices
from rekernel.torch import load

from ..user_code import import_file, running
from .from_config import build, config_beside
from .preprocessing import Preprocessing, read_preprocessing


@dataclass(frozen=True)
class Pair:
    """The original and the rescaled model, and what the files beside the original say.

    folder, config : the original's folder and the content of its config.json; None and empty without one
    preprocessing : how its pictures are prepared
    """

    original: nn.Module
    rescaled: nn.Module
    folder: Path | None
    config: Mapping[str, Any]
    preprocessing: Preprocessing


def loaded(source: str, converted: str, factory: str | None, *, allow_pickle: bool) -> Pair:
    """Both models; a source or a converted checkpoint is a file, an index or a folder."""
    files = [_present(path, allow_pickle) for path in (source, converted)]
    scaled = [_is_rescaled(path, allow_pickle) for path in files]
    if scaled[0]:
        raise RekernelError(
            f"{shown(source, 400)}: was rescaled already; SOURCE is the original and CONVERTED its conversion: "
            + ("are the two swapped?" if not scaled[1] else "pass the original first")
        )
    if not scaled[1]:
        raise RekernelError(
            f"{shown(converted, 400)}: has no recipe, so rekernel did not rescale it; pass SOURCE and then what "
            f"`rekernel convert` wrote"
        )
    folder, config = config_beside(files[0])
    if folder is None and factory is None and config_beside(files[1])[0] is not None:
        raise RekernelError(
            f"{shown(source, 400)}: has no config.json beside it, and the one of {shown(converted, 400)} may hold the "
            f"new sizes; pass the original's folder, put its config.json beside {shown(files[0].name)}, or pass "
            f"--model package.module:function"
        )

    def made() -> nn.Module:
        return build(folder, config, source) if factory is None else _build(factory)

    original = load(made(), files[0], plan=Plan(()), allow_pickle=allow_pickle)
    return Pair(original, load(made(), files[1]), folder, config, read_preprocessing(folder))


def _present(path: str, allow_pickle: bool) -> Path:
    found = local_path(path, allow_pickle=allow_pickle)
    if not found.exists():
        raise missing(found)
    return found


def function(place: str, option: str) -> Callable[..., Any]:
    """The class or function that MODULE:NAME or FILE.py:NAME names."""
    module, _, name = place.rpartition(":")
    if not module or not name:
        kind = "Class" if option == "--model" else "function"
        raise RekernelError(f"{option} {shown(place)}: write package.module:{kind} or path/to/file.py:function")
    try:
        with running(f"{option} {shown(place)}"):
            imported = _import(module)
    except FileNotFoundError as error:
        if not Path(module).exists():
            raise missing(Path(module)) from None
        raise RekernelError(f"{option} {shown(place)}: {error}") from None
    except ImportError as error:
        raise RekernelError(f"{option} {shown(place)}: {error}; install it, or write path/to/file.py:{name}") from None
    found: Any = getattr(imported, name, None)
    if found is None:
        own = [key for key, value in vars(imported).items() if getattr(value, "__module__", "") == imported.__name__]
        raise RekernelError(f"{option} {shown(place)}: has no {shown(name)}; {choices(name, map(shown, own))}")
    if not callable(found):
        raise RekernelError(f"{option} {shown(place)}: is neither a class nor a function; name what builds the model")
    called: Callable[..., Any] = found
    return called


def _is_rescaled(path: Path, allow_pickle: bool) -> bool:
    with open_source(path, allow_pickle=allow_pickle) as opened:
        return find_recipe(opened.metadata) is not None


def _build(factory: str) -> nn.Module:
    maker = function(factory, "--model")
    try:
        with suppress(ValueError):  # a builtin without a signature; the call below shows whether it works
            inspect.signature(maker).bind()
    except TypeError as error:
        raise RekernelError(
            f"--model {shown(factory)}: needs arguments ({shown(str(error))}); name a function without arguments "
            f"that builds the model at the trained size"
        ) from None
    with running(f"--model {shown(factory)}"):
        made = maker()
    if not isinstance(made, nn.Module):
        raise RekernelError(f"--model {shown(factory)}: returned {type(made).__name__}, which is not a torch module")
    return made.eval()


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    return import_file(Path(place))
