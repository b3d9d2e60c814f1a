"""Set a pipeline up to sample above its trained size with one call, and put it back with another.

Scope: the recommended settings, and replacing what an earlier call put there. Not here: guidance, kernels, positions
and cascades themselves. What is recommended: docs/guidance.md, "What cascades and positions do".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..errors import RekernelError
from ..escape import shown
from ..messages.arguments import check_names, short
from ..messages.warn import tell
from .cascade.guided_cascade import GuidedCascade
from .cascade.settings import STRENGTH, at_scale, settings_from
from .cascade.sizes import check_multiple, geometry_of, parsed_size, sizes_up_to, text_of
from .denoiser.attachable import Attachable
from .denoiser.attached import ATTRIBUTE, Attached, attached_to
from .denoiser.names import DENOISERS, SECOND
from .formulas.sizes import Scale, checked_scale, enlargement
from .guidance.settings import GuidanceSettings
from .guidance.upsample import UpsampleGuidance
from .kernels.settings import KernelSettings
from .kernels.supersampled import SupersampledKernels
from .pipelines.attached_cascade import AttachedCascade
from .pipelines.unstaged_cascade import UnstagedCascade
from .positions.rescaled import RescaledPositions
from .positions.settings import PositionSettings

if TYPE_CHECKING:
    from .cascade.networks import Networks
    from .denoiser.target import Target

_STRENGTH_OF_TRANSFORMERS = 0.3  # docs/guidance.md, "What cascades and positions do"
_PARTS = (
    (SupersampledKernels, KernelSettings, "kernels"),
    (RescaledPositions, PositionSettings, "positions"),
    (UpsampleGuidance, GuidanceSettings, "guidance"),
)  # in the order of attaching


def apply(
    pipe: Any,
    scale: float | Sequence[float] | str = "auto",
    *,
    size: int | Sequence[int] | str | None = None,
    guidance: GuidanceSettings | Mapping[str, Any] | bool | None = None,
    kernels: KernelSettings | Mapping[str, Any] | bool | None = None,
    positions: PositionSettings | Mapping[str, Any] | bool | None = None,
    cascade: float | Sequence[float] | bool | None = None,
    **others: Any,
) -> Attached:
    """Let a diffusers pipeline sample above its trained size, with the recommended settings for its kind.

    Upsample guidance is attached, with the weight and the share of the steps that suit the pipeline: (1, 0.6) for
    latents, (1.5, 1) for pixels. The kernels stay as they are, since rescaled ones helped no guided sampler that was
    measured (docs/guidance.md). What an earlier call of `apply` put on the pipeline is replaced, so that a cell of a
    notebook may run twice. `detach(pipe)` takes everything off.

    Parameters
    ----------
    pipe : a diffusers pipeline
    scale : 'auto', a number, or one per grid axis
        Requested size over trained size. 'auto' reads it from the size of each call, and does nothing at the trained
        size.
    size : int, (height, width) or '1024x768' (width first), optional
        Instead of `scale`: the size of the pictures, in pixels. It is checked here. Pass it to the pipeline too, as
        `height` and `width`; a cascade knows it. 'auto' is scale='auto'.
    guidance : bool, UpsampleGuidance, or a mapping of its options; None
        None and True are the recommended guidance, False is none.
    kernels : bool, SupersampledKernels, or a mapping of its options; None
        Kernels to rescale; None is none.
    positions : bool, RescaledPositions, or a mapping of its options; None
        Positions of a transformer to rescale; None is none.
    cascade : bool, or one strength, or one for each stage after the first; None
        Also make a `GuidedCascade` up to `size` or `scale`, to be called as `pipe.rekernel.cascade(prompt)`. True is
        the recommended strength: 0.5, and 0.3 for a transformer.

    Returns
    -------
    what `pipe.rekernel` holds from now on; a `with` block removes it at its end

    Raises
    ------
    RekernelError
        For a network without its pipeline, for arguments of other names, for settings that cannot be, and where
        something is attached that an earlier `apply` did not put there. The pipeline is then as before.

    Warns
    -----
    RekernelWarning
        Where the trained size, or less, is asked for: then nothing is attached. A call of the pipeline at such a size
        warns too, once, and is not changed. With cascade=True, `pipe.rekernel.cascade(prompt)` calls the pipeline then.

    Examples
    --------
    >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    >>> net = UNet2DModel(8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
    ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    >>> pipe = DDIMPipeline(net, DDIMScheduler())
    >>> pipe.set_progress_bar_config(disable=True)
    >>> _ = apply(pipe, size=(16, 16), cascade=True)
    >>> pipe.rekernel.cascade
    GuidedCascade(DDIMPipeline, 8x8 -> 16x16 at 0.5, guided)
    >>> pipe.rekernel.cascade(num_inference_steps=2).images[0].size
    (16, 16)
    >>> detach(pipe)
    >>> hasattr(pipe, "rekernel")
    False
    """
    from torch import nn

    from .cascade.networks import Networks

    _check_names(others)
    if isinstance(pipe, str | os.PathLike):
        raise RekernelError(
            f"apply takes a pipeline, not its name; load it first: DiffusionPipeline.from_pretrained({short(pipe)})"
        )
    if isinstance(pipe, nn.Module):
        raise RekernelError(
            f"apply takes a pipeline, and this is a {type(pipe).__name__}; pass the pipeline, or attach to the network "
            f"with UpsampleGuidance().attach(network, scheduler=...)"
        )
    _check_strengths(cascade)
    if size == "auto":
        size = None
    networks = Networks(pipe)
    asked = _asked(scale, size, networks.main, pipe)
    if asked is not None and asked[0] == "auto" and not cascade and not networks.main.takes_size:
        raise RekernelError(
            f"{type(pipe).__name__}: its call takes no height and width, so it samples at the sample_size in the "
            f"config of its network, whatever is attached; pass cascade=True with size= or a number as scale"
        )
    options = {"guidance": guidance, "kernels": kernels, "positions": positions}
    earlier = _taken_off(pipe)
    if asked is None:
        if not cascade:
            return Attached(pipe)
        pixels = None if size is None or not networks.main.takes_size else parsed_size(size, "size")
        return _listed(pipe, [], UnstagedCascade(pipe, pixels), None)
    try:
        return _attach(pipe, networks, asked, options, cascade)
    except BaseException:
        _put_back(pipe, *earlier)
        raise


def detach(target: Any) -> None:
    """Take everything off a pipeline or a denoiser that rekernel attached, whoever attached it; it is as before.

    Does nothing where nothing is attached.

    Parameters
    ----------
    target : a diffusers pipeline, or its denoiser

    Raises
    ------
    RekernelError
        For an object without a denoiser.

    Examples
    --------
    >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    >>> net = UNet2DModel(8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
    ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    >>> pipe = DDIMPipeline(net, DDIMScheduler())
    >>> UpsampleGuidance(2).attach(pipe).attached
    True
    >>> detach(pipe)
    """
    from torch import nn

    from .denoiser.hooks import GUIDANCE, KERNELS, POSITIONS, hook_on

    names = (*DENOISERS, *SECOND)
    found = [target] if isinstance(target, nn.Module) else [getattr(target, name, None) for name in names]
    networks = [network for network in found if isinstance(network, nn.Module)]
    if not networks:
        raise RekernelError(f"{type(target).__name__} has no unet and no transformer, so nothing is attached to it")
    record = None if isinstance(target, nn.Module) else vars(target).get(ATTRIBUTE)
    for network in networks:
        for module in (network, getattr(network, "_orig_mod", network)):
            for name in (GUIDANCE, POSITIONS, KERNELS):
                hook = hook_on(module, name)
                if hook is not None:
                    hook.owner.remove()
    if isinstance(record, Attached):
        record.remove()  # also what is attached to a denoiser that the pipeline had before
        if vars(target).get(ATTRIBUTE) is record:  # a loaded pipeline keeps the list
            del vars(target)[ATTRIBUTE]


def _asked(scale: Any, size: Any, target: Target, pipe: Any) -> tuple[Scale, tuple[int, int] | None] | None:
    """The scale of what is attached, and the size in pixels where it is given; None, with a warning, for no larger one.

    For a size the scale is 'auto': what is attached then also suits a call of another size.
    """
    if size is None:
        if isinstance(scale, Real) and 0 < float(scale) <= 1:
            _warn(f"scale={scale!r} is not above 1: nothing is attached", target)
            return None
        checked = checked_scale(scale)
        if isinstance(checked, tuple) and max(checked) == 1:
            _warn(f"scale={scale!r} is not above 1: nothing is attached", target)
            return None
        target.check_scale(checked)
        return checked, None
    if scale != "auto":
        raise RekernelError(f"scale={shown(repr(scale), 80)} and size={shown(repr(size), 80)}: give one of them")
    pixels = parsed_size(size, "size")
    geometry = geometry_of(pipe, target.network, target.trained)
    trained = geometry.trained or geometry.usual
    if trained is None:
        raise RekernelError(f"{target}: its config has no trained size to compare size= with; pass scale=")
    check_multiple(pixels, geometry.multiple, f"{target}", "size")
    if all(f == 1 for f in enlargement(pixels, trained)):
        _warn(
            f"size={text_of(pixels)} (width x height) is not above the trained size, {text_of(trained)}: nothing is "
            f"attached",
            target,
        )
        return None
    target.check_scale("auto")
    return "auto", pixels


def _warn(said: str, target: Target) -> None:
    tell([f"{said} to {target}"])


def _check_names(others: Mapping[str, Any]) -> None:
    """Raise for arguments that `apply` does not have; options of guidance are named as such."""
    for name, value in others.items():
        if any(field.name == name for field in fields(GuidanceSettings)):
            raise RekernelError(f"{name} is an option of guidance; pass guidance={{'{name}': {short(value)}}}")
    check_names(others, ("scale", "size", "guidance", "kernels", "positions", "cascade"), "apply")


def _check_strengths(cascade: Any) -> None:
    """Raise unless `cascade` is None, a bool, or strengths above 0 and at most 1."""
    several = isinstance(cascade, Sequence) and not isinstance(cascade, str)
    for value in cascade if several else [cascade]:
        if not several and (value is None or isinstance(value, bool)):
            return
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
            raise RekernelError(
                f"cascade={short(cascade)} must be True, False, a strength above 0 and at most 1, or one such number "
                f"for each stage: the share of the steps that a stage runs again"
            )


def _attach(
    pipe: Any, networks: Networks, asked: tuple[Scale, tuple[int, int] | None], options: dict[str, Any], cascade: Any
) -> Attached:
    """Attach the parts and make the cascade; take everything off again where one of them fails."""
    settings = {name: settings_from(kind, name, options[name], default=name == "guidance") for _, kind, name in _PARTS}
    if all(value is None for value in settings.values()) and not cascade:
        raise RekernelError(
            "guidance=False, and neither kernels= nor positions= nor cascade=: there is nothing to attach"
        )
    made = AttachedCascade(_cascade(pipe, networks, asked, options, cascade)) if cascade else None
    parts: list[Attachable] = []
    try:
        for target, scheduler in networks.targets:
            for kind, _, name in _PARTS:
                if settings[name] is not None:
                    part: Attachable = at_scale(kind, settings[name], asked[0])
                    parts.append(part.attach(target, scheduler=scheduler))
    except BaseException:
        for part in reversed(parts):
            part.remove()
        raise
    return _listed(pipe, parts, made, asked[1] if networks.main.takes_size else None)


def _cascade(
    pipe: Any, networks: Networks, asked: tuple[Scale, tuple[int, int] | None], options: dict[str, Any], cascade: Any
) -> GuidedCascade:
    scale, size = asked
    strength = cascade
    if cascade is True:
        strength = _STRENGTH_OF_TRANSFORMERS if networks.main.experimental else STRENGTH
    geometry = geometry_of(pipe, networks.main.network, networks.main.trained)
    settings: dict[str, Any] = dict(options)
    if size is not None:
        return GuidedCascade(pipe, sizes_up_to(size, geometry), strength=strength, **settings)
    if isinstance(scale, str):
        raise RekernelError("a cascade has to know its size; also pass size=(2048, 2048), or a number as scale")
    scales = scale[-2:] if isinstance(scale, tuple) else scale
    return GuidedCascade(pipe, scale=scales, strength=strength, **settings)


def _taken_off(pipe: Any) -> tuple[list[tuple[Attachable, Any, Any]], Any, tuple[int, int] | None]:
    """Take off what an earlier `apply` put on: its parts with the arguments of their `attach`, its cascade and size."""
    record = vars(pipe).get(ATTRIBUTE)
    if not isinstance(record, Attached) or record.applied is None:
        return [], None, None
    cascade, record.cascade = record.cascade, None
    size, record.size = record.size, None
    found = [(part, *part.target) for part in record.applied if part.attached]
    record.applied = None
    for part, _, _ in reversed(found):
        part.remove()
    record.drop(None)  # where it held a cascade alone
    return found, cascade, size


def _put_back(
    pipe: Any, parts: Sequence[tuple[Attachable, Any, Any]], cascade: Any, size: tuple[int, int] | None
) -> None:
    if not parts and not cascade:
        return
    _listed(pipe, [part.attach(target, scheduler=scheduler) for part, target, scheduler in parts], cascade, size)


def _listed(pipe: Any, parts: Sequence[Attachable], cascade: Any, size: tuple[int, int] | None) -> Attached:
    """The record of a pipeline, with what `apply` put there."""
    record = attached_to(pipe)
    for part in parts:
        record.add(part)  # also one that was attached to a denoiser alone
    record.applied, record.cascade, record.size = tuple(parts), cascade, size
    return record
