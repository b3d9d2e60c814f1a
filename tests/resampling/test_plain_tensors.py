"""Tensors of torch that are not dense blocks of numbers are refused, and what the message says to do works."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch._subclasses import FakeTensorMode
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from torch.masked import masked_tensor

import rekernel as rk

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, of prototypes
W = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(3))
MATRIX = W.reshape(6, 36)
KINDS = {
    "sparse": (torch.Tensor.to_sparse, "layout torch.sparse_coo", r"w\.to_dense\(\)", torch.Tensor.to_dense),
    "oneDNN": (torch.Tensor.to_mkldnn, "layout torch._mkldnn", r"w\.to_dense\(\)", torch.Tensor.to_dense),
    "masked": (
        lambda w: masked_tensor(w, torch.ones_like(w, dtype=torch.bool)), "masked", r"w\.to_tensor\(0\)",
        lambda w: w.to_tensor(0),
    ),
    "nested": (
        lambda w: torch.nested.nested_tensor([w]), "nested", r"w\.unbind\(\)", lambda w: w.unbind()[0],
    ),
    "ragged": (
        lambda w: torch.nested.nested_tensor([w], layout=torch.jagged), "nested", r"w\.unbind\(\)",
        lambda w: w.unbind()[0],
    ),
    "DTensor": (
        lambda w: distribute_tensor(w, init_device_mesh("cpu", (1,)), [Shard(0)]), "a DTensor", r"w\.full_tensor\(\)",
        lambda w: w.full_tensor(),
    ),
}  # fmt: skip


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_named_and_the_advice_works(kind, one_process):
    make, what, advice, plain = KINDS[kind]
    calls = (
        (W, lambda w: rk.resample_conv(w, 2)),
        (W, lambda w: rk.resample(w, {2: rk.kernel_operator(3, 2)})),
        (MATRIX, lambda w: rk.resample_linear(w, (4, 3, 3), (4, 5, 5))),
    )
    for dense, call in calls:
        w = make(dense)
        with pytest.raises(rk.RekernelError, match=f"^w is .*{what}.*; .*{advice}") as caught:
            call(w)
        assert "\n" not in str(caught.value)
        assert torch.allclose(call(plain(w)), call(dense), atol=1e-4)


def test_quantised_weights_are_refused_though_a_cast_is_allowed():
    w = torch.quantize_per_tensor(W, 0.1, 0, torch.qint8)
    with pytest.raises(rk.RekernelError, match=r"^w is a quantised tensor of torch.qint8; pass w\.dequantize\(\)$"):
        rk.resample_conv(w, 2, allow_cast=True)
    assert rk.resample_conv(w.dequantize(), 2).shape == (6, 4, 5, 5)


def test_a_fake_tensor_needs_its_mode():
    w = FakeTensorMode().from_tensor(W)
    with pytest.raises(rk.RekernelError, match=r"^w is a fake tensor outside of its mode; call within it"):
        rk.resample_conv(w, 2)
    with w.fake_mode:
        assert rk.resample_conv(w, 2).shape == (6, 4, 5, 5)


def test_a_subclass_of_dense_tensors_stays_one():
    class Own(torch.Tensor):
        pass

    assert type(rk.resample_conv(W.as_subclass(Own), 2)) is Own
