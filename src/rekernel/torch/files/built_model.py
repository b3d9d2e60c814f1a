"""Build the model that a configuration names, at its trained size: for loading rescaled weights into it.

Scope: classes of transformers and diffusers, without weights. Not here: which weights (see `torch.files.pretrained`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...errors import RekernelError
from ...escape import shown
from ...plan.config_entry import at_trained_size, class_name

_BASES = {"diffusers": "ModelMixin", "transformers": "PreTrainedModel"}


def built(config: Mapping[str, Any], where: str, kind: Any = None) -> nn.Module:
    """A model with random weights, of the class that a `config.json` names, at the size that it was trained for.

    Parameters
    ----------
    config : the content of the file
    where : its path, for messages
    kind : the class, where another file names it

    Raises
    ------
    RekernelError
        If the config names no class of transformers or diffusers, or if the class cannot be built from it.

    Examples
    --------
    >>> config = {"_class_name": "UNet2DModel", "block_out_channels": [32, 32], "down_block_types": ["DownBlock2D"] * 2,
    ...           "up_block_types": ["UpBlock2D"] * 2, "layers_per_block": 1}
    >>> type(built(config, "config.json")).__name__
    'UNet2DModel'
    """
    kind = kind or _class(config, where)
    trained = at_trained_size(config)
    try:
        of_diffusers = hasattr(kind, "from_config")
        made: nn.Module = kind.from_config(trained) if of_diffusers else kind(kind.config_class.from_dict(trained))
    except Exception as error:  # another library's code, which gets what a file says
        raise RekernelError(
            f"{where}: cannot build a {kind.__name__} from this config ({shown(str(error), 200)}); pass model=, built "
            f"for the trained size"
        ) from error
    return made


def _class(config: Mapping[str, Any], where: str) -> Any:
    name, library = class_name(config), "diffusers" if "_class_name" in config else "transformers"
    if not name:
        raise RekernelError(
            f"{where}: names no class of transformers or diffusers; pass model=, built for the trained size"
        )
    try:
        module = importlib.import_module(library)
    except ImportError:
        raise RekernelError(
            f"{where}: is for a {name} of {library}, which is not installed; install {library}"
        ) from None
    kind = getattr(module, name, None)
    if not isinstance(kind, type) or not issubclass(kind, getattr(module, _BASES[library])):
        raise RekernelError(f"{where}: {library} has no model {name}; pass model=, built for the trained size")
    return kind
