"""Which format a source has."""

from __future__ import annotations

from ..checkpoint.discover import onnx_of
from ..sources.place import Place
from ..sources.store_place import StorePlace
from .checkpoints import CheckpointFiles
from .model_files import ModelFiles
from .onnx_models import OnnxFiles


def model_files(place: Place) -> ModelFiles:
    """The files at an open place. This is the one decision between checkpoints and ONNX models.

    Examples
    --------
    >>> from pathlib import Path
    >>> type(model_files(Place(Path("unet.safetensors")))).__name__, type(model_files(Place(Path("net.onnx")))).__name__
    ('CheckpointFiles', 'OnnxFiles')
    """
    if isinstance(place, StorePlace):  # refuses ONNX models itself, without looking into stand-ins of their data
        return CheckpointFiles(place)
    model = onnx_of(place.path)
    return CheckpointFiles(place) if model is None else OnnxFiles(place, model)
