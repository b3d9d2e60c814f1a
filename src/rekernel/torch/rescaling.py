"""Rescale a module: trace it, plan, change its layers, and trace it again at the new size.

Scope: the order of these steps. Not here: what to change (see `torch.planning.planner`), and changing a layer (see
`torch.editing.apply`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import Option, RekernelError
from ..escape import finding, shown
from ..messages.log import logger
from ..messages.progress_bar import Progress, Steps, shown_progress
from ..messages.warn import tell
from ..plan.changes import FORMS, Form, LayerMode, NetworkMode
from ..plan.plan import Plan
from ..planning.allowed_values import check_scale, layer_modes
from ..planning.asked_scale import check_typed
from ..planning.no_effect import without_effect
from ..planning.roles import AUTO, NETWORK_MODES
from ..planning.settings import Settings
from ..resampling.geometry import new_size
from ..resampling.methods import KEYS_A, Alias, Gain, Method, ReadingFilter, TapsRule
from ..text import dims, meant, scale_text
from .asked_size import from_size, per_axis, refuse_size_of_picture
from .checked_arguments import check_module
from .checking.by_running import Verdict, ask_after, ask_before, refuse_broken
from .checking.lost_layers import lost_layers
from .checking.pictures import Inputs
from .checking.two_passes import changed_meanings
from .editing.apply import PLAN, announce, carry_out
from .editing.bake import bake, copy_model
from .editing.edits import Edits
from .example_input import check_example, refused_example
from .given_grids import as_pictures, check_seen, checked_grids, flattened, signal_notes
from .grouped_notes import grouped
from .layers.dense import CroppedConvTranspose
from .layers.module_names import changed_modules
from .layers.pools import RescaledPool
from .planning.image_axes import checked_axes
from .planning.other_images import other_images
from .planning.planner import Planned, plan_model
from .planning.reading import inner_layers, preset_layers
from .running import arguments
from .surroundings import own_tensors
from .tracing.run import Trace, image_of, trace
from .wrapped import refuse_wrapped

_LOG = logger(__name__)
_STEPS = ("tracing", "planning", "running the trained model", "changing layers", "tracing again", "checking")


def rescale(
    model: nn.Module,
    scale: float | Sequence[float] | None = None,
    example_input: Any = None,
    *,
    size: int | Sequence[int] | str | None = None,
    mode: NetworkMode | Mapping[str, LayerMode] = "auto",
    modes: Mapping[str, LayerMode] | None = None,
    method: Method = "auto",
    methods: Mapping[str, Mapping[str, Any]] | None = None,
    reading_filter: ReadingFilter | Alias | None = None,
    taps: int | TapsRule | None = None,
    gain: Gain = "dc",
    a: float = KEYS_A,
    smoothness: float | None = None,
    form: Form = "plain",
    preset: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    grids: Mapping[str, Sequence[int]] | None = None,
    check: bool = True,
    inplace: bool = False,
    progress: Progress | bool | None = None,
) -> nn.Module:
    """Return a module that does at `scale` times the resolution what `model` does at its trained resolution.

    Parameters
    ----------
    model : nn.Module
    scale : float, or one per spatial axis
        New pixels per old pixel; (height, width) for an image.
    example_input : Tensor, tuple of arguments, or dict of keyword arguments
        An input of the *trained* size; its values do not matter.
    size : int, one per spatial axis, or '512x384' (width first), optional
        Instead of `scale`: the new size in pixels; (height, width) for an image. A number is the size of every axis.
    mode : {'auto', 'absorb', 'supersample'}, or {glob: mode}
        'absorb' changes the layers that read the image alone: their stride grows with the image, and everything behind
        them stays as it was trained. Then the new model does to an image what `model` does to the image reduced to the
        trained size, exactly. Where no layer can absorb the scale, the image is resampled in front of the model.
        'supersample' lets the feature maps grow. 'auto' absorbs unless the model gives an image back, and rescales
        the inner layers of a noise predictor. A dict is the same as `modes`.
    modes : {glob: 'supersample' | 'absorb'}, optional
        Modes of single layers by name; the others supersample, but a linear layer after a flatten absorbs, and so does
        the first convolution of a network of tokens.
    method, taps, gain, a, smoothness
        As for `kernel_operator`. 'auto' depends on the role of a layer: 'area' where a layer absorbs a whole scale, and
        'lanczos3' another scale; 'optimal' in a model that gives an image back, with all taps where the image is read;
        in any other model that supersamples 'area' where the image is read, 'optimal' in layers that enlarge, and
        'dilate' elsewhere.
        With 'auto', smoothness None is .003 in a model that gives an image back, and .01 in another and with any other
        method.
    methods : {glob: {'method' | 'taps' | 'gain' | ...: value}}, optional
        The same for single layers by name; the last match wins.
    reading_filter : {'area', 'nearest', 'linear', 'cubic', 'lanczos3', 'optimal'}, optional
        Method of the layers that read the image, if another than `method`.
    form : {'plain', 'dense', 'factored', 'auto'}
        'plain' gives layers of torch's own: dilated ones keep their weights, others get larger kernels. 'dense' makes
        dilated kernels large, too, with zeros between the taps, which fine-tuning can fill. 'factored' (for whole
        scales) gives a blur and a dilated convolution with the original weight objects, under the original names.
        'auto' chooses for each layer the form that costs less to run (dense for depthwise layers, factored for most
        others).
    preset : {'inner', 'all', ...}, optional
        A selection of the recognised family of networks, as for `plan_checkpoint`. The default is 'inner' for a noise
        predictor, and 'all' for any other model.
    include, exclude : patterns, optional
        On parameter names, as for `plan_checkpoint`.
    grids : {glob: (C, *spatial)}, optional
        For a model that takes its pixels flattened: channels and size of the picture that the named linear layer reads.
        Then the scale is one number, or one per axis of the picture, and the new model takes the larger one flattened.
    check : bool
        Run both models on probes and compare: where the plan promises the trained answer on the reduced image, this
        must hold to 1e-4, else a smooth picture and one of a single value show how close the answers are. The plan
        then says so (`checked`), with a warning that names the first layer that deviates. This costs three to seven
        passes; it is skipped on the meta device.
    inplace : bool
        Change `model` itself. If this raises, the model is unchanged.
    progress : bool or callable, optional
        True shows a bar of tqdm. A function is called with (steps done, steps in all).

    Returns
    -------
    nn.Module
        With the plan in its attribute `rekernel_plan`; print it to see what was done.

    Raises
    ------
    RekernelError
        If a layer cannot be rescaled (the message names it), if the model, run at the new size, has another grid
        than planned, or if it fails a check of what the plan promises.

    Warns
    -----
    RekernelWarning
        Each note of the plan: what the model's code does that its weights do not show. The sizes that modules hold,
        and attention over more tokens where the plan says that more are read, are in the plan alone.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    >>> larger = rescale(model, 2, torch.zeros(1, 3, 16, 16))
    >>> larger[2].kernel_size, larger(torch.zeros(1, 3, 32, 32)).shape
    ((5, 5), torch.Size([1, 4, 32, 32]))
    >>> classifier = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> larger = rescale(classifier, 2, torch.zeros(1, 3, 16, 16))
    >>> larger[0].kernel_size, larger[0].stride
    ((6, 6), (2, 2))
    """
    if form not in FORMS:
        raise RekernelError(f"form={form!r} is not one of {', '.join(FORMS)}{meant(str(form), FORMS)}")
    if not isinstance(mode, Mapping) and mode not in NETWORK_MODES:
        near = meant(str(mode), NETWORK_MODES)
        raise RekernelError(
            f"mode={mode!r} is not one of {', '.join(NETWORK_MODES)}, and not a dict of layer names{near}"
        )
    check_module(model)
    refuse_wrapped(model, "rescale")
    if example_input is None:
        raise RekernelError(
            "example_input is missing; pass an input of the trained size, such as torch.zeros(1, 3, 224, 224)"
        )
    if (scale is None) == (size is None):
        raise RekernelError("give either scale=2 or size=384, the new size in pixels")
    earlier = getattr(model, PLAN, None)
    if earlier is not None and not earlier.empty:
        raise RekernelError(
            f"this {type(model).__name__} was rescaled already (scale {scale_text(earlier.scale)}); "
            f"rescale the original by the product instead"
        )
    check_example(example_input)
    given, kwargs = arguments(example_input)
    pictured = checked_grids(model, grids)
    args = as_pictures(given, pictured)
    network, layers = (AUTO, {**mode, **layer_modes(modes)}) if isinstance(mode, Mapping) else (mode, modes)

    def attempt(callback: Progress | None, in_front: str = "") -> nn.Module:
        steps = Steps(_STEPS, callback, _LOG)
        with own_tensors(), Edits(model if inplace else copy_model(model)) as edits, ExitStack() as stack:
            baked = bake(edits)
            stack.enter_context(flattened(edits.model, given, args))
            seen = _first_pass(edits.model, args, kwargs)
            check_seen(seen, pictured)
            steps.next()
            scales = per_axis(scale, seen) if scale is not None else from_size(size, seen)
            if scale is not None:
                check_typed(scales, seen.size)
            check_scale(scales, seen.size)
            image = image_of([*args, *kwargs.values()])[0]
            inner = inner_layers(edits.model)
            if size is not None:
                refuse_size_of_picture(
                    edits.model, scales, seen, image.shape[1] if image.ndim > 2 else 1, predicts_noise=inner is not None
                )
            axes = checked_axes(seen, image.shape, scales) if not seen.latent else []
            settings = Settings(scales, method, taps, gain, a, smoothness, reading_filter)
            chosen = include
            if preset is not None:
                chosen = [*preset_layers(edits.model, preset), *(include or ())]
            elif include is None and network == AUTO and not layers:
                chosen = inner
            planned = plan_model(
                edits.model, seen, settings, scales, form=form, mode=network, modes=layers, methods=methods,
                include=chosen, exclude=exclude, in_front=in_front, predicts_noise=inner is not None,
            )  # fmt: skip
            for change in planned.plan.changed:
                _LOG.debug("planned: %s: %s", shown(change.name), change.settings())
            steps.next()
            inputs = Inputs(args, kwargs, seen.size, scales)
            plan = planned.plan
            noted = (
                *baked,
                *axes,
                *signal_notes(edits.model, seen, image.shape),
                *without_effect(plan.changes, plan.modules, settings, methods),
            )
            plan = replace(plan, warnings=(*plan.warnings, *noted, *other_images(inputs.values, seen.size)))
            asked = ask_before(edits.model, seen, inputs, planned) if check else None
            steps.next()
            carry_out(edits, plan, weights=True)
            announce(edits, plan, seen.size, scales)
            steps.next()
            try:
                notes, tokens = _second_pass(edits.model, seen, planned, inputs)
                steps.next()
                verdict = ask_after(asked, edits.model) if asked is not None else Verdict("")
                excuses = (
                    [] if planned.absorbs else notes + tokens
                )  # what cannot absorb is resampled in front, which is exact
                refuse_broken(verdict, type(edits.model).__name__, excuses)
            except RekernelError as error:
                advice = error.advice if isinstance(error, _DoesNotRun) else ""
                raise _CannotAbsorb(*error.args, advice=advice) if planned.absorbs else error from None
            last = [verdict.warning] if verdict.warning else []
            told = (*grouped([*plan.warnings, *notes, *tokens]), *last)
            edits.set(edits.model, PLAN, replace(plan, warnings=told, checked=verdict.text))
            if inplace and edits.model is not model:
                raise RekernelError(f"a single {type(model).__name__} cannot be changed in place; use inplace=False")
            steps.next()
            _LOG.debug("%s", planned.held)
            said = [note for note in plan.warnings if note != planned.held] + notes
            said = [*grouped(said if planned.more_tokens else said + tokens), *last]
            # a filter may make them errors, which undo the edits
            tell(said, "model.rekernel_plan.warnings has them all")
        return edits.model

    with shown_progress(progress, "rescaling", "step") as callback:
        try:
            return attempt(callback)
        except _CannotAbsorb as error:
            failed = error
        why = f"the layers that read the image cannot absorb the scale ({finding(failed)}{failed.advice})"
        try:  # the model never sees that its image was larger
            return attempt(callback, why)
        except RekernelError:
            raise RekernelError(*failed.args) from None


class _DoesNotRun(RekernelError):  # noqa: N818 - says what is wrong, as RekernelError does
    """The rescaled model does not run at the new size.

    advice : what its code may do, and how to change it; the end of a sentence, or empty
    """

    def __init__(self, *parts: str | Option, advice: str = "") -> None:
        super().__init__(*parts)
        self.advice = advice


class _CannotAbsorb(_DoesNotRun):
    """The layers that read the image were to absorb the scale, and the model does not work so."""


def _first_pass(model: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Trace:
    try:
        return trace(model, args, kwargs)
    except RekernelError as error:
        hint = refused_example(model, kwargs or args)
        raise RekernelError(*error.args, hint) from error.__cause__


def _second_pass(model: nn.Module, seen: Trace, planned: Planned, inputs: Inputs) -> tuple[list[str], list[str]]:
    """Trace the rescaled model at the new size: notes about its code. Raises if a layer has another grid than planned.

    Returns
    -------
    list of str, list of str
        What does not keep its meaning at the new size; and where attention looks at more tokens.
    """
    args, kwargs = inputs.enlarged()
    try:
        again = trace(model, args, kwargs)
    except RekernelError as error:
        grid = dims(image_of([*args, *kwargs.values()])[1])
        doubts = (*other_images(inputs.values, seen.size), *planned.doubts, *planned.plan.warnings)
        told = "".join(f". Note: {note}" for note in doubts[:3])
        fixed = _fixed_pixels(planned.plan)
        said = (f"after rescaling, at {grid} pixels: ", *error.args, fixed, *planned.way_out, told)
        raise _DoesNotRun(*said, advice=fixed) from None
    plan = planned.plan
    notes = changed_meanings(seen, again, changed_modules(plan), inputs.scales)
    # The last call of each module counts: a factored layer makes several calls.
    new_sizes = {call.module: call.out_size for call in again.calls}
    wrappers = CroppedConvTranspose, RescaledPool
    wrapped = {name for name, module in model.named_modules() if isinstance(module, wrappers)}
    new_sizes |= {name: again.results[name] for name in wrapped if name in again.results}
    for call in seen.calls:
        expected, new = planned.sizes.get(call.module), new_sizes.get(call.module)
        if expected and new and tuple(new) != tuple(expected):
            why = "".join(f" Note: {note}." for note in notes[:3])
            where = shown(call.module) if call.module else "the model itself"
            raise RekernelError(
                f"{where}: gives a grid of {new} at the new size, but the plan said {expected} "
                f"(it was {call.out_size}).{why} Choose a size and scale that every stride divides, exclude the layer, "
                f"or pass mode='absorb', which lets nothing grow behind the layers that read the image"
            )
    if not plan.resamples and (beside := _output_size(seen, again, inputs.scales)):
        notes.append(beside)
    return [*notes, *lost_layers(model, seen, again)], _attention_notes(seen, again)


def _fixed_pixels(plan: Plan) -> str:
    """What the model's code may do where it does not run at the new size: flatten into a fixed number of pixels."""
    flat = next((change for change in plan.changed if change.kind == "linear-in"), None)
    if flat is None:
        return ""
    return (
        f"; if the model's code flattens to a fixed number of pixels, as x.view(-1, {flat.shape[-1]}) does, write "
        f"x.flatten(1) there"
    )


def _output_size(seen: Trace, again: Trace, scales: tuple[float, ...]) -> str:
    """A note about an output image that is not `scales` times as large; empty if it is, or is as large as before."""
    old, new = seen.out_shape, again.out_shape
    for first in (2, 1):  # (N, C, *spatial) or (N, *spatial, C)
        axes = slice(first, first + len(scales))
        planned = tuple(new_size(n, s) for n, s in zip(old[axes], scales, strict=False))
        if len(old) != len(scales) + 2 or len(new) != len(old) or old == new or new[axes] == planned:
            return ""
    if not seen.output:
        return ""
    expected = [new_size(n, s) for n, s in zip(old[2:], scales, strict=True)]
    return (
        f"the output has {dims(new[2:])} pixels instead of {dims(old[2:])}, where {dims(expected)} were to be expected"
    )


def _attention_notes(seen: Trace, again: Trace) -> list[str]:
    """Notes about attention over more tokens than in training, which no change of weights makes up for."""
    before = {call.module: call.keys for call in seen.calls if call.kind == "attention"}
    after = {call.module: call.keys for call in again.calls if call.kind == "attention"}
    return [
        f"{name}: attention looks at {after[name]} tokens instead of {keys}; its weights stay as they are"
        for name, keys in before.items()
        if after.get(name, keys) != keys
    ]
