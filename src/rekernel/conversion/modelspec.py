"""Update the metadata that image tools read: in Stability's ModelSpec a conversion changes the resolution.

Scope: metadata keys and their spelling. Everything else in the metadata stays as it is. Not here: tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..resampling.geometry import new_size

RESOLUTION = "modelspec.resolution"
HASH = "modelspec.hash_sha256"


def rescaled_metadata(metadata: Mapping[str, str], scale: tuple[float, ...] | float) -> dict[str, str]:
    """The metadata of a converted file: `modelspec.resolution`, WIDTHxHEIGHT, times the scale.

    `modelspec.hash_sha256`, the digest of the tensors that were, is left out: tools that check it would call the
    file broken. The recipe holds the source's digest.

    Parameters
    ----------
    metadata : of the source
    scale : number, or tuple of them
        As a plan has it. The last two of a tuple are height and width.

    Returns
    -------
    dict

    Examples
    --------
    >>> rescaled_metadata({"modelspec.resolution": "1024x768", "modelspec.title": "me"}, (1.5, 2))
    {'modelspec.resolution': '2048x1152', 'modelspec.title': 'me'}
    """
    changed = {key: value for key, value in metadata.items() if key != HASH}
    scales = scale if isinstance(scale, tuple) else (scale, scale)
    found = re.fullmatch(r"\s*(\d{1,6})\s*([xX,])\s*(\d{1,6})\s*", metadata.get(RESOLUTION, ""))
    if found and len(scales) >= 2:
        height, width = scales[-2:]
        changed[RESOLUTION] = f"{new_size(int(found[1]), width)}{found[2]}{new_size(int(found[3]), height)}"
    return changed
