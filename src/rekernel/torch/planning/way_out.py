"""Tell the caller what works where a layer cannot be rescaled.

Scope: the end of a message. Not here: why a layer cannot be rescaled (see `planning.rules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import Option, RekernelError
from ...planning.roles import SUPERSAMPLE, Network
from .reading import Reading

_ABSORB = Option("mode='absorb'", "--mode absorb")


def way_out(reading: Reading, network: Network, *, latent: bool = False) -> tuple[str | Option, ...]:
    """The option with which nothing grows behind the layers that read the image; empty where it does not help.

    It does not help a noise predictor, which needs its whole grid, and a model that reads no image.

    Examples
    --------
    >>> "".join(map(str, way_out(Reading(SUPERSAMPLE), Network())))
    "; mode='absorb' works: nothing grows behind the layers that read the image, and these layers stay as trained"
    """
    if reading.mode != SUPERSAMPLE or network.predicts_noise or latent:
        return ()
    size = ", and the output keeps its trained size" if network.gives_image else ", and these layers stay as trained"
    return "; ", _ABSORB, f" works: nothing grows behind the layers that read the image{size}"


@contextmanager
def with_way_out(parts: tuple[str | Option, ...]) -> Iterator[None]:
    """Put the way out behind an error that the block raises, unless the error names that option itself."""
    try:
        yield
    except RekernelError as error:
        said = str(error)
        more = () if _ABSORB.python in said else (" ", *parts[1:]) if said.endswith(".") else parts
        raise RekernelError(*error.args, *more) from None
