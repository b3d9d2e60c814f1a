"""Loading by name: a rescaled model of the Hub, or of a folder, into the architecture it belongs to.

Knows `remote` and `store`; how bytes come is the Hub client's.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from ...checkpoint.paths import StrPath
from ...errors import RekernelError
from ...escape import shown
from ...sources.address import Address, address_of
from ...sources.opening import local_path
from .save_load import load


def load_pretrained(
    name: StrPath,
    *,
    model: nn.Module,
    revision: str | None = None,
    subfolder: str = "",
    filename: str = "",
) -> nn.Module:
    """Bring a model of the trained size to a rescaled checkpoint that is known by name, as `load` does.

    Parameters
    ----------
    name : str or path
        A repository of the Hub ('me/model-2x', or an `hf://` address), or a file or folder of the disk.
    model : nn.Module
        As it was built for the trained size; changed in place.
    revision : str, optional
        Of the repository: a branch, a tag or a commit; by default its main branch.
    subfolder : str
        Of the repository or folder, such as 'unet' of a pipeline.
    filename : str
        The checkpoint there, where there are several.

    Returns
    -------
    nn.Module
        The same model (another one only where it is a single layer itself).

    Raises
    ------
    HubError
        For a repository that is not there, not to be seen, or out of reach.
    RekernelError
        As for `load`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from rekernel.torch import rescale, save
    >>> small = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1))
    >>> folder = tempfile.mkdtemp()
    >>> save(rescale(small, 2, torch.zeros(1, 1, 8, 8)), folder + "/out.safetensors")
    >>> load_pretrained(folder, model=small)[0].kernel_size
    (5, 5)
    """
    inside = "/".join(part.strip("/") for part in (subfolder, filename) if part)
    address = address_of(name)
    if address is None:
        if revision is not None:
            where = shown(os.fspath(name), 400)
            raise RekernelError(f"{where}: a folder of the disk has no revision {shown(revision)}; leave it out.")
        return load(model, Path(name, inside))
    if revision is not None and address.revision not in ("", revision):
        raise RekernelError(f"{address}: names another revision than revision={shown(revision)}; give it once.")
    place = "/".join(part for part in (address.path, inside) if part)
    whole = address_of(str(Address(address.repo, revision or address.revision, place)))
    return load(model, local_path(str(whole)))
