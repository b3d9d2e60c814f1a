"""ONNX models: planned, rescaled and written as ONNX models."""

from .convert import convert_onnx, output_bytes, plan_onnx

__all__ = ["convert_onnx", "output_bytes", "plan_onnx"]
