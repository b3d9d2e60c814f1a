"""List, plan and rescale ONNX models."""

from .listing import Listing, Value, list_model
from .run import FAMILY, convert_onnx, output_bytes, plan_onnx

__all__ = ["FAMILY", "Listing", "Value", "convert_onnx", "list_model", "output_bytes", "plan_onnx"]


def __dir__() -> list[str]:
    return sorted(__all__)
