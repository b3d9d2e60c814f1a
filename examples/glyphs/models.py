"""Define the two small classifiers of the example, at their trained size or at any other size.

Scope: layers and their geometry. Not here: images (see `render`) and training (see `train`). Imports torch alone.
Kernel sizes and widths are read from the weights; padding, stride and dilation come from the argument `geometry`.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

Geometry = Mapping[str, Mapping[str, Any]]

# As trained, at 16x16. Keys of a layer: kernel, stride, dilation (int or (rows, columns)), and padding: an int,
# (before, after) for both axes, or ((top, bottom), (left, right)). Missing keys and layers keep these values.
CNN_GEOMETRY: dict[str, dict[str, Any]] = {
    "conv1": {"kernel": 3, "stride": 1, "padding": 1, "dilation": 1},
    "conv2": {"kernel": 3, "stride": 2, "padding": 1, "dilation": 1},
    "conv3": {"kernel": 3, "stride": 1, "padding": 1, "dilation": 1},
    "conv4": {"kernel": 3, "stride": 2, "padding": 1, "dilation": 1},
}
CNN_CHANNELS = (1, 24, 32, 48, 64)
MLP_WIDTHS = (256, 192, 96, 10)


class GlyphMLP(nn.Module):
    """Three linear layers on the pixels: (B, 1, H, W) with H*W = `widths[0]`, to (B, `widths[-1]`) logits."""

    def __init__(self, widths: tuple[int, int, int, int] = MLP_WIDTHS) -> None:
        super().__init__()
        self.fc1 = nn.Linear(widths[0], widths[1])
        self.fc2 = nn.Linear(widths[1], widths[2])
        self.fc3 = nn.Linear(widths[2], widths[3])

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Self:
        """The model whose widths are those of the weights in `state`, loaded, in evaluation mode."""
        rows = [state[f"fc{i}.weight"].shape[0] for i in (1, 2, 3)]
        model = cls((state["fc1.weight"].shape[1], *rows))
        model.load_state_dict(state)
        return model.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(torch.relu(self.fc2(x)))


class GlyphCNN(nn.Module):
    """Four convolutions, two of them with stride 2, then a global average: (B, 1, H, W) to (B, 10) logits.

    Parameters
    ----------
    geometry : mapping, optional
        Departures from `CNN_GEOMETRY`, for instance `{"conv2": {"kernel": 6, "padding": (2, 2)}}`.
    channels : tuple of int
        Input channels, then the output channels of each convolution.

    Examples
    --------
    >>> GlyphCNN()(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 10])
    >>> GlyphCNN({"conv2": {"kernel": 5, "padding": (1, 2)}}).conv2.pad
    (1, 2, 1, 2)
    """

    def __init__(self, geometry: Geometry | None = None, channels: tuple[int, ...] = CNN_CHANNELS) -> None:
        super().__init__()
        if unknown := set(geometry or ()) - set(CNN_GEOMETRY):
            raise ValueError(f"geometry names {sorted(unknown)}, but the layers are {sorted(CNN_GEOMETRY)}.")
        convs = [
            _conv(name, channels[i], channels[i + 1], {**default, **(geometry or {}).get(name, {})})
            for i, (name, default) in enumerate(CNN_GEOMETRY.items())
        ]
        self.conv1, self.conv2, self.conv3, self.conv4 = convs
        self.bn1, self.bn2, self.bn3, self.bn4 = (nn.BatchNorm2d(width) for width in channels[1:])
        self.fc = nn.Linear(channels[-1], 10)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], geometry: Geometry | None = None) -> Self:
        """The model whose kernels and channels are those of the weights in `state`, loaded, in evaluation mode.

        `geometry` gives the padding, stride and dilation of each layer where they are not those of training.
        """
        weights = {name: state[f"{name}.weight"] for name in CNN_GEOMETRY}
        channels = (weights["conv1"].shape[1], *(w.shape[0] for w in weights.values()))
        merged = {k: {**(geometry or {}).get(k, {}), "kernel": tuple(w.shape[2:])} for k, w in weights.items()}
        model = cls(merged, channels)
        model.load_state_dict(state)
        return model.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))

    def features(self, x: Tensor) -> Tensor:
        """The feature maps before the average over the image: (B, 1, H, W) to (B, C, H/4, W/4)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return torch.relu(self.bn4(self.conv4(x)))


class PaddedConv2d(nn.Conv2d):
    """A convolution whose zero padding may differ between its two sides; `pad` is (left, right, top, bottom)."""

    def __init__(self, cin: int, cout: int, kernel: Any, sides: tuple[int, int, int, int], **options: Any) -> None:
        super().__init__(cin, cout, kernel, padding=0, **options)
        self.pad = sides

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad(x, self.pad))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pad={self.pad}"


def _conv(name: str, cin: int, cout: int, layer: Mapping[str, Any]) -> nn.Conv2d:
    """An ordinary `nn.Conv2d` where the padding is the same on both sides, a `PaddedConv2d` otherwise."""
    if unknown := set(layer) - set(CNN_GEOMETRY[name]):
        raise ValueError(f"{name}: geometry has {sorted(unknown)}, but knows {sorted(CNN_GEOMETRY[name])}.")
    options = {"stride": layer["stride"], "dilation": layer["dilation"], "bias": False}
    (top, bottom), (left, right) = _sides(layer["padding"])
    if top == bottom >= 0 and left == right >= 0:
        return nn.Conv2d(cin, cout, layer["kernel"], padding=(top, left), **options)
    return PaddedConv2d(cin, cout, layer["kernel"], (left, right, top, bottom), **options)


def _sides(padding: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) from each of the accepted spellings."""
    if isinstance(padding, int):
        padding = (padding, padding)
    rows, columns = (padding, padding) if isinstance(padding[0], int) else padding
    return tuple(rows), tuple(columns)
