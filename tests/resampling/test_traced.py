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
    near = 3e-2 if dtype.itemsize == 2 else 1e-4  # torch and NumPy add in another order
    assert torch.allclose(traced(3 * w), rk.resample_conv(3 * w, 2), rtol=near, atol=near)


def test_a_jit_trace_does_not_hold_the_weight_of_a_resample():
    R = rk.kernel_operator(3, 2)
    traced = torch.jit.trace(lambda w: rk.resample(w, {2: R, 3: R}), (W,))
    assert torch.allclose(traced(-W), rk.resample(-W, {2: R, 3: R}), atol=1e-4)


@pytest.fixture
def compiled():
    def compiled(function):
        torch._dynamo.reset()
        return torch.compile(function, backend="eager")

    yield compiled
    torch._dynamo.reset()


@pytest.mark.parametrize("scale", [2, 1.25])
def test_compiled_kernels_are_those_of_the_call(scale, compiled):
    run = compiled(lambda w: 2 * rk.resample_conv(w, scale))
    for w in (W, -W, W[:2], W.half(), W.double(), torch.ones(2, 2, 7, 7)):
        assert torch.equal(run(w), 2 * rk.resample_conv(w, scale))


def test_compiled_matrices_are_those_of_the_call(compiled):
    w = torch.randn(5, 2 * 4 * 4, generator=torch.Generator().manual_seed(2))
    run = compiled(lambda w: rk.resample_linear(w, (2, 4, 4), (2, 7, 7)))
    assert torch.equal(run(w), rk.resample_linear(w, (2, 4, 4), (2, 7, 7)))


def test_gradients_flow_through_a_compiled_call(compiled):
    grads = []
    for function in (
        compiled(lambda w: rk.resample_conv(w, 2).square().sum()),
        lambda w: rk.resample_conv(w, 2).square().sum(),
    ):
        w = W.clone().requires_grad_()
        function(w).backward()
        grads.append(w.grad)
    assert torch.equal(*grads) and grads[0].any()


def test_a_compiled_resample_is_that_of_the_call(compiled):
    R = rk.kernel_operator(3, 2)
    run = compiled(lambda w: rk.resample(w, {2: R, 3: R}))
    for w in (W, -W, W[:2]):
        assert torch.equal(run(w), rk.resample(w, {2: R, 3: R}))
