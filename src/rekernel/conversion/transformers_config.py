"""Update the configuration of a transformers model after its weights were rescaled.

Scope: config.json and preprocessor_config.json, for models whose modules are built from patch size and image size
alone. What these files cannot express stays the same, and a note says so. Not here: weights (see
`conversion.run`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..architectures.tokens import is_table, tokens_beside
from ..checkpoint.strict_json import read_object
from ..errors import RekernelError
from ..escape import shown
from ..plan.changes import LayerChange
from ..plan.config_entry import class_name
from ..plan.plan import Plan
from ..planning.position_grid import pair_of
from ..resampling.geometry import new_size
from ..text import dims, scale_text

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

EXPRESSIBLE = ("vit", "deit", "dinov2", "dinov2_with_registers", "vit_msn", "ijepa")
"""Model types whose modules all follow from `patch_size` and `image_size`; each is tested against transformers."""

_INSTEAD = "build the model at its trained size and rescale it with rekernel.torch.load"


def rescaled_configs(
    copies: Sequence[tuple[Path, Path]], plan: Plan, instead: str = _INSTEAD
) -> tuple[dict[Path, bytes], list[str]]:
    """Return new contents for the configurations among the files to copy.

    Parameters
    ----------
    copies : (source, target) of every file beside the weights
    plan : plan for the weights
    instead : advice for a change that the configuration cannot express

    Returns
    -------
    contents : {target: bytes}
    notes : what a configuration cannot express, with the advice
    """
    deepest_first = sorted(copies, key=lambda pair: -len(pair[1].parts))
    by_name = {source.name: (source, target) for source, target in deepest_first}
    if CONFIG not in by_name or not plan.changed:
        return {}, []
    contents: dict[Path, bytes] = {}
    notes: list[str] = []
    source, target = by_name[CONFIG]
    config, note = _read(source)
    if note:
        return {}, [note]
    if "_class_name" in config or not {"model_type", "architectures", "transformers_version"} & config.keys():
        return {}, []  # not the configuration of a transformers model
    try:
        contents[target] = _json(rescaled_config(config, plan))
    except RekernelError as error:
        notes.append(f"{CONFIG} is left as it is: {error}; {instead}")
    if PREPROCESSOR in by_name:
        source, target = by_name[PREPROCESSOR]
        processor, note = _read(source)
        scales = _scales(plan)
        if not note and scales is not None:
            contents[target] = _json(rescaled_preprocessor(processor, scales))
        else:
            notes.append(
                note or f"{PREPROCESSOR} is left as it is: a scale of {scale_text(plan.scale)} has no height and width"
            )
    return contents, notes


def rescaled_config(config: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return the configuration of a model whose patch embedding absorbed the scale, or whose token grid grew.

    Parameters
    ----------
    config : configuration of a transformers model, as in config.json
    plan : plan for its weights

    Returns
    -------
    dict
        `image_size` times the scale; also `patch_size` if the patches absorb the scale.

    Raises
    ------
    RekernelError
        If other layers changed, or if a model of this type may depend on other entries too.

    Examples
    --------
    >>> from rekernel.plan.changes import AxisGeometry, AxisOperator
    >>> grow = tuple(AxisOperator(axis, 4, 8, "grid", 2.0, "linear", "dc") for axis in (2, 3))
    >>> old, new = (AxisGeometry(4, 4, (0, 0)),) * 2, (AxisGeometry(8, 8, (0, 0)),) * 2
    >>> change = LayerChange("p.weight", "F32", (8, 3, 4, 4), (8, 3, 8, 8), "patch", "", (8, 3, 4, 4), grow,
    ...                      geometry=old, new_geometry=new)
    >>> rescaled_config({"model_type": "vit", "patch_size": 4, "image_size": 16}, Plan((change,)))
    {'model_type': 'vit', 'patch_size': 8, 'image_size': 32}
    """
    kind = config.get("model_type")
    if kind not in EXPRESSIBLE:
        raise RekernelError(f"a model of type {shown(str(kind))} may depend on more than patch_size and image_size")
    patches = [change for change in plan.changed if change.kind == "patch"]
    positions = [change for change in plan.changed if change.kind == "values"]
    others = [change for change in plan.changed if change not in patches and change not in positions]
    if others:
        raise RekernelError(f"there is not an entry for the new kernel of {shown(others[0].name)}{_more(others)}")
    if len(patches) + len(positions) != 1:
        raise RekernelError(
            f"{len(patches)} patch embeddings and {len(positions)} position embeddings changed, not one in all"
        )
    scales = _patch_scales(config, patches[0]) if patches else _grid_scales(positions[0])
    changed = dict(config)
    if patches:
        changed["patch_size"] = _alike(config["patch_size"], [g.kernel for g in patches[0].new_geometry])
    size = pair_of(config.get("image_size"))
    if size is None:
        raise RekernelError("its image_size is not one or two positive integers")
    new = [new_size(n, s, exact=True, what=f"its image_size {size}") for n, s in zip(size, scales, strict=True)]
    changed["image_size"] = _alike(config["image_size"], new)
    if reason := contradiction(changed, plan):
        raise RekernelError(reason)
    return changed


def contradiction(config: Mapping[str, Any], plan: Plan) -> str:
    """Why the sizes in a config do not fit the new tables of positions; empty if they do.

    Examples
    --------
    >>> table = LayerChange.unchanged("position_embeddings", "F32", (1, 129, 8), "")
    >>> contradiction({"patch_size": 4, "image_size": [64, 32]}, Plan((table,)))
    'its image_size 64x32 and patch_size 4x4 make 16x8 patches, which are not the 129 positions of position_embeddings'
    >>> token = LayerChange.unchanged("cls_token", "F32", (1, 1, 8), "")
    >>> contradiction({"patch_size": 4, "image_size": [64, 32]}, Plan((table, token)))
    ''
    """
    patch, image = pair_of(config.get("patch_size")), pair_of(config.get("image_size"))
    shapes = {change.name: change.new_shape for change in plan.changes}
    for name, shape in shapes.items():
        if not is_table(name) or not 2 <= len(shape) <= 3:
            continue
        if patch is None or image is None:
            return "its patch_size and image_size are not one or two positive integers"
        grid = [i // p for i, p in zip(image, patch, strict=True)]
        if shape[-2] - math.prod(grid) not in (0, *tokens_beside(name, shapes).in_front()):
            sides = [dims(side) for side in (image, patch, grid)]
            return (
                f"its image_size {sides[0]} and patch_size {sides[1]} make {sides[2]} patches, which are not the "
                f"{shape[-2]} positions of {shown(name)}"
            )
    return ""


def rescaled_preprocessor(config: Mapping[str, Any], scales: tuple[float, float]) -> dict[str, Any]:
    """Multiply the sizes of an image processor by the scale (height, width).

    Examples
    --------
    >>> rescaled_preprocessor({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, (2, 2))
    {'size': {'shortest_edge': 512}, 'crop_size': {'height': 448, 'width': 448}}
    """
    changed = dict(config)
    for key in ("size", "crop_size"):
        value = config.get(key)
        if isinstance(value, dict):
            factors = {"height": scales[0], "width": scales[1]}
            both = max(scales)  # for entries such as shortest_edge, which set both sides
            changed[key] = {
                side: new_size(n, factors.get(side, both)) if isinstance(n, int) else n for side, n in value.items()
            }
        elif pair_of(value) is not None:
            changed[key] = _alike(value, [new_size(n, s) for n, s in zip(pair_of(value) or (), scales, strict=True)])
    return changed


def _patch_scales(config: Mapping[str, Any], change: LayerChange) -> tuple[float, ...]:
    old, new = ([g.kernel for g in side] for side in (change.geometry, change.new_geometry))
    if len(old) != 2 or pair_of(config.get("patch_size")) != tuple(old):
        raise RekernelError(f"its patch_size is not the {'x'.join(map(str, old))} of {shown(change.name)}")
    return tuple(n / o for o, n in zip(old, new, strict=True))


def _grid_scales(change: LayerChange) -> tuple[float, ...]:
    scales = {o.axis: o.new / o.old for o in change.operators}
    return tuple(scales.get(change.grid_axis + i, 1.0) for i in range(2))


def _scales(plan: Plan) -> tuple[float, float] | None:
    if not isinstance(plan.scale, tuple):
        return plan.scale, plan.scale
    return (plan.scale[-2], plan.scale[-1]) if len(plan.scale) > 1 else None


def _alike(old: Any, new: list[int]) -> Any:
    """Return one number if the old entry was one number and the new ones are equal; else a list."""
    return new[0] if isinstance(old, int) and len(set(new)) == 1 else new


def _more(changes: Sequence[LayerChange]) -> str:
    return f" and of {len(changes) - 1} more" if len(changes) > 1 else ""


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Read a configuration; return it with an empty text, or an empty dict with the reason."""
    try:
        return read_object(path), ""
    except RekernelError as error:
        return {}, f"a configuration is left as it is: {error}"


def _json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def loads_plainly(config: Mapping[str, Any], plan: Plan) -> bool:
    """Whether transformers builds the rescaled model from its config alone, since the config states every change."""
    absorbed = not plan.resamples and all(change.kind in ("patch", "values") for change in plan.changed)
    named = "architectures" in config and class_name(config)
    return bool(absorbed and named) and sizes_are_those(config, plan.changed, new=True)


def sizes_are_those(config: Mapping[str, Any], changes: Iterable[LayerChange], *, new: bool) -> bool:
    """Whether patch and image size in the config fit the new weights (`new`), or the old weights.

    A config without these entries at its top level counts as written for the old weights.
    """
    patch, image = pair_of(config.get("patch_size")), pair_of(config.get("image_size"))
    for change in changes:
        shape = change.new_shape if new else change.shape
        if change.kind not in ("patch", "values"):
            continue
        if patch is None or image is None:
            return not new
        if change.kind == "patch" and len(shape) == 4 and shape[-2:] != patch:
            return False
        if change.kind == "values" and len(shape) == 3:
            grid = math.prod(i // p for i, p in zip(image, patch, strict=True))
            if shape[change.grid_axis] != change.prefix + grid:
                return False
    return True
