"""The table of dtypes: its names are those of each library, and what it calls computable is what is computed."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load, save

import rekernel as rk
from rekernel.checkpoint.dtypes import TABLE, DType, numpy_dtype
from rekernel.checkpoint.header import tensor_nbytes

PACKED = {"F4", "F6_E2M3", "F6_E3M2"}  # several values in a byte, where NumPy and torch take a byte each
IN_NUMPY = [dtype for dtype in TABLE if dtype.name not in PACKED]

each_in_numpy = pytest.mark.parametrize("dtype", IN_NUMPY, ids=lambda dtype: dtype.name)


def test_the_packed_dtypes_alone_are_missing_in_numpy_and_torch() -> None:
    assert {dtype.name for dtype in TABLE if not dtype.numpy} == PACKED
    assert {dtype.name for dtype in TABLE if not dtype.torch} == PACKED
    for name in PACKED:
        with pytest.raises(rk.RekernelError, match=f"dtype {name} has no NumPy counterpart"):
            numpy_dtype(name)


@each_in_numpy
def test_a_safetensors_dtype_goes_to_numpy_and_back(dtype: DType) -> None:
    own = numpy_dtype(dtype.name)
    assert [other.name for other in IN_NUMPY if numpy_dtype(other.name) == own] == [dtype.name]
    assert own.itemsize * 8 == dtype.bits
    assert own.name == dtype.numpy
    assert dtype.taught == hasattr(ml_dtypes, dtype.numpy)


@each_in_numpy
def test_safetensors_writes_the_numpy_dtype_under_this_name(dtype: DType) -> None:
    if dtype.taught:
        pytest.skip("safetensors.numpy does not know the dtypes of ml_dtypes; test_dtypes of torch asks for them")
    raw = save({"w": np.zeros(2, numpy_dtype(dtype.name))})
    assert f'"dtype":"{dtype.name}"'.encode() in raw
    assert load(raw)["w"].nbytes == tensor_nbytes(dtype.name, (2,), "w")


@each_in_numpy
def test_what_the_table_calls_computable_is_what_is_resampled(dtype: DType) -> None:
    ones = np.ones((1, 1, 3), numpy_dtype(dtype.name))

    def accepted(**options: Any) -> bool:
        try:
            return bool(rk.resample_conv(ones, 2, "linear", **options).dtype == ones.dtype)
        except rk.RekernelError:
            return False

    assert accepted() == (dtype.computed == "float")
    if dtype.computed:
        assert accepted(allow_cast=True)


def test_every_data_type_of_onnx_has_the_safetensors_name() -> None:
    onnx = pytest.importorskip("onnx")
    from rekernel.onnx.graph import dtype_name

    kinds = dict(onnx.TensorProto.DataType.items())
    known = {dtype.onnx: dtype for dtype in TABLE if dtype.onnx in kinds}
    assert len(known) >= 18  # an old onnx lacks the youngest four
    for own, dtype in known.items():
        assert dtype_name(kinds[own]) == dtype.name
        if not dtype.taught and dtype.numpy:
            assert onnx.helper.tensor_dtype_to_np_dtype(kinds[own]) == numpy_dtype(dtype.name)
    others = {"UNDEFINED", "STRING", "COMPLEX128", "INT4", "UINT4", "INT2", "UINT2"}
    assert set(kinds) - set(known) <= others
