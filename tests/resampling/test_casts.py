"""Reading and writing 16-bit floats, on the memory of NumPy and of torch: the same bits everywhere."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
import torch

import rekernel as rk
from rekernel.resampling import products
from rekernel.resampling.casts import narrowed

RNG = np.random.default_rng(20)
HALF_ULP = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}  # at 1


def numbers(x) -> np.ndarray:
    return x.detach().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=np.float64)


def test_float16_is_rounded_alike_with_and_without_torch(monkeypatch):
    """Through torch's hardware or NumPy: the same bits, subnormals, signed zeros aside, infinities and NaN included."""
    rng = np.random.default_rng(5)
    block = (rng.normal(size=300_000) * 10.0 ** rng.uniform(-9, 6, 300_000)).astype(np.float32)
    block[:6] = [0.0, 2.0**-14, -(2.0**-14), np.nan, np.inf, -np.inf]
    expected = torch.from_numpy(block).to(torch.float16).numpy()
    assert np.isin(np.abs(expected[6:]), [0, np.inf], invert=True).mean() > 0.5
    for modules in (sys.modules, {name: m for name, m in sys.modules.items() if name != "torch"}):
        monkeypatch.setattr(sys, "modules", modules)
        out = np.empty(block.shape, np.float16)
        with np.errstate(over="ignore"):
            narrowed(block.copy(), out)
        assert np.array_equal(out, expected, equal_nan=True)


def test_bfloat16_is_rounded_as_torch_rounds_it():
    rng = np.random.default_rng(6)
    block = (rng.normal(size=100_000) * 10.0 ** rng.uniform(-42, 38, 100_000)).astype(np.float32)
    block[:4] = [0.0, -0.0, np.inf, -np.inf]
    out = np.empty(block.shape, ml_dtypes.bfloat16)
    narrowed(block.copy(), out)
    assert np.array_equal(out.view(np.int16), torch.from_numpy(block).to(torch.bfloat16).view(torch.int16).numpy())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_memory_that_torch_cannot_share_is_read_all_the_same(dtype):
    """Read-only, strided and backwards."""
    w = RNG.normal(size=(60_000, 3)).astype(dtype)
    R = {1: rk.kernel_operator(3, 2.0)}
    expected = rk.resample(w.astype(np.float32), R)
    locked = w.copy()
    locked.setflags(write=False)
    for view in (w, locked, np.repeat(w, 2, axis=0)[::2]):
        np.testing.assert_allclose(numbers(rk.resample(view, R)), expected, rtol=HALF_ULP["bfloat16"], atol=1e-5)
    assert (rk.resample(w[::-1], R) == rk.resample(w, R)[::-1]).all()


def test_a_bfloat16_tensor_is_the_same_by_torch_and_on_its_memory():
    """With a gradient torch computes; a view, a parameter under no_grad and a plain tensor share memory with NumPy."""
    w = torch.nn.Parameter(torch.tensor(RNG.normal(size=(64, 32, 3, 3))).bfloat16())
    wanted = rk.resample_conv(w, 2, "cubic")
    assert wanted.requires_grad
    before = w.detach().clone()
    with torch.no_grad():
        found = [rk.resample_conv(w, 2, "cubic"), rk.resample_conv(w.detach(), 2, "cubic")]
        found.append(rk.resample_conv(w.detach().permute(1, 0, 2, 3), 2, "cubic").permute(1, 0, 2, 3))
    for out in found:
        assert out.dtype == torch.bfloat16 and not out.requires_grad and type(out) is torch.Tensor
        np.testing.assert_allclose(numbers(out), numbers(wanted), rtol=2.1 * HALF_ULP["bfloat16"], atol=1e-6)
    assert torch.equal(w.detach(), before)


@pytest.mark.parametrize("dtype", list(HALF_ULP))
@pytest.mark.parametrize("after", [1, 5])
def test_torch_computes_on_a_device_what_numpy_computes(monkeypatch, after, dtype):
    """In blocks, right into the result in float32: what a GPU runs, on a CPU."""
    monkeypatch.setattr(products, "_TORCH_BLOCK", 1000)
    w = torch.tensor(RNG.normal(size=(70, 3, 3, after))).to(getattr(torch, dtype))
    R = rk.kernel_operator(3, 2.0)
    steps = [(0, 2, (len(R), len(R)), np.kron(R, R))]
    wide = "float64" if dtype == "float64" else "float32"
    out = products.run_on_device(w, steps, (70, len(R), len(R), after), dtype, wide)
    assert out.dtype == w.dtype
    wanted = numbers(rk.resample(w, {1: R, 2: R}))
    np.testing.assert_allclose(numbers(out), wanted, rtol=2.1 * HALF_ULP[dtype], atol=1e-6)


def test_torch_computes_under_its_transformations():
    w = torch.tensor(RNG.normal(size=(6, 4, 3, 3))).float()
    one_by_one = torch.stack([rk.resample_conv(x, 2, "cubic") for x in w.unsqueeze(1)])
    together = torch.func.vmap(lambda x: rk.resample_conv(x, 2, "cubic"))(w.unsqueeze(1))
    np.testing.assert_allclose(numbers(together), numbers(one_by_one), atol=1e-6)
