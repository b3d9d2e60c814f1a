"""rekernel for PyTorch: rescale any module by tracing, save it, load it, measure it."""

from .apply import apply_plan
from .compare import LayerError, layer_errors
from .pretrained import load_pretrained
from .rescale import rescale
from .store import load, save
from .verify import equivariance_error, reduce_grid

__all__ = [
    "LayerError",
    "apply_plan",
    "equivariance_error",
    "layer_errors",
    "load",
    "load_pretrained",
    "reduce_grid",
    "rescale",
    "save",
]
