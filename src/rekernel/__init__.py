"""rekernel: rescale the weights of trained networks to resolutions they were not trained for, without training."""

from .errors import RekernelError
from .geometry import ConvGeometry, conv_geometry, conv_transpose_geometry, pool_geometry
from .hidden import neuron_order, resample_hidden
from .operators import grid_operator, kernel_operator, kernel_taps
from .resample import resample, resample_conv, resample_linear

__version__ = "0.1.0"

__all__ = [
    "ConvGeometry",
    "RekernelError",
    "conv_geometry",
    "conv_transpose_geometry",
    "grid_operator",
    "kernel_operator",
    "kernel_taps",
    "neuron_order",
    "pool_geometry",
    "resample",
    "resample_conv",
    "resample_hidden",
    "resample_linear",
]
