"""Update the metadata that image tools read: the resolution in Stability's ModelSpec.

Scope: metadata keys and their spelling; all other keys stay the same. Not here: writing metadata (see
`checkpoint.writer`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..resampling.geometry import new_size

RESOLUTION = "modelspec.resolution"
HASH = "modelspec.hash_sha256"


def rescaled_metadata(metadata: Mapping[str, str], scale: tuple[float, ...] | float) -> dict[str, str]:
    """Return the metadata of a converted file: `modelspec.resolution`, WIDTHxHEIGHT, is multiplied by the scale.

    `modelspec.hash_sha256`, the digest of the old tensors, is left out: a tool that checks the digest would report a
    broken file. The recipe holds the digest of the source.

    Parameters
    ----------
    metadata : metadata of the source
    scale : number, or tuple of them
        The scale of the plan. The last two numbers of a tuple are for height and width.

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
