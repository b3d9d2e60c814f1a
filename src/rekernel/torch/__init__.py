"""rekernel for PyTorch: rescale any module by tracing, save it, load it, measure it."""

from .apply import apply_plan
from .rescale import rescale
from .store import load, save
from .verify import equivariance_error, reduce_grid

__all__ = ["apply_plan", "equivariance_error", "load", "reduce_grid", "rescale", "save"]
