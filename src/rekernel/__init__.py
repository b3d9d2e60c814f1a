"""rekernel: rescale the weights of trained networks to resolutions they were not trained for, without training."""

import typing

from .conversion.report import Report
from .errors import CheckpointError, RekernelError, RekernelWarning
from .inspection import Info, inspect
from .messages import missing_name
from .offline import Estimate, convert, estimate, plan_source
from .plan.changes import AxisGeometry, AxisOperator, LayerChange
from .plan.plan import Plan
from .plan.recipe import Recipe
from .planning.by_name import plan_checkpoint
from .planning.settings import Hints
from .resampling.arrays import resample, resample_conv, resample_linear
from .resampling.geometry import ConvGeometry, conv_geometry, conv_transpose_geometry, pool_geometry
from .resampling.hidden import neuron_order, resample_hidden
from .resampling.operators import grid_operator, kernel_operator, kernel_taps
from .version import __version__

__all__ = [
    "AxisGeometry",
    "AxisOperator",
    "CheckpointError",
    "ConvGeometry",
    "Estimate",
    "Hints",
    "Info",
    "LayerChange",
    "Plan",
    "Recipe",
    "RekernelError",
    "RekernelWarning",
    "Report",
    "__version__",
    "conv_geometry",
    "conv_transpose_geometry",
    "convert",
    "estimate",
    "grid_operator",
    "inspect",
    "kernel_operator",
    "kernel_taps",
    "neuron_order",
    "plan_checkpoint",
    "plan_source",
    "pool_geometry",
    "resample",
    "resample_conv",
    "resample_hidden",
    "resample_linear",
]


if not typing.TYPE_CHECKING:  # a type checker shall go on finding names that do not exist

    def __getattr__(name: str) -> typing.Any:
        """Say what a misspelt name may mean."""
        raise missing_name.missing_name(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
