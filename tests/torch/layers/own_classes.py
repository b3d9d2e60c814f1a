"""Convolutions with forward methods of their own, as real libraries have them, and the plain networks they equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention


class Normed(nn.Conv2d):
    """Detectron2's Conv2d(norm=, activation=)."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return F.relu(self.norm(x))

    def plain(self) -> nn.Module:
        return nn.Sequential(copied(self), self.norm, nn.ReLU())


class Scaled(nn.Conv2d):
    """A learned scale behind the convolution."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain

    def plain(self) -> nn.Module:
        norm = nn.BatchNorm2d(self.out_channels, eps=0.0)  # a norm that only scales
        norm.weight.data = self.gain.detach().flatten()
        return nn.Sequential(copied(self), norm)


class Active(nn.Conv2d):
    """An activation inside `_conv_forward`, which the forward method of torch calls."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.leaky_relu(super()._conv_forward(x, weight, bias), 0.1)

    def plain(self) -> nn.Module:
        return nn.Sequential(copied(self), nn.LeakyReLU(0.1))


class Preactivated(nn.Conv2d):
    """An activation in front of the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))

    def plain(self) -> nn.Module:
        return nn.Sequential(nn.ReLU(), copied(self))


class Padded(nn.Conv2d):
    """EfficientNet-PyTorch's Conv2dStaticSamePadding: a child module pads."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1) if self.stride[0] == 2 else (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride)

    def plain(self) -> nn.Module:
        return nn.Sequential(self.static_padding, copied(self))


class Same(nn.Conv2d):
    """timm's Conv2dSame: it computes its padding from the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        n, k, t = x.shape[-1], self.kernel_size[0], self.stride[0]
        p = max((-(-n // t) - 1) * t + k - n, 0)
        return F.conv2d(F.pad(x, [p // 2, p - p // 2] * 2), self.weight, self.bias, self.stride)

    def plain(self) -> nn.Module:
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1) if self.stride[0] == 2 else (1, 1, 1, 1)), copied(self))


class Cropped(nn.Conv2d):
    """A causal convolution: it pads both sides and takes away what it gave too much."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., : -self.padding[0], : -self.padding[1]]

    def plain(self) -> nn.Module:
        conv = copied(self)
        left, right = self.padding[0], self.padding[0] - self.padding[0] * self.stride[0]
        conv.padding = (0, 0)
        return nn.Sequential(nn.ZeroPad2d((left, right, left, right)), conv)


class Reflected(nn.Conv2d):
    """It pads by reflection, whatever its `padding_mode` is."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight, self.bias, self.stride)

    def plain(self) -> nn.Module:
        conv = nn.Conv2d(self.in_channels, self.out_channels, self.kernel_size, self.stride, 1, padding_mode="reflect")
        conv.weight, conv.bias = self.weight, self.bias
        return conv


class Standardised(nn.Conv2d):
    """Weight standardisation with a gain, as in NFNet."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def kernel(self) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        return self.gain * (self.weight - mean) / (variance + 1e-6).sqrt() / 5

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel(), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def plain(self) -> nn.Module:
        conv = copied(self)
        conv.weight = nn.Parameter(self.kernel().detach())
        return conv


class Equalised(nn.Conv2d):
    """A learning rate equalised at run time, as in StyleGAN."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias / 2
        return F.conv2d(x, self.weight * 0.3, bias, self.stride, self.padding)

    def plain(self) -> nn.Module:
        conv = copied(self)
        conv.weight, conv.bias = nn.Parameter(self.weight.detach() * 0.3), nn.Parameter(self.bias.detach() / 2)
        return conv


class Masked(nn.Conv2d):
    """PixelCNN's masked convolution, which changes its weight in place."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.register_buffer("mask", torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)

    def plain(self) -> nn.Module:
        conv = copied(self)
        conv.weight = nn.Parameter(self.weight.detach() * self.mask)
        return conv


class WithScale(nn.Conv2d):
    """A second argument, as in WanCausalConv3d(x, cache_x)."""

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(x) * scale

    def plain(self) -> nn.Module:
        return copied(self)


class Twice(nn.Conv2d):
    """Two convolutions by one weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(-x.abs())


class HardCoded(nn.Conv2d):
    """It does not look at its attributes, so a copy with other ones does the same as before."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, self.weight, self.bias, 1, 1))


class Stateful(nn.Conv2d):
    """A streaming convolution that pads by the end of the last image."""

    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        ahead = torch.zeros_like(x[..., :2]) if self.last is None else self.last
        self.last = x[..., -2:]
        return F.conv2d(torch.cat([ahead, x], -1), self.weight, self.bias, self.stride, (1, 0))


def copied(layer: Any) -> Any:
    """A plain convolution with the parameters and the geometry of a layer."""
    conv = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        padding_mode=layer.padding_mode,
    )  # fmt: skip
    conv.weight, conv.bias = nn.Parameter(layer.weight.detach()), layer.bias
    return conv


def shaken(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with statistics of its norms that matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.eps:
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(1, 4)  # type: ignore[union-attr]
    return model.eval()
