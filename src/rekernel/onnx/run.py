"""Plan, estimate and convert ONNX models, as files or in a folder. The recipe goes into the metadata of the model.

A graph is one message, so a model on the Hub is downloaded completely, even to plan it. Its external data is downloaded
only where values are needed: to plan, if the tensors are small; to convert, always.
Scope: the order of steps. Not here: the graph (see `onnx.walk`), and reading the file (see `onnx.graph`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..checkpoint.atomic_file import copy_atomic, refuse_existing, write_atomic
from ..checkpoint.header import tensor_nbytes
from ..checkpoint.locked_file import claimed
from ..checkpoint.paths import contained, other_files
from ..conversion.aside import finish, kept_if_useful, place_for, restore
from ..conversion.destinations import folder_target, making_folders, refuse_inputs, split_weights
from ..conversion.digests import known_of
from ..conversion.downloads import Fetched, fetch_files
from ..conversion.report import Report
from ..conversion.transformers_config import rescaled_configs
from ..errors import Option, RekernelError
from ..escape import shown, shown_path
from ..messages.warn import tell
from ..patterns import select
from ..plan.not_finite import not_finite_note
from ..plan.plan import Plan
from ..plan.recipe import KEY, Recipe, SourceFile
from ..planning.allowed_values import SCALE_1, is_one
from ..planning.guards import nothing_changes
from ..planning.no_effect import without_effect
from ..planning.roles import AUTO, checked_mode
from ..planning.settings import Hints, Request, Settings
from ..sources.place import Origin, Place
from ..version import __version__
from .external_data import data_bytes, data_files, is_outside, tensors_of
from .graph import Model, read_by_value, read_model, read_proto, refuse_too_large, serialised
from .graph_pass import Asked, GraphPass
from .rewrite import rewritten
from .walk import kept, walk
from .well_formed import understood

FAMILY = "ONNX graph"


def plan_onnx(place: Place, path: Path, request: Request) -> Plan:
    """Decide from the graph what to do with every weight and pooling of an ONNX model.

    Parameters
    ----------
    place : Place
        Where it lies, as `open_location` gave it.
    path : path
        Of the model there, as `onnx_of` gave it.
    request : Request
        Of the hints only `mode` says what the graph does not.

    Returns
    -------
    Plan
        Its tensors are the constants of the model, its modules the poolings, resizings and what resamples the image.

    Raises
    ------
    RekernelError
        Naming the node that cannot be rescaled faithfully.
    """
    with understood(shown_path(path)):
        return _planned(_opened(place, path), request)[0]


def convert_onnx(
    place: Place,
    path: Path,
    target: Path,
    asked: Plan | Request,
    *,
    into_folder: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Rescale an ONNX model: kernels with their attributes, constants that hold sizes, the input's shape.

    Parameters
    ----------
    place, path
        As for `plan_onnx`. Of a folder, the files beside the model are copied; tensors outside the model's file are
        read, what is written is one file.
    target : path
        A file called *.onnx for a file, a folder for a folder.
    asked : Plan or Request
        A plan of this model, or how to make one.
    into_folder : bool
        The target is a folder that a file goes into.
    force : bool
        Replace what is at the destination.
    progress : callable, optional
        Called with (bytes done, bytes in all).

    Returns
    -------
    Report
    """
    folder = place.path if path != place.path else None
    if folder is None:
        file = _file_target(target, path.name, into_folder)
        root = file.parent
    else:
        root = folder_target(target, folder, replace=force)
        file = root / path.relative_to(folder)
    refuse_existing([file], force=force)
    with understood(shown_path(path)):
        model = _opened(place, path)
        plan, done = (asked, _walked_again(model, asked)) if isinstance(asked, Plan) else _planned(model, asked)
    if not plan.changed and done.front is None:
        raise nothing_changes(shown_path(place.path), plan.warnings)
    if isinstance(asked, Request):
        tell(plan.warnings)
    proto = read_proto(model.path)
    refuse_too_large(model.path.stat().st_size + _brought_in(proto, plan), file)  # before gigabytes are downloaded
    data_beside = data_files(tensors_of(proto), path)
    if missing := [file for file in data_beside if not file.is_file()]:  # nor in the listing of a repository
        raise RekernelError(
            f"{shown_path(path)}: its tensors lie in {shown(missing[0].name)}, which is missing; put it beside it"
        )
    fetched = fetch_files(place, {"": path}, [path, *data_beside])
    here = model.path.parent
    inputs = [model.path, *(contained(here, f.relative_to(path.parent).as_posix()) for f in data_beside)]
    copies, skipped = ([], ()) if folder is None else _beside(fetched, inputs, root)
    contents, notes = rescaled_configs(copies, plan, "the graph says its new sizes itself")
    recipe = Recipe(plan, tuple(_digest(each, fetched.origin) for each in inputs), "", f"rekernel {__version__}")
    with understood(shown_path(path)):
        data = serialised(rewritten(done, recipe), model.path, file)
    _write(root, [*copies, (None, file)], {**contents, file: data}, inputs, force=force)
    if progress:
        progress(len(data), len(data))
    changed = len(plan.changed)
    broken = [not_finite_note(done.broken)] if done.broken else []
    return Report(
        file if folder is None else root, (file, *(b for _, b in copies)), len(data), changed,
        len(plan.changes) - changed, {"": plan}, skipped=tuple(skipped), notes=(*notes, *broken),
    )  # fmt: skip


def output_bytes(place: Place, path: Path, plan: Plan) -> int:
    """About the size of the converted file: the source's, and what the weights grow by."""
    here = place.here(path)
    with understood(shown_path(path)):
        return here.stat().st_size + _brought_in(read_proto(here), plan)


def _brought_in(proto: Any, plan: Plan) -> int:
    """Bytes of the tensors that lie outside, and what the weights grow by."""
    grown = sum(
        tensor_nbytes(c.dtype, c.new_shape, c.name) - tensor_nbytes(c.dtype, c.shape, c.name) for c in plan.changed
    )
    return sum(data_bytes(tensor) for tensor in tensors_of(proto) if is_outside(tensor)) + grown


def _file_target(target: Path, name: str, into_folder: bool) -> Path:
    if into_folder or target.is_dir():
        return target / name
    if target.suffix.lower() != ".onnx":
        raise RekernelError(
            f"{shown_path(target)}: a converted ONNX model is called *.onnx; pass such a name, or a folder"
        )
    return target


def _opened(place: Place, path: Path) -> Model:
    """The model, of its data what planning reads."""
    here = place.here(path)
    proto = read_proto(here)
    for file in data_files(read_by_value(proto), path):
        if file.exists():  # in the listing of a repository too
            place.here(file)
    model = read_model(here)
    if KEY in model.metadata():
        raise RekernelError(f"{shown_path(here)}: was rescaled already; convert the original instead")
    return model


def _beside(fetched: Fetched, read: Iterable[Path], root: Path) -> tuple[list[tuple[Path, Path]], tuple[Path, ...]]:
    """Files to copy along with a folder's model, and the weights to leave."""
    taken = {path.relative_to(fetched.path) for path in read}
    others, skipped = split_weights([*other_files(fetched.path, taken)], [Path(), *(path.parent for path in taken)])
    return fetched.copied((fetched.path / f, root / f) for f in others), fetched.left or tuple(skipped)


def _write(
    root: Path,
    wanted: list[tuple[Path | None, Path]],
    contents: dict[Path, bytes],
    inputs: list[Path],
    *,
    force: bool,
) -> None:
    """Everything, or nothing where one of the destinations may not be written; the last is what makes it a model."""
    targets = [target for _, target in wanted]
    read = [*inputs, *(source for source, _ in wanted if source is not None)]
    refuse_inputs(targets, read)
    refuse_existing(targets, force=force)
    whole = len(targets) > 1
    if whole:
        restore(root)
    with making_folders({root: None}), claimed(root if whole else targets[0], folder=whole):
        refuse_existing(targets, force=force)  # again: another run may have ended meanwhile
        if whole and any(map(os.path.lexists, targets)):
            place = place_for(root, targets, resume=False)
            with kept_if_useful(place):
                _write_each([(source, target, place.to_stage(target)) for source, target in wanted], contents, inputs)
                finish(place, [wanted[-1][1]], [], targets)
        else:
            _write_each([(source, target, target) for source, target in wanted], contents, inputs, force=force)


def _write_each(
    wanted: list[tuple[Path | None, Path, Path]],
    contents: dict[Path, bytes],
    inputs: list[Path],
    *,
    force: bool = False,
) -> None:
    """Write files, each with its source, its name among the contents, and the place to write to."""
    with making_folders({place.parent: None for _, _, place in wanted}):
        for source, target, place in wanted:
            if target in contents:
                write_atomic(place, contents[target], force=force, inputs=inputs, like=source or inputs[0])
            elif source is not None:
                copy_atomic(source, place, force=force, inputs=inputs)


def _digest(path: Path, origin: Origin | None) -> SourceFile:
    with path.open("rb") as file:
        return SourceFile(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), *known_of(path, origin))


def _planned(model: Model, request: Request) -> tuple[Plan, GraphPass]:
    if request.preset is not None:
        raise RekernelError(
            "an ONNX graph has no presets; choose its tensors with ", Option("include", "--include"), " and ",
            Option("exclude", "--exclude"),
        )  # fmt: skip
    shapes = {name: tuple(tensor.dims) for name, tensor in model.constants.items()}
    hints = request.checked_hints(list(shapes))
    unused = [what for what, given in vars(hints).items() if given and what != "mode"]
    if unused:
        hint = Option(f"the hint {unused[0]!r}", f"--{unused[0].replace('_', '-')}")
        raise RekernelError("an ONNX graph says itself what ", hint, " would; leave it out")
    per_layer = {pattern: checked_mode(mode) for pattern, mode in hints.mode.items() if pattern != "*"}
    mode = hints.mode.get("*", request.mode)
    if mode != AUTO:
        checked_mode(mode)
    layers = Hints(mode=per_layer)
    chosen = set(shapes) if request.include is None else select(shapes, request.include, "include")
    left = frozenset(set(shapes) - (chosen - select(shapes, request.exclude, "exclude")))
    base = request.settings
    asked = Asked(
        base, request.each(shapes), left, mode, bool(per_layer), lambda name: layers.given("mode", name)
    )  # fmt: skip
    done = walk(model, asked)
    changes, modules = kept(model, done.changes), tuple(done.modules)
    unscaled = [SCALE_1] if is_one(base.scale) and all(change.kept for change in changes) else []
    notes = (*done.notes, *unscaled, *without_effect(changes, modules, base, request.overrides))
    return Plan(changes, FAMILY, request.options(), notes, modules, "onnx", base.scale), done


def _walked_again(model: Model, plan: Plan) -> GraphPass:
    """The same decisions from a plan that was made before: of the settings it takes the scale of the input alone."""
    if plan.origin != "onnx":
        raise RekernelError("this plan was not made for an ONNX model; make one with `rekernel plan model.onnx --json`")
    done = walk(model, Asked(Settings(plan.scale), ready=plan))
    if missing := {c.name for c in plan.changed} - done.changes.keys():
        raise RekernelError(f"the plan changes {shown(sorted(missing)[0])}, which this model does not need; plan again")
    return done
