"""What the forward method of a subclass of a convolution does is found out by running a copy of the layer."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from rekernel.torch.layers.own_forward import computed_weight, examined, has_own_forward  # noqa: E402

from . import own_classes as own  # noqa: E402


@pytest.mark.parametrize(
    ("layer", "does", "pads"),
    [
        (own.Padded(3, 8, 3, 2), "convolves", ((0, 1), (0, 1))),
        (own.Same(3, 8, 3), "convolves", ((1, 1), (1, 1))),
        (own.Cropped(3, 8, 3, padding=2), "convolves", ((0, -2), (0, -2))),
        (own.Reflected(3, 8, 3), "convolves", ((1, 1), (1, 1))),
        (own.WithScale(3, 8, 3, padding=1), "convolves", ((0, 0), (0, 0))),
        (own.Standardised(3, 8, 3, padding=1), "computes", ((0, 0), (0, 0))),
        (own.Equalised(3, 8, 3, padding=1), "computes", ((0, 0), (0, 0))),
        (own.Masked(3, 8, 3, padding=1), "computes", ((0, 0), (0, 0))),
        (own.Normed(3, 8, 3, padding=1), "more", ((0, 0), (0, 0))),
        (own.Scaled(3, 8, 3, padding=1), "more", ((0, 0), (0, 0))),
        (own.Active(3, 8, 3, padding=1, padding_mode="circular"), "more", ((0, 0), (0, 0))),
        (own.Preactivated(3, 8, 3, padding=1), "more", ((0, 0), (0, 0))),
        (own.Twice(3, 8, 3, padding=1), "unclear", ()),
        (own.Stateful(3, 8, 3, padding=1), "unclear", ()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_each_kind_of_forward_method_is_told(layer: Any, does: str, pads: Any, device: str) -> None:
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert has_own_forward(layer)
    if device == "meta":
        layer = type(layer)(
            3, 8, 3, layer.stride, layer.padding, padding_mode=layer.padding_mode, device="meta"
        ).to("meta")  # fmt: skip
    found = examined(layer)
    assert (found.does, found.pads if does != "unclear" else ()) == (does, pads)
    if device == "cpu":
        assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_what_a_plain_convolution_would_lose_is_told() -> None:
    class Remembers(nn.Conv2d):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.register_buffer("steps", torch.zeros(1))

        def forward(self, x: Any) -> Any:
            return super().forward(x)

    assert examined(Remembers(3, 8, 3)).holds_more
    assert examined(own.WithScale(3, 8, 3)).takes_more
    assert examined(own.Standardised(3, 8, 3)).replaced  # its gain is part of the weight that it computes
    assert not examined(own.Normed(3, 8, 3)).replaced


def test_padding_that_depends_on_the_rest_of_the_size_is_that_of_this_size() -> None:
    wide = own.Same(256, 256, 3, 2)  # too much work for a probe of 511 pixels, so a smaller one stands for it
    assert examined(wide, (511, 511)).pads == ((1, 1), (1, 1))
    assert examined(wide, (512, 512)).pads == ((0, 1), (0, 1))


def test_zeros_in_the_weights_hide_nothing() -> None:
    layer = own.Normed(3, 8, 3, padding=1)
    for tensor in layer.parameters():
        nn.init.zeros_(tensor)
    assert examined(layer).does == "more"


def test_the_weight_is_the_one_that_the_layer_convolves_by() -> None:
    layer = own.Standardised(3, 8, 3, padding=1).half()
    weight, bias = computed_weight(layer)
    assert weight.dtype == torch.float16
    assert torch.allclose(weight.float(), layer.float().kernel(), atol=2e-3)
    assert torch.equal(bias, layer.bias.detach().half())


def test_a_weight_that_depends_on_the_image_is_unclear() -> None:
    class Dynamic(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            return F.conv2d(x, self.weight * x.mean(), self.bias)

    found = examined(Dynamic(3, 8, 3))
    assert (found.does, found.replaced) == ("unclear", False)
    assert "depends on the image" in found.why


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_the_classes_of_torch_have_no_forward_method_of_their_own(kind: Any) -> None:
    class Renamed(kind):  # type: ignore[misc]
        pass

    assert not has_own_forward(Renamed(1, 1, 3))
    assert not has_own_forward(nn.Linear(1, 1))
