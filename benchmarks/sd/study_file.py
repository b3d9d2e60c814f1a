"""Read a study, the YAML file that says what is compared, and refuse whatever it does not know.

Scope: the file and its fields. Not here: the list of pictures (see `work_items`), making them (see `generation`).
Imports neither torch nor diffusers: a mistake in the file is told before anything is loaded.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from study import (
    DTYPES,
    ENDINGS,
    KINDS,
    NETWORKS,
    OFFLOADS,
    PEERS,
    Method,
    Metrics,
    Model,
    Study,
    StudyError,
    reference_pictures,
)  # fmt: skip

from rekernel.diffusion.guidance.settings import GuidanceSettings
from rekernel.diffusion.kernels.settings import KernelSettings
from rekernel.diffusion.positions.settings import PositionSettings
from rekernel.errors import RekernelError
from rekernel.escape import cause, shown, shown_path
from rekernel.messages.arguments import kind_of, short
from rekernel.text import meant

LEVERS: dict[str, Any] = {"guidance": GuidanceSettings, "kernels": KernelSettings, "positions": PositionSettings}


def read_study(path: Path) -> Study:
    """Read and check a study; paths in the file are relative to the file.

    Parameters
    ----------
    path : the YAML file

    Raises
    ------
    StudyError
        With one line that names the file, the place in it and what to do.
    """
    where = shown_path(path)
    try:
        found = _mapping(path, where)
        _check_json(found, where)
        return _study(found, path.parent, where)
    except StudyError:
        raise
    except RecursionError:
        raise StudyError(f"{where}: holds lists or mappings in each other, too many to read") from None
    except OSError as error:
        raise StudyError(f"{where}: {error.strerror or cause(error)}") from None


def _study(found: dict[str, Any], folder: Path, where: str) -> Study:
    names = [f.name for f in fields(Study)]
    _check_keys(found, names, where)
    _check_required(found, Study, where)
    models = _several(found["models"], Model, f"{where}: models")
    methods = _several(found["methods"], Method, f"{where}: methods")
    for model in models:
        _check_model(model, f"{where}: model {shown(model.name)}")
    for method in methods:
        _check_method(method, f"{where}: method {shown(method.name)}")
    metrics = _metrics(found.get("metrics"), folder, f"{where}: metrics")
    areas = _numbers(found["areas"], f"{where}: areas", whole=False)
    if bad := [a for a in areas if not 1 < a <= 64]:
        raise StudyError(f"{where}: areas: {short(bad[0])} must be above 1 (the trained size) and at most 64")
    seeds = _numbers(found["seeds"], f"{where}: seeds", whole=True)
    if bad := [s for s in seeds if not 0 <= s < 2**63]:
        raise StudyError(f"{where}: seeds: {short(bad[0])} must be from 0 to 2**63 - 1")
    prompts = _prompts(found["prompts"], folder, f"{where}: prompts")
    if len({f"{a:g}" for a in areas}) < len(areas):
        raise StudyError(f"{where}: areas: {short(list(areas))} holds two that are alike to six digits")
    made = _fields({k: found[k] for k in ("title", "tile") if k in found}, Study, where)
    _check_within(made, {"tile": (16, 4096)}, where)
    return Study(models=models, methods=methods, metrics=metrics, areas=areas, seeds=tuple(map(int, seeds)),
                 prompts=prompts, **made)  # fmt: skip


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, without keys that stand twice in one mapping."""


def _once(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _once)


def _mapping(path: Path, where: str) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f" line {mark.line + 1}:"
        raise StudyError(f"{where}:{line} {shown(error.problem or 'this is not YAML', 200)}") from None
    except OSError:
        raise
    except Exception as error:  # PyYAML lets what int(), datetime() and its own tables raise through
        raise StudyError(f"{where}: {cause(error)}; a study is a YAML file in UTF-8") from None
    if not isinstance(found, dict):
        raise StudyError(f"{where}: holds {kind_of(found)}; a study is a mapping, see study.yaml")
    return found


def _check_json(value: Any, where: str) -> None:
    """Refuse what YAML has and JSON has not, at its place: a picture is named by its settings as JSON."""
    if isinstance(value, dict):
        for key, one in value.items():
            _check_json(key, f"{where}: the key {short(key)}")
            _check_json(one, f"{where}: {shown(str(key))}")
    elif isinstance(value, list):
        for number, one in enumerate(value, 1):
            _check_json(one, f"{where}: number {number}")
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise StudyError(f"{where}: this text holds NUL, or one half of a character; remove it")
    elif isinstance(value, float) and not math.isfinite(value):
        raise StudyError(f"{where}: {value} is not a finite number")
    elif value is not None and not isinstance(value, bool | int | float):
        raise StudyError(f"{where}: {short(value)} is not a text, a number, a list or a mapping; quote a text")


def _check_within(found: Mapping[str, Any], bounds: Mapping[str, tuple[int, int]], where: str) -> None:
    """Refuse whole numbers outside their bounds; null and what is left out pass."""
    for name, (least, most) in bounds.items():
        value = found.get(name)
        if value is not None and not least <= value <= most:
            raise StudyError(f"{where}: {name}: {short(value)} must be at least {least} and at most {most}")


def _check_keys(found: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in found:
        if key not in known:
            near = meant(str(key), known) or f"; there are {', '.join(known)}"
            raise StudyError(f"{where}: no key {shown(str(key))}{near}")


def _check_required(found: Mapping[str, Any], kind: type[Any], where: str) -> None:
    for f in fields(kind):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in found:
            raise StudyError(f"{where}: {f.name} is missing")


def _several(found: Any, kind: type[Any], where: str) -> tuple[Any, ...]:
    """A list of mappings, as objects of one class, of different names."""
    if not isinstance(found, list) or not found:
        raise StudyError(f"{where}: {short(found)} is not a list of at least one")
    made = []
    for number, one in enumerate(found, 1):
        here = f"{where}: number {number}"
        if not isinstance(one, dict):
            raise StudyError(f"{here}: {short(one)} is not a mapping, such as {{name: ...}}")
        _check_keys(one, [f.name for f in fields(kind)], here)
        _check_required(one, kind, here)
        made.append(kind(**_fields(one, kind, here)))
    names = [one.name for one in made]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise StudyError(f"{where}: the name {shown(twice)} stands twice")
    return tuple(made)


def _fields(found: Mapping[str, Any], kind: type[Any], where: str) -> dict[str, Any]:
    """The values of fields, each of the type that its annotation says."""
    hints = get_type_hints(kind)
    made = {}
    for name, value in found.items():
        types = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        fitting = next((fit for one in types if (fit := _fit(value, one)) is not None), None)
        if fitting is None and not (value is None and type(None) in types):
            raise StudyError(f"{where}: {name}: {short(value)} is not {' or '.join(map(_word, types))}")
        made[name] = None if fitting is None else fitting[0]
    return made


def _fit(value: Any, kind: Any) -> tuple[Any] | None:
    """The value as the type has it, or None where it is of another type; a bool is not a number."""
    plain = get_origin(kind) or kind
    if isinstance(value, bool):
        return (value,) if plain is bool else None
    if plain is float and isinstance(value, int | float):
        return (float(value),) if abs(value) <= sys.float_info.max else None
    if plain is Path:
        return (Path(value),) if isinstance(value, str) else None
    if plain is list:
        fits = [_fit(one, get_args(kind)[0]) for one in value] if isinstance(value, list) else [None]
        return None if None in fits else ([fit[0] for fit in fits if fit],)
    if plain is str and value == "":
        return ("",)
    return (value,) if isinstance(value, plain) else None


def _word(kind: Any) -> str:
    words = {
        "str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a mapping",
        "Path": "a path", "NoneType": "null", "list": "a list",
    }  # fmt: skip
    return words[(get_origin(kind) or kind).__name__]


def _check_model(model: Model, where: str) -> None:
    for name, value, known in (("dtype", model.dtype, DTYPES), ("offload", model.offload, OFFLOADS)):
        if value not in known:
            raise StudyError(f"{where}: {name}: {short(value)} is not one of {', '.join(known)}{meant(value, known)}")
    _check_within(vars(model), {"steps": (1, 100_000), "trained": (1, 65_536), "multiple": (1, 65_536)}, where)
    reserved = {"prompt", "height", "width", "generator", "num_inference_steps", "guidance_scale", "output_type"}
    if taken := sorted(reserved & set(model.call)):
        raise StudyError(f"{where}: call: {taken[0]} is set by the study itself; leave it out")


def _check_method(method: Method, where: str) -> None:
    if method.kind not in KINDS:
        raise StudyError(
            f"{where}: kind: {short(method.kind)} is not one of {', '.join(KINDS)}{meant(method.kind, KINDS)}"
        )
    if method.only is not None and method.only not in NETWORKS:
        raise StudyError(f"{where}: only: {short(method.only)} is not one of {', '.join(NETWORKS)}")
    if (method.kind == "peer") != (method.peer is not None):
        raise StudyError(f"{where}: a method of kind peer names a peer, and no other method does")
    if method.peer is not None and method.peer not in PEERS:
        raise StudyError(
            f"{where}: peer: {short(method.peer)} is not one of {', '.join(PEERS)}{meant(method.peer, PEERS)}"
        )
    if method.options and method.peer is None:
        raise StudyError(f"{where}: options are those of a peer; write guidance, kernels or positions")
    if method.peer is not None:
        defaults = PEERS[method.peer]
        _check_keys(method.options, list(defaults), f"{where}: options")
        for name, value in method.options.items():
            if _fit(value, type(defaults[name])) is None:
                raise StudyError(f"{where}: options: {name}: {short(value)} is not {_word(type(defaults[name]))}")
    given = {name: getattr(method, name) for name in LEVERS}
    if method.kind in ("enlarged", "peer") and (acting := next((n for n, v in given.items() if v), None)):
        raise StudyError(f"{where}: {acting}: a method of kind {method.kind} takes no levers of rekernel")
    for name, value in given.items():
        if isinstance(value, dict):
            try:
                LEVERS[name].from_options("auto", value)
            except (RekernelError, TypeError) as error:
                raise StudyError(f"{where}: {error}") from None
    strengths = method.strength if isinstance(method.strength, list) else [method.strength]
    if not strengths or not all(0 < s <= 1 for s in strengths):
        raise StudyError(f"{where}: strength: {short(method.strength)} must be above 0 and at most 1")


def _metrics(found: Any, folder: Path, where: str) -> Metrics:
    if found is None:
        return Metrics()
    if not isinstance(found, dict):
        raise StudyError(f"{where}: {short(found)} is not a mapping")
    _check_keys(found, [f.name for f in fields(Metrics)], where)
    made = _fields(found, Metrics, where)
    if made.get("references") is not None:
        made["references"] = folder / made["references"]
        if len(reference_pictures(made["references"])) < 2:
            where_from = f"{where}: references: {shown_path(made['references'])}"
            raise StudyError(f"{where_from} is not a folder with at least two pictures ({', '.join(ENDINGS)})")
    if made.get("features", "inception") != "inception":
        made["features"] = str(folder / made["features"])
        if not Path(made["features"]).is_file():
            raise StudyError(f"{where}: features: {shown_path(made['features'])} is not a file; or write inception")
    bounds = {"kid_subsets": (1, 10**6), "kid_subset_size": (2, 10**6), "crops": (0, 10**4), "crop_size": (1, 65_536)}
    _check_within(made, bounds, where)
    return Metrics(**made)


def _numbers(found: Any, where: str, *, whole: bool) -> tuple[Any, ...]:
    kind: type[Any] = int if whole else float
    if not isinstance(found, list) or not found or not all(_fit(one, kind) for one in found):
        raise StudyError(f"{where}: {short(found)} is not a list of {'whole numbers' if whole else 'numbers'}")
    if len(set(found)) != len(found):
        raise StudyError(f"{where}: {short(found)} names one twice")
    return tuple(kind(one) for one in found)


def _prompts(found: Any, folder: Path, where: str) -> tuple[str, ...]:
    """The lines of a text file but for empty ones and those that begin with #."""
    if not isinstance(found, str):
        raise StudyError(f"{where}: {short(found)} is not the name of a text file with one prompt a line")
    path = folder / found
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{where}: {shown_path(path)}: {cause(error)}") from None
    prompts = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise StudyError(f"{where}: {shown_path(path)} holds no prompt; write one a line")
    return prompts
