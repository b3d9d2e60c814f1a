"""List, plan and rescale ONNX models."""

from typing import TYPE_CHECKING, Any

from ..errors import RekernelError
from ..messages.missing_name import missing_name

try:
    import onnx  # noqa: F401 - every module of this package needs it, so the package says how to get it
    from google.protobuf.message import Message  # noqa: F401 - a package of its own, which onnx brings along
except ImportError:
    raise RekernelError("an ONNX model needs the onnx package: pip install onnx") from None

from .listing import Listing, Value, list_model
from .run import FAMILY, convert_onnx, output_bytes, plan_onnx

__all__ = ["FAMILY", "Listing", "Value", "convert_onnx", "list_model", "output_bytes", "plan_onnx"]


if not TYPE_CHECKING:  # a type checker shall go on finding names that do not exist

    def __getattr__(name: str) -> Any:
        """Say what a misspelt name may mean."""
        raise missing_name(__name__, name)


def __dir__() -> list[str]:
    return sorted(__all__)
