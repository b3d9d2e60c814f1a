"""Plan a checkpoint from the names and shapes of its tensors: which are rescaled, how, and what stays unclear.

Scope: selection, overrides, notes. No weights are read. Not here: what a single tensor is (see `planning.tensor`), nor
what becomes of it (see `planning.rules`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..architectures.axis_order import Layout
from ..architectures.base import Family
from ..architectures.detect import architecture
from ..checkpoint.dtypes import FLOATS, ROUNDED
from ..checkpoint.tensor_source import TensorSource
from ..errors import Option, RekernelError
from ..escape import finding, shown, shown_path
from ..messages.arguments import check_path
from ..messages.log import logger
from ..messages.note import Note
from ..messages.path_errors import explains_paths
from ..messages.warn import tell
from ..patterns import hinted, select, without
from ..plan.changes import LayerChange, ModuleChange, NetworkMode
from ..plan.plan import Plan
from ..resampling.methods import KEYS_A, Alias, Gain, Method, ReadingFilter, TapsRule
from ..sources.opening import open_location
from ..text import choices
from .allowed_values import SCALE_1, is_one, rows_of_a_picture
from .asked_scale import asked_scale
from .guards import refuse_rescaled
from .layers import Unclear
from .no_effect import without_effect
from .position_grid import CONFIG, assumed_square, trained_image
from .quantized import quantized_notes
from .reading_by_name import Reading, reading
from .roles import ABSORB, SUPERSAMPLE, aligned, check_whole_patches
from .rules import resampled_image, shrinking_note
from .settings import Hints, Request, Scale, Settings, plain_scale
from .tensor import Layer
from .weight_norm import with_lengths

_LOG = logger(__name__)
_WINDOWS = ("relative_position_bias_table", "relative_position_index", "relative_coords_table", "rel_pos_h")


@explains_paths("source")
def plan_checkpoint(
    source: str | os.PathLike[str] | TensorSource,
    scale: Scale | None = None,
    *,
    size: int | Sequence[int] | str | None = None,
    from_size: int | Sequence[int] | str | None = None,
    method: Method = "auto",
    taps: int | TapsRule | None = None,
    gain: Gain = "dc",
    a: float = KEYS_A,
    smoothness: float | None = None,
    reading_filter: ReadingFilter | Alias | None = None,
    mode: NetworkMode = "auto",
    preset: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    hints: Hints | None = None,
    allow_cast: bool = False,
    allow_pickle: bool = False,
) -> Plan:
    """Decide from names and shapes what to do with every tensor of a checkpoint; no weights are read.

    Parameters
    ----------
    source : path, address or open checkpoint
        A safetensors file, an index, or a folder with one of them; or the `hf://` address of one.
    scale : float or sequence of float
        New pixels per old pixel; a sequence gives one per spatial axis (two leave the time axis of a video model as
        it is).
    size, from_size : int, (height, width) or '1024x768' (width first), optional
        Instead of `scale`: the new size of an image and the trained one, in pixels. The trained one is read from a
        config.json beside the weights where it tells one.
    method, taps, gain, a, smoothness
        As for `kernel_operator`. The method 'auto' depends on the role of a layer: 'area' where a layer absorbs a whole
        scale, and 'lanczos3' another scale; 'optimal' in a network that gives an image back, with all taps where the
        image is read; in any other network that supersamples 'area' where the image is read and 'dilate' elsewhere.
        Values on a grid (position embeddings) are interpolated without coefficient, by cubic where the method is
        'auto', 'optimal' or 'dilate'.
    reading_filter : str, optional
        Method of the layer that reads the image, if another than `method`: 'nearest' (the same as 'area' at whole
        scales), 'area', 'linear', 'cubic', 'lanczos3' or 'optimal'.
    mode : {'auto', 'absorb', 'supersample'}
        'absorb' changes the layer that reads the image alone: its stride grows with the image, and the rest of the
        network stays as it was trained. 'supersample' lets the feature maps grow. 'auto' absorbs where the network
        gives no image back. The hint `mode` gives modes of single layers.
    preset : str, optional
        A selection of the recognised family ('inner', 'all', ...); its default where nothing is included.
    include, exclude : patterns
        Globs, or regular expressions after 're:', on tensor or layer names. A pattern without a match is an error.
    overrides : {pattern: {'scale' | 'method' | 'taps' | 'gain' | ...: value}}, optional
        Settings for single layers; later patterns win.
    hints : Hints, optional
        Strides, grids, layouts and modes that shapes cannot tell.
    allow_cast : bool
        Also resample integer and float8 weights, computed in float32 and rounded back.
    allow_pickle : bool
        As for `open_checkpoint`.

    Returns
    -------
    Plan

    Raises
    ------
    RekernelError
        For a pattern without a match, an unknown preset, a dtype that may not be cast, or a geometry that cannot be.

    Warns
    -----
    RekernelWarning
        Each note of the plan: what names and shapes do not tell, and the argument that tells it.

    Examples
    --------
    >>> import tempfile, safetensors.numpy, numpy as np
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "in.safetensors"
    >>> shapes = {"conv1.weight": (8, 3, 3, 3), "conv2.weight": (8, 8, 3, 3), "fc.weight": (10, 8)}
    >>> safetensors.numpy.save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)
    >>> [(change.name, change.new_shape) for change in plan_checkpoint(path, scale=2).changed]
    [('conv1.weight', (8, 3, 6, 6))]
    >>> [change.new_shape for change in plan_checkpoint(path, scale=2, mode="supersample", method="optimal").changed]
    [(8, 3, 5, 5), (8, 8, 5, 5)]
    """
    typed = not hasattr(source, "tensors")

    def planned(opened: TensorSource) -> Plan:
        asked = plain_scale(asked_scale(scale, size, from_size, lambda: trained_image(opened.path.parent), typed=typed))
        settings = Settings(asked, method, taps, gain, a, smoothness, reading_filter)
        return plan_opened(opened, Request(settings, mode, preset, include, exclude, overrides, hints, allow_cast))

    if typed:
        check_path(source, "source")
    if isinstance(source, str | os.PathLike):
        with open_location(source) as place, place.open(place.path, allow_pickle=allow_pickle) as opened:
            place.complete(opened.path.parent / CONFIG)
            plan = planned(opened)
    else:
        plan = planned(source)
    tell(plan.warnings, "plan.warnings has them all")
    return plan


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint and what is asked of it.

    hints, each : the hints, and the settings of tensors with settings of their own, both checked
    family, layout, shapes : what the names tell, and the shapes in PyTorch's order of axes
    chosen, selection : names of the tensors to rescale, and what this choice is called
    """

    source: TensorSource
    asked: Request
    hints: Hints
    each: Mapping[str, Settings]
    family: Family | None
    layout: Layout
    shapes: Mapping[str, tuple[int, ...]]
    chosen: set[str]
    selection: str


def plan_opened(source: TensorSource, asked: Request) -> Plan:
    """Do the same as `plan_checkpoint` for an open checkpoint, without warnings."""
    refuse_rescaled(source)
    if not source.tensors:
        raise RekernelError(f"{shown_path(source.path)}: holds no tensors, so there is nothing to plan")
    shapes = {name: info.shape for name, info in source.tensors.items()}
    hints = asked.checked_hints(list(shapes))
    found = architecture(shapes, source.metadata, hints.layout_of_all())
    family, shapes = found.family, found.shapes
    chosen, selection = _chosen(shapes, family, asked.preset, asked.include, asked.exclude)
    given = _Checkpoint(
        source, asked, hints, asked.each(shapes), family, found.layout, shapes, chosen, selection
    )  # fmt: skip
    if all(is_one(settings.scale) for settings in (asked.settings, *given.each.values())):
        return _unscaled(given)
    how = reading(shapes, family, asked.settings, hints, asked.mode, chosen)
    image = trained_image(source.path.parent) if how.keeps_patch else None
    for name in sorted(how.readers) if image else []:
        patch = shapes[name][2:]
        check_whole_patches(patch, image or (), asked.settings.scales(len(patch)) or ())
    try:
        return _planned(given, how)
    except RekernelError as error:
        if not how.keeps_patch:
            raise
        # No number of tokens fits, so the network shall not see that its image was larger.
        why = f"the patches cannot grow, and more of them do not fit ({finding(error)})"
        return _planned(given, Reading(ABSORB, how.network, resample=why))


def _unscaled(given: _Checkpoint) -> Plan:
    """The plan for a scale of 1."""
    tensors = given.source.tensors.values()
    changes = (LayerChange.unchanged(t.name, t.dtype, t.shape, "the scale is 1") for t in tensors)
    options = {**given.asked.options(), "selection": given.selection}
    family, scale = given.family.name if given.family else "", given.asked.settings.scale
    return Plan(tuple(changes), family, options, (SCALE_1,), scale=scale)


def _planned(given: _Checkpoint, how: Reading) -> Plan:
    """The plan for a way in which the network reads its image."""
    source, asked, hints, shapes, family = given.source, given.asked, given.hints, given.shapes, given.family
    base = asked.settings
    at_0 = aligned(base, how.network, reads_image=False)[0]
    supersamples = how.mode == SUPERSAMPLE
    image = trained_image(source.path.parent) if supersamples else None
    changes, warnings = [], list(family.notes(shapes)) if family and supersamples else []
    warnings += [how.note] if how.note else []
    for name, info in source.tensors.items():
        settings = given.each.get(name, base)
        layer = Layer(
            name, info.dtype, info.shape, shapes, settings, hints, family, how, given.layout, at_0, image
        )  # fmt: skip
        try:
            change = layer.change() if name in given.chosen else layer.kept(f"not selected by {given.selection}")
        except Unclear as unclear:
            warnings.append(Note(f"{shown(name)} {list(info.shape)}: ", *unclear.args))
            change = layer.kept("unclear, see the notes")
        castable = info.dtype in ROUNDED
        if not change.kept and info.dtype not in FLOATS and not (castable and asked.allow_cast):
            cast = ("), or allow a cast (", Option("allow_cast=True", "--allow-cast"))
            raise RekernelError(
                f"{shown(name)}: dtype {info.dtype} is not resampled, since rounding would change its meaning. "
                "Leave it out (",
                without(name),
                *(cast if castable else ()),
                ").",
            )
        _LOG.debug("planned: %s: %s", shown(name), change.settings())
        changes.append(change)
    changes = with_lengths(changes, shapes, {name: info.dtype for name, info in source.tensors.items()})
    warnings += _assumed(changes, shapes, family, hints)
    warnings += filter(None, (_signal(change, hints) for change in changes))
    warnings += [note for c in changes if not image and (note := assumed_square(c, hints))]
    windows = [name for name in shapes if name.endswith(_WINDOWS)] if supersamples else []
    if windows:
        more = f" and {len(windows) - 1} more" if len(windows) > 1 else ""
        warnings.append(
            f"{shown(windows[0])}{more}: relative positions stay, and so do windows of attention, since no name tells "
            f"their size: each then covers a smaller part of the image; rekernel.torch.rescale makes both grow"
        )
    scales = base.scale if isinstance(base.scale, tuple) else (base.scale,)
    shrinking = (shrinking_note(scales, c.geometry) for c in changes if c.kind == "conv" and c.mode == SUPERSAMPLE)
    warnings += dict.fromkeys(filter(None, shrinking))
    options = {**asked.options(), "selection": given.selection}
    modules: tuple[ModuleChange, ...] = ()
    if how.resample:
        modules = (resampled_image(how.resample, base, ()),)
        unsure = (
            f". No name tells that size: an image of n pixels goes back to n / {min(scales):g}, rounded, so 224 pixels "
            f"may come back as 225; rekernel.torch.rescale keeps the size"
        )
        warnings.append(
            f"{how.resample}; the weights stay, and the image is resampled to the trained size in front of the "
            f"network. rekernel.torch.load does this; any other loader needs images of the trained size"
            f"{unsure if min(scales) < 1 else ''}"
        )
    warnings += quantized_notes(shapes)
    warnings += without_effect(changes, modules, base, asked.overrides, hints)
    return Plan(tuple(changes), family.name if family else "", options, tuple(warnings), modules, scale=base.scale)


def _signal(change: LayerChange, hints: Hints) -> str:
    """A note about a given grid that may be a picture whose one channel was left out; empty for any other."""
    grid = hints.given("linear_grid", change.name) if change.kind == "linear-in" else None
    if not grid or not rows_of_a_picture(grid):
        return ""
    sizes = ",".join(map(str, grid))
    return (
        f"{shown(change.name)}: a grid of {sizes} is a signal of {grid[1]} samples with {grid[0]} channels; for a "
        f"picture of one channel write 1,{sizes}"
    )


def _assumed(
    changes: Sequence[LayerChange], shapes: Mapping[str, tuple[int, ...]], family: Family | None, hints: Hints
) -> list[str]:
    """The notes that name the convolutions whose stride was assumed: no hint and no family gives it."""
    unknown = [
        c for c in changes
        if c.kind == "conv" and hints.given("stride", c.name) is None
        and not (family and (facts := family.facts(c.name, shapes)) and facts.stride)
    ]  # fmt: skip
    notes: list[str] = [
        Note(
            f"{shown(c.name)}: no name tells its stride and padding, both of which grow by the scale; "
            f"rekernel.torch.load takes them from the model, and ",
            Option("hints=Hints(stride=..., padding=...)", "--stride and --padding"), " tell them to any other reader",
        )
        for c in unknown if c.mode == ABSORB
    ]  # fmt: skip
    guessed = [c.name for c in unknown if c.mode != ABSORB]
    if not guessed:
        return notes
    why, whose = "no family recognised", ""
    if family:
        listed = ", ".join(map(shown, guessed[:3])) + (", ..." if len(guessed) > 3 else "")
        why, whose = f"the names of a {family.name} do not tell every stride", f" ({listed})"
    return [
        *notes,
        Note(
            f"{why}: stride 1 and 'same' padding are assumed for {len(guessed)} convolutions{whose}; where that is "
            f"wrong, pass ",
            hinted("stride", "NAME", 2),
        ),
    ]


def _chosen(
    shapes: Mapping[str, tuple[int, ...]],
    family: Family | None,
    preset: str | None,
    include: Sequence[str] | None,
    exclude: Sequence[str],
) -> tuple[set[str], str]:
    """The names of the tensors to rescale, and a name for this choice that the reasons in the plan use."""
    if preset is None and include is not None:
        chosen, called = select(shapes, include, "include"), "include"
    else:
        presets = family.presets(shapes) if family else {"all": ("*",)}
        preset = preset or (family.default if family else "all")
        if preset not in presets:
            of = f"a {family.name} checkpoint" if family else "a checkpoint of no known family"
            known = choices(preset, sorted(presets)) if len(presets) > 1 else f"only {min(presets)} is known"
            raise RekernelError(f"preset {shown(preset)} is unknown for {of}; {known}")
        chosen, called = select(shapes, presets[preset], f"preset {preset!r}"), f"preset {preset!r}"
        if include is not None:
            chosen |= select(shapes, include, "include")
    return chosen - select(shapes, exclude, "exclude"), called + (" or excluded" if exclude else "")
