"""Where a layer stands in its network, and what it does with a scale where nobody says so.

Scope: roles and modes. Not here: how a role is found (each planner knows its own way), nor what the layer becomes (see
`rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..errors import RekernelError
from ..escape import shown
from ..plan.changes import Mode

SUPERSAMPLE: Final = "supersample"
ABSORB: Final = "absorb"
MODES: tuple[Mode, ...] = (SUPERSAMPLE, ABSORB)


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
    """The role of a convolution, from what a planner found out about it.

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
    """What decides about all layers of a network.

    attends : whether tokens attend to each other
    gives_image : whether its output has as many pixels as its input
    """

    attends: bool = False
    gives_image: bool = False


def default_mode(role: Role, network: Network) -> Mode:
    """What a convolution does with a scale where nobody asked for a mode.

    A network with attention that gives no image back absorbs the scale where it reads the image: it keeps its number of
    tokens, and the layers behind stay exact. Every other convolution supersamples.

    Examples
    --------
    >>> default_mode(Role.READS_IMAGE, Network(attends=True)), default_mode(Role.INNER, Network(attends=True))
    ('absorb', 'supersample')
    """
    absorbs = role is Role.READS_IMAGE and network.attends and not network.gives_image
    return ABSORB if absorbs else SUPERSAMPLE


def checked_mode(mode: str) -> Mode:
    """The mode, or an error that lists the modes.

    Examples
    --------
    >>> checked_mode("absorb")
    'absorb'
    """
    for known in MODES:
        if mode == known:
            return known
    raise RekernelError(f"mode {shown(str(mode))} is not one of {', '.join(MODES)}")
