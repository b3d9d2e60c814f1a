"""Load a rescaled model from the Hub, or from a folder, into a model of its architecture.

Scope: addresses of files. Not here: downloading (see `sources.opening`), and loading a file (see
`torch.files.save_load`).
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from ...checkpoint.paths import StrPath
from ...errors import RekernelError
from ...escape import shown
from ...messages.arguments import check_path
from ...sources.address import Address, address_of
from ...sources.opening import local_path
from ..checked_arguments import check_module
from .save_load import load, without_pickles


def load_pretrained(
    name: StrPath,
    *,
    model: nn.Module,
    revision: str | None = None,
    subfolder: str = "",
    filename: str = "",
    prefix: str = "",
) -> nn.Module:
    """Load a rescaled checkpoint of the Hub, or of a folder, into a model of the trained size, as `load` does.

    Parameters
    ----------
    name : str or path
        A repository on the Hub ('me/model-2x', or an `hf://` address), or a local file or folder.
    model : nn.Module
        The model, built for the trained size; it is changed in place.
    revision : str, optional
        A branch, tag or commit of the repository; by default its main branch.
    subfolder : str
        A folder inside the repository or folder, such as 'unet' in a pipeline.
    filename : str
        The name of the checkpoint, if there are several.
    prefix : str
        As for `load`.

    Returns
    -------
    nn.Module
        The same model; a new one only if `model` is a single layer.

    Raises
    ------
    HubError
        If the repository does not exist, is not accessible, or cannot be reached.
    RekernelError
        As for `load`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from rekernel.torch import rescale, save
    >>> small = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(32, 5))
    >>> folder = tempfile.mkdtemp()
    >>> save(rescale(small, 2, torch.zeros(1, 1, 8, 8)), folder + "/out.safetensors")
    >>> load_pretrained(folder, model=small)[0]
    Conv2d(1, 2, kernel_size=(6, 6), stride=(4, 4), padding=(2, 2))
    """
    check_path(name, "name")
    check_module(model)
    inside = "/".join(part.strip("/") for part in (subfolder, filename) if part)
    address = address_of(name)
    if address is None:
        if revision is not None:
            where = shown(os.fspath(name), 400)
            raise RekernelError(f"{where}: a local folder has no revision {shown(revision)}; leave it out.")
        return load(model, Path(name, inside), prefix=prefix)
    if revision is not None and address.revision not in ("", revision):
        raise RekernelError(f"{address}: has another revision than revision={shown(revision)}; give only one of them.")
    place = "/".join(part for part in (address.path, inside) if part)
    whole = address_of(str(Address(address.repo, revision or address.revision, place)))
    with without_pickles(str(whole)):
        path = local_path(str(whole))
    return load(model, path, prefix=prefix)
