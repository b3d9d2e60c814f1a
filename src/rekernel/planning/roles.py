"""Name the role of a layer in its network, and choose by the role the mode and the method of the layer.

Scope: roles, modes and default methods. Not here: how a planner finds the role of a layer (see `planning.tensor`,
`rekernel.torch.planning` and `rekernel.onnx`), nor what the layer becomes (see `planning.rules`).
Derivation: docs/mathematics.md, "What a rescaled network computes". Measured by benchmarks/real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, get_args

from ..errors import Option, RekernelError
from ..escape import shown
from ..plan.changes import LayerMode, Mode, NetworkMode
from ..text import dims, meant, scale_text
from .settings import Settings

SUPERSAMPLE: Final = "supersample"
ABSORB: Final = "absorb"
AUTO: Final = "auto"
SMALL_PATCHES: Final = "patches that shrink would lose what enlarging the image keeps (mode absorb shrinks them)"
"""Why a vision transformer does not read smaller images by smaller patches on its own; benchmarks/real/fashion.py."""
FAR: Final = 4
"""Distance of taps, in trained pixels, from which nothing is interpolated between them."""
FLAT: Final = 0.003
"""Smoothness of 'optimal' inside a network that gives an image back; benchmarks/real/segmentation.py."""
MODES: tuple[LayerMode, ...] = get_args(LayerMode)
NETWORK_MODES: tuple[NetworkMode, ...] = get_args(NetworkMode)


def patches_stay(kernel: Sequence[int], scale: Sequence[float]) -> str:
    """The note about a vision transformer whose patches cannot grow by the scale.

    Examples
    --------
    >>> patches_stay((16, 16), (1.5, 1.5))
    'patches of 16x16 pixels cannot grow by 1.5, so they stay: more tokens are read, at interpolated positions'
    """
    each = scale if len(set(scale)) > 1 else scale[:1]
    return (
        f"patches of {dims(kernel)} pixels cannot grow by {scale_text(tuple(each))}, so they stay: more tokens are "
        f"read, at interpolated positions"
    )


def check_whole_patches(kernel: Sequence[int], size: Sequence[int], scale: Sequence[float]) -> None:
    """Raise if an image of the new size is not cut into whole patches, where the patches stay as they were trained.

    A vision transformer would run there, but leave out the last pixels, and its config could not say so. A trained
    image that is not cut into whole patches is not asked for a better one.

    Parameters
    ----------
    kernel : pixels of a patch along each axis
    size : pixels of the trained image
    scale : new pixels per old pixel

    Examples
    --------
    >>> check_whole_patches((16, 16), (224, 224), (384 / 224, 384 / 224))
    >>> check_whole_patches((16, 16), (224, 224), (390 / 224, 390 / 224))
    Traceback (most recent call last):
    rekernel.errors.RekernelError: 390 is not a multiple of 16, the pixels of a patch, which cannot grow by 1.74107; 384
    and 400 are. mode='absorb' resamples the image to 224x224 pixels instead
    """
    for k, n, s in zip(kernel, size, scale, strict=True):
        new = round(n * s, 6)
        if n % k or new % k == 0:
            continue
        least = int(new // k) * k
        raise RekernelError(
            f"{new:g} is not a multiple of {k}, the pixels of a patch, which cannot grow by {s:g}; {least} and "
            f"{least + k} are. ",
            Option("mode='absorb'", "--mode absorb"),
            f" resamples the image to {dims(size)} pixels instead",
        )


class Role(StrEnum):
    """Where a convolution stands in its network; what it becomes may depend on that.

    READS_IMAGE : its input is the image itself
    INNER : neither the first nor the last, stride 1
    STRIDED : neither the first nor the last, and its output has fewer pixels than its input
    ENLARGES : a transposed convolution
    WRITES_IMAGE : its output is the image that the network gives back
    """

    READS_IMAGE = "reads-image"
    INNER = "inner"
    STRIDED = "strided"
    ENLARGES = "enlarges"
    WRITES_IMAGE = "writes-image"


def role_of(
    strides: Sequence[int], *, transposed: bool = False, reads_image: bool = False, writes_image: bool = False
) -> Role:
    """The role of a convolution, from the facts that a planner found.

    Examples
    --------
    >>> role_of((2, 2)), role_of((1, 1), reads_image=True)
    (<Role.STRIDED: 'strided'>, <Role.READS_IMAGE: 'reads-image'>)
    """
    if transposed:
        return Role.ENLARGES
    if reads_image:
        return Role.READS_IMAGE
    if writes_image:
        return Role.WRITES_IMAGE
    return Role.STRIDED if any(stride > 1 for stride in strides) else Role.INNER


@dataclass(frozen=True)
class Network:
    """Facts about a whole network that decide the defaults of its layers.

    attends : whether tokens attend to each other
    gives_image : whether the network gives an image back: an output with an entry for every pixel, or for every cell of
        a coarser grid
    predicts_noise : whether the image that it gives back is noise
    """

    attends: bool = False
    gives_image: bool = False
    predicts_noise: bool = False


def gives_image(out: Sequence[int], axes: int) -> bool:
    """Whether an output of shape `out` is an image, in a network that reads images with `axes` axes.

    Examples
    --------
    >>> gives_image((1, 21, 96, 96), 4), gives_image((1, 512, 1, 1), 4), gives_image((1, 197, 768), 4)
    (True, False, False)
    """
    return len(out) == axes and any(n != 1 for n in out[2:])


def network_mode(asked: str, network: Network) -> Mode:
    """The mode of a network: the one that the caller asked for, or the default of such a network.

    A network that gives no image back absorbs the scale where it reads the image: behind that layer everything is as
    in training. A network that gives an image back supersamples, so that its output grows with its input.

    Examples
    --------
    >>> network_mode("auto", Network()), network_mode("auto", Network(gives_image=True))
    ('absorb', 'supersample')
    """
    if asked == AUTO:
        return SUPERSAMPLE if network.gives_image else ABSORB
    return checked_mode(asked)


def settings_of(settings: Settings, role: Role | None, mode: Mode, network: Network, *, dilation: int = 1) -> Settings:
    """The settings of one layer: the method by its role where the caller left that open.

    Parameters
    ----------
    role : Role, optional
        None for a layer without a role: a matrix that reads or writes pixels.
    mode : {'supersample', 'absorb'}
    dilation : int
        Largest distance between taps of the trained kernel. Taps that lie `FAR` apart stay points: a dense kernel over
        them has hundreds of taps, nearly all of them 0.

    Examples
    --------
    >>> layers = ((Role.READS_IMAGE, "absorb"), (Role.INNER, "supersample"), (Role.ENLARGES, "supersample"))
    >>> [settings_of(Settings(2), role, mode, Network()).method for role, mode in layers]
    ['area', 'dilate', 'optimal']
    """
    if (role is Role.READS_IMAGE or mode == ABSORB) and settings.reading_filter is not None:
        return replace(settings, method=settings.reading_filter, taps=None)
    if settings.method != AUTO:
        holes = settings.method == "dilate" and role is Role.ENLARGES  # its zeros would meet those of the stride
        return replace(settings, method="optimal") if holes else settings
    if mode == ABSORB:
        return replace(settings, method=reading_method(settings), taps=None)
    if network.gives_image:
        if dilation >= FAR and settings.whole and role is Role.INNER:
            return replace(settings, method="dilate")
        settings = replace(settings, method="optimal")
        return settings if network.predicts_noise else _flat(settings, role)
    if role is Role.READS_IMAGE:
        return replace(settings, method="area", taps=None)
    dilates = settings.whole and role is not Role.ENLARGES
    return replace(settings, method="dilate" if dilates else "optimal")


def reading_method(settings: Settings) -> str:
    """The default method of a layer that absorbs the scale, and of an image that is resampled in front of a network.

    'area' is exact where an old pixel becomes whole new ones. Elsewhere it blurs.

    Examples
    --------
    >>> reading_method(Settings(2)), reading_method(Settings(1.5))
    ('area', 'lanczos3')
    """
    return "area" if settings.whole else "lanczos3"


def _flat(settings: Settings, role: Role | None) -> Settings:
    """The design of a network that gives an image back: flatter kernels, and a longer one where the image is read."""
    smoothness = FLAT if settings.smoothness is None else settings.smoothness
    longer = role is Role.READS_IMAGE and settings.taps is None
    return replace(settings, smoothness=smoothness, taps="full" if longer else settings.taps)


def aligned(settings: Settings, network: Network, *, reads_image: bool) -> tuple[bool, bool]:
    """Whether pixel 0 stays pixel 0 on the input and on the output grid of a layer that supersamples.

    It does throughout a network of dilated layers, which then agree wherever branches meet. The image itself is the
    exception: each of its pixels is cut into smaller ones.

    Examples
    --------
    >>> [aligned(Settings(2, method), Network(), reads_image=True) for method in ("dilate", "cubic")]
    [(False, True), (False, False)]
    """
    dilated = settings_of(settings, Role.INNER, SUPERSAMPLE, network).method == "dilate" and settings.whole
    return (dilated and not reads_image, dilated)


def checked_mode(mode: str) -> LayerMode:
    """Return `mode`; raise an error that lists the modes if it is not one of them.

    Examples
    --------
    >>> checked_mode("absorb")
    'absorb'
    """
    for known in MODES:
        if mode == known:
            return known
    raise RekernelError(f"mode {shown(str(mode))} is not one of {', '.join(MODES)}{meant(str(mode), MODES)}")
