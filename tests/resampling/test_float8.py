"""float8 with `allow_cast`: every finite weight stays finite or is refused, by the same rule in every framework."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import rekernel as rk
from rekernel.checkpoint.dtypes import cast
from rekernel.rounding.float8 import most_in

EVERY = [name for name in dir(ml_dtypes) if name.startswith("float8") and name != "float8_e8m0fnu"]
OF_TORCH = [name for name in EVERY if hasattr(torch, name)]
OF_FILES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


def scaled(to: float) -> np.ndarray:
    """A matrix whose product with ones is `to`."""
    return np.full((2, 4), to / 4)


@pytest.mark.parametrize("name", EVERY)
def test_the_limit_is_where_rounding_leaves_the_finite_numbers(name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    largest, most = most_in(name)
    below, above = np.float32(most), np.nextafter(np.float32(most), np.float32(np.inf))
    with np.errstate(over="ignore"):
        assert float(below.astype(dtype)) == largest and not np.isfinite(float(above.astype(dtype)))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", EVERY)
def test_numpy_refuses_what_becomes_nan_and_keeps_what_rounds_to_the_largest(name, sign):
    dtype = np.dtype(getattr(ml_dtypes, name))
    w = np.ones((3, 4), dtype)
    largest, most = most_in(name)
    out = rk.resample(w, {1: scaled(sign * most)}, allow_cast=True)
    assert out.dtype == dtype and (out.astype(np.float32) == sign * largest).all()
    with pytest.raises(rk.RekernelError, match=f"^value -?[0-9.e+]+ is too large for {name}, whose maximum is"):
        rk.resample(w, {1: scaled(sign * most * 1.01)}, allow_cast=True)


@pytest.mark.parametrize("name", OF_TORCH)
def test_torch_refuses_what_it_would_clip_or_make_nan(name):
    w = torch.ones(3, 4).to(getattr(torch, name))
    largest, most = most_in(name)
    assert (rk.resample(w, {1: scaled(most)}, allow_cast=True).float() == largest).all()
    with pytest.raises(rk.RekernelError, match=f"is too large for {name}, whose maximum is"):
        rk.resample(w, {1: scaled(most * 1.01)}, allow_cast=True)


def test_jax_refuses_it_and_its_compiler_still_compiles():
    w = jnp.ones((3, 4), jnp.float8_e5m2)
    with pytest.raises(rk.RekernelError, match="is too large for float8_e5m2, whose maximum is 57344"):
        rk.resample(w, {1: scaled(1e5)}, allow_cast=True)
    assert (jax.jit(lambda t: rk.resample(t, {1: scaled(2)}, allow_cast=True))(w).astype(jnp.float32) == 2).all()


def test_values_without_numbers_pass_as_they_are():
    for w in (np.array([[np.inf, 1], [np.nan, 1]], ml_dtypes.float8_e5m2), torch.tensor([[np.inf, 1], [np.nan, 1]])):
        w = w.to(torch.float8_e5m2) if isinstance(w, torch.Tensor) else w
        out = rk.resample(w, {1: np.ones((1, 2))}, allow_cast=True)
        out = out.float().numpy() if isinstance(out, torch.Tensor) else out.astype(np.float32)
        assert out[0, 0] == np.inf and np.isnan(out[1, 0])
    assert rk.resample(torch.ones(3, 4, device="meta").to(torch.float8_e5m2), {1: scaled(1)}, allow_cast=True).is_meta


def test_the_float8_of_scales_is_refused():
    for w in (np.ones((3, 4), ml_dtypes.float8_e8m0fnu), torch.ones(3, 4).to(torch.float8_e8m0fnu)):
        with pytest.raises(rk.RekernelError, match=r"float8_e8m0fnu \(shape \(3, 4\)\) is not resampled"):
            rk.resample(w, {1: scaled(1)}, allow_cast=True)


@pytest.mark.parametrize("stored", OF_FILES)
def test_a_cast_back_to_float8_refuses_it(stored):
    largest, most = most_in(OF_FILES[stored])
    assert float(cast(np.array([most]), stored)[0]) == largest
    with pytest.raises(rk.RekernelError, match=f"is too large for {OF_FILES[stored]}"):
        cast(np.array([-most * 1.01]), stored)
