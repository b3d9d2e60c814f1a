"""Add the recipe to the metadata of safetensors files that another library wrote.

The header is in front of the data, so the file is written again, through the kernel where it can copy.
Scope: metadata. Not here: which files (see `torch.files.saved_folder`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...checkpoint.open_local import open_checkpoint
from ...checkpoint.tensor_source import Checkpoint
from ...checkpoint.writer import StreamingWriter
from ...plan.recipe import KEY, Recipe

_PIECE = 1 << 24


def add_recipe(path: Path, recipe: Recipe) -> None:
    """Write a safetensors file again with the recipe in its metadata; all else stays, and it is replaced at the end.

    Examples
    --------
    >>> import tempfile, torch
    >>> from safetensors.torch import load_file, save_file
    >>> from rekernel.plan.plan import Plan
    >>> path = Path(tempfile.mkdtemp(), "model.safetensors")
    >>> save_file({"w": torch.ones(2)}, path, metadata={"format": "pt"})
    >>> add_recipe(path, Recipe(Plan(()), ()))
    >>> load_file(path)["w"].tolist(), sorted(open_checkpoint(path).metadata)
    ([1.0, 1.0], ['format', 'rekernel'])
    """
    with open_checkpoint(path) as source:
        assert isinstance(source, Checkpoint)
        tensors = [(info.name, info.dtype, info.shape) for info in source.tensors.values()]
        metadata = {**(source.metadata or {"format": "pt"}), KEY: recipe.to_json()}
        with StreamingWriter(path, tensors, metadata, force=True) as writer:
            for info in source.tensors.values():
                done = writer.send_into(info.name, 0, _sender(source, info.name, info.nbytes))
                while done < info.nbytes:
                    piece = source.read_range(info.name, done, min(done + _PIECE, info.nbytes))
                    writer.write_at(info.name, done, piece)
                    done += len(piece)


def _sender(source: Checkpoint, name: str, nbytes: int) -> Callable[[int, int], int]:
    return lambda target, position: source.send_range(name, 0, nbytes, target, position)
