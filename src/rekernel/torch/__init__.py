"""rekernel for PyTorch: rescale any module by tracing, save it, load it, measure it."""

from typing import TYPE_CHECKING, Any

from ..messages.missing_name import missing_name
from .editing.apply import apply_plan
from .files.pretrained import load_pretrained
from .files.save_load import load, save
from .measure.compare import LayerError, layer_errors
from .measure.difference import Difference
from .measure.equivariance import equivariance_error, reduce_grid
from .measure.scores import Scores
from .measure.shift import Shift, ShiftSensitivity, shift_sensitivity, total_stride
from .measure.verdict import Verdict
from .measure.verification import Verification, verify
from .recalibration import Recalibration, recalibrate
from .rescaling import rescale

__all__ = [
    "Difference",
    "LayerError",
    "Recalibration",
    "Scores",
    "Shift",
    "ShiftSensitivity",
    "Verdict",
    "Verification",
    "apply_plan",
    "equivariance_error",
    "layer_errors",
    "load",
    "load_pretrained",
    "recalibrate",
    "reduce_grid",
    "rescale",
    "save",
    "shift_sensitivity",
    "total_stride",
    "verify",
]


if not TYPE_CHECKING:  # a type checker shall go on finding names that do not exist

    def __getattr__(name: str) -> Any:
        """Say what a misspelt name may mean."""
        raise missing_name(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
