"""Torch's dtypes under safetensors' names."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

import rekernel as rk  # noqa: E402
from rekernel.checkpoint.dtypes import DTYPE_BITS  # noqa: E402
from rekernel.torch.dtypes import TORCH_DTYPES, dtype_name  # noqa: E402

PACKED = {"F4", "F6_E2M3", "F6_E3M2"}  # several values in a byte: torch has no such dtype, or counts other elements


@pytest.mark.parametrize("name", sorted(set(DTYPE_BITS) - PACKED))
def test_a_safetensors_dtype_goes_to_torch_and_back(name: str) -> None:
    if name == "F8_E8M0" and not hasattr(torch, "float8_e8m0fnu"):
        pytest.skip("torch 2.7 brings it")
    dtype = TORCH_DTYPES[name]
    assert dtype_name(dtype) == name
    assert dtype.itemsize * 8 == DTYPE_BITS[name]


def test_names_are_those_that_safetensors_writes(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(2, dtype=dtype) for name, dtype in TORCH_DTYPES.items()}
    save_file(tensors, tmp_path / "all.safetensors")
    header = rk.plan_checkpoint(tmp_path / "all.safetensors", 2)
    assert {change.name: change.dtype for change in header.changes} == {name: name for name in tensors}
