"""Name the role of a convolution in its network, and choose the mode of a layer by its role.

Scope: roles and modes. Not here: how a planner finds the role of a layer (see `planning.tensor`,
`rekernel.torch.planning` and `rekernel.onnx`), nor what the layer becomes (see `planning.rules`).
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
    """Facts about a whole network that decide the default mode of its layers.

    attends : whether tokens attend to each other
    gives_image : whether its output has as many pixels as its input
    """

    attends: bool = False
    gives_image: bool = False


def default_mode(role: Role, network: Network) -> Mode:
    """The mode of a convolution if the caller did not choose one.

    A network with attention whose output is not an image absorbs the scale in the convolution that reads the image: the
    number of tokens stays, so the layers behind that convolution stay exact. Every other convolution supersamples.

    Examples
    --------
    >>> default_mode(Role.READS_IMAGE, Network(attends=True)), default_mode(Role.INNER, Network(attends=True))
    ('absorb', 'supersample')
    """
    absorbs = role is Role.READS_IMAGE and network.attends and not network.gives_image
    return ABSORB if absorbs else SUPERSAMPLE


def checked_mode(mode: str) -> Mode:
    """Return `mode`; raise an error that lists the modes if it is not one of them.

    Examples
    --------
    >>> checked_mode("absorb")
    'absorb'
    """
    for known in MODES:
        if mode == known:
            return known
    raise RekernelError(f"mode {shown(str(mode))} is not one of {', '.join(MODES)}")
