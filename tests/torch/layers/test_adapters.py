"""Adapters around convolutions: those that add a kernel are rescaled, those that compute one are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402

X = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, x: Any) -> Any:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


def adapted(kind: str) -> Any:
    torch.manual_seed(0)
    configs = {
        "lora": lambda: peft.LoraConfig(target_modules=["a", "b"], r=4, init_lora_weights=False),
        "dora": lambda: peft.LoraConfig(target_modules=["a", "b"], r=4, init_lora_weights=False, use_dora=True),
        "dora-inside": lambda: peft.LoraConfig(target_modules=["b"], r=4, init_lora_weights=False, use_dora=True),
        "loha": lambda: peft.LoHaConfig(target_modules=["a", "b"], r=4, init_weights=False),
        "lokr": lambda: peft.LoKrConfig(target_modules=["a", "b"], r=4, init_weights=False),
    }
    return peft.get_peft_model(Net(), configs[kind]()).eval()


@pytest.mark.parametrize("method", ["auto", "dilate"])
@pytest.mark.parametrize("kind", ["dora", "dora-inside", "loha", "lokr"])
def test_an_adapter_that_computes_a_kernel_is_refused_with_the_way_out(kind: str, method: str) -> None:
    with pytest.raises(RekernelError, match=r"\.(a|b)\.(base_layer|lora_A\.default)\.weight: .*merge_and_unload"):
        rkt.rescale(adapted(kind), 2, X, method=method)
    merged = adapted(kind).merge_and_unload()
    x = F.interpolate(torch.randn(1, 3, 6, 6), size=(32, 32), mode="bicubic")
    assert rkt.equivariance_error(merged, rkt.rescale(merged, 2, X, method=method), x) < 0.3


@pytest.mark.parametrize("kind", ["lora", "dora", "dora-inside", "loha", "lokr"])
def test_where_the_image_is_read_nothing_is_lost(kind: str) -> None:
    model, x = adapted(kind), torch.randn(1, 3, 32, 32)
    larger = rkt.rescale(model, 2, X, mode="absorb")
    with torch.no_grad():
        assert torch.allclose(larger(x), model(F.avg_pool2d(x, 2)), atol=1e-5)


def test_a_low_rank_adapter_is_rescaled_like_the_merged_model() -> None:
    model = adapted("lora")
    x = F.interpolate(torch.randn(1, 3, 6, 6), size=(32, 32), mode="bicubic")
    larger = rkt.rescale(model, 2, X, method="dilate")
    with torch.no_grad():
        assert torch.allclose(larger(x), rkt.rescale(model.merge_and_unload(), 2, X, method="dilate")(x), atol=1e-4)


def test_an_adapter_that_is_merged_or_off_is_no_obstacle() -> None:
    model = adapted("dora")
    model.merge_adapter()
    assert rkt.rescale(model, 2, X)(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 32, 32)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert rkt.rescale(model, 2, X)(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 32, 32)


def test_an_adapter_by_other_hands_is_found_by_its_names() -> None:
    class Magnitudes(nn.Module):
        def __init__(self, conv: nn.Conv2d) -> None:
            super().__init__()
            self.base_layer = conv
            self.lora_A = nn.Conv2d(conv.in_channels, 2, 3, padding=1, bias=False)
            self.lora_B = nn.Conv2d(2, conv.out_channels, 1, bias=False)
            self.lora_magnitude_vector = nn.Parameter(torch.ones(1, conv.out_channels, 1, 1))

        def forward(self, x: Any) -> Any:
            low = torch.einsum("or,rihw->oihw", self.lora_B.weight[:, :, 0, 0], self.lora_A.weight)
            norm = (self.base_layer.weight + low).flatten(1).norm(dim=1)[None, :, None, None]
            return (self.base_layer(x) + self.lora_B(self.lora_A(x))) * self.lora_magnitude_vector / norm

    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Magnitudes(nn.Conv2d(4, 8, 3, padding=1, bias=False)))
    with pytest.raises(RekernelError, match="DoRA divides by the norm of its kernel"):
        rkt.rescale(net, 2, X)
