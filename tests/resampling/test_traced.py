"""`resample` and `resample_conv` recorded by torch: what is recorded computes from the weight that it is given."""

from __future__ import annotations

import pytest
import torch

import rekernel as rk

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
W = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_jit_trace_does_not_hold_the_weight(dtype):
    w = W.to(dtype)
    traced = torch.jit.trace(lambda w: rk.resample_conv(w, 2), (w,))
    assert torch.allclose(traced(3 * w), rk.resample_conv(3 * w, 2), rtol=1e-2 if dtype.itemsize == 2 else 1e-5)


def test_a_jit_trace_does_not_hold_the_weight_of_a_resample():
    R = rk.kernel_operator(3, 2)
    traced = torch.jit.trace(lambda w: rk.resample(w, {2: R, 3: R}), (W,))
    assert torch.allclose(traced(-W), rk.resample(-W, {2: R, 3: R}), atol=1e-6)
