"""Make dense layers of a given geometry: torch's own where these suffice, and layers with padding on single sides.

Scope: modules and geometry (`AxisGeometry`). A layer keeps the parameters that it is given, under the names of the
original layer, so that checkpoints, optimisers and tied weights work as before. Not here: factored layers (see
`torch.layers.factored`), poolings (see `torch.layers.pools`), and plans (see `torch.editing.apply`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from ...plan.changes import AxisGeometry
from ..surroundings import in_format_of
from .padding import OwnPadding, Sides, pad_sides

_CONV: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE: tuple[Any, ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_CONVS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSES: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class PaddedConv(OwnPadding, nn.Module):
    """A dense convolution whose padding differs between its sides.

    Parameters
    ----------
    weight, bias : nn.Parameter
        (O, I/groups, *kernel) and (O,) or None.
    sides : ((left, right), ...)
        Padding in pixels, one pair per spatial axis; negative crops.
    by_hand, by_hand_mode
        The explicit padding that the model adds before the layer, and its mode.
    """

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, *, stride: Sequence[int], sides: Sides,
        groups: int = 1, padding_mode: str = "zeros", by_hand: Sides = (), by_hand_mode: str = "constant",
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = weight
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)
        self._step, self.groups = tuple(stride), groups
        self._set_padding(sides, padding_mode, by_hand, by_hand_mode)
        # What code around a convolution may ask of it.
        self.stride, self.kernel_size, self.dilation = self._step, tuple(weight.shape[2:]), (1,) * len(sides)
        self.in_channels, self.out_channels = weight.shape[1] * groups, weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self._padded(x, self.sides)
        out: Tensor = _CONV[len(self.sides) - 1](x, self.weight, self.bias, self._step, 0, 1, self.groups)
        return out

    def keep_attributes(self, old: Any) -> None:
        """Show code around the layer the attributes of the old layer, from which it computes explicit padding."""
        self.stride, self.kernel_size, self.dilation = old.stride, old.kernel_size, old.dilation

    def extra_repr(self) -> str:
        return described(self.weight, self._step, self.sides, self.groups, self.padding_mode)


class CroppedConvTranspose(nn.Module):
    """A dense transposed convolution that crops (or extends) its full output by another amount on each side."""

    def __init__(
        self, weight: nn.Parameter, bias: nn.Parameter | None, *, stride: Sequence[int], sides: Sides, groups: int = 1
    ) -> None:
        super().__init__()
        self.weight = weight
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)
        self.stride, self.sides, self.groups = tuple(stride), sides, groups
        # What code around a convolution may ask of it.
        self.kernel_size, self.dilation = tuple(weight.shape[2:]), (1,) * len(sides)
        self.in_channels, self.out_channels = weight.shape[0], weight.shape[1] * groups

    def forward(self, x: Tensor) -> Tensor:
        full = _CONV_TRANSPOSE[len(self.sides) - 1](x, self.weight, None, self.stride, groups=self.groups)
        out = pad_sides(full, tuple((-left, -right) for left, right in self.sides))
        bias: Tensor | None = self.bias
        return out if bias is None else out + bias.reshape(-1, *(1 for _ in self.sides))

    def extra_repr(self) -> str:
        return described(self.weight, self.stride, self.sides, self.groups, "zeros")


def dense_conv(
    old: nn.Module, weight: nn.Parameter, geometry: Sequence[AxisGeometry], *, padding_mode: str = "",
    by_hand: Sides = (), by_hand_mode: str = "constant",
) -> nn.Module:  # fmt: skip
    """A convolution like `old` with another kernel. It is of torch's own class if that class allows the padding.

    If the model pads explicitly, its code reads stride, kernel size and dilation from the layer. These attributes keep
    their old values, so that the code pads as before; the new layer adds the rest of the padding. The mode of its
    padding is that of `old`, unless another one is given.
    """
    stride = tuple(g.stride for g in geometry)
    sides = tuple(g.padding for g in geometry)
    if isinstance(old, _TRANSPOSES):
        return _dense_transpose(old, weight, stride, sides)
    return _dense_conv(old, weight, stride, sides, padding_mode or str(old.padding_mode), by_hand, by_hand_mode)


def _dense_conv(
    old: Any, weight: nn.Parameter, stride: tuple[int, ...], sides: Sides, padding_mode: str, by_hand: Sides,
    by_hand_mode: str,
) -> nn.Module:  # fmt: skip
    dims = len(sides)
    if not by_hand and all(left == right >= 0 for left, right in sides):
        return _layer(
            _CONVS[dims - 1], weight, old.bias, old.in_channels, old.out_channels, tuple(weight.shape[2:]), stride,
            tuple(left for left, _ in sides), 1, old.groups, padding_mode=padding_mode,
        )  # fmt: skip
    padded = PaddedConv(
        weight, old.bias, stride=stride, sides=sides, groups=old.groups, padding_mode=padding_mode,
        by_hand=by_hand, by_hand_mode=by_hand_mode,
    )  # fmt: skip
    if by_hand:
        padded.keep_attributes(old)
    return padded


def dilated_conv(
    old: Any, geometry: Sequence[AxisGeometry], spread: Mapping[int, int], *, padding_mode: str = ""
) -> nn.Module | None:
    """A convolution of torch's own class with the weights of `old`, its taps spread; None if torch cannot pad so.

    Parameters
    ----------
    geometry : sequence of AxisGeometry
        Stride and padding of the new layer along each axis.
    spread : {axis: int}
        Factor by which the dilation grows, for the axes where it does.
    padding_mode : str, optional
        Mode of the padding, by default that of `old`.
    """
    if isinstance(old, _TRANSPOSES) or any(left != right or left < 0 for left, right in (g.padding for g in geometry)):
        return None
    dilation = tuple(d * spread.get(axis, 1) for axis, d in enumerate(old.dilation))
    return _layer(
        _CONVS[len(dilation) - 1], old.weight, old.bias, old.in_channels, old.out_channels, old.kernel_size,
        tuple(g.stride for g in geometry), tuple(g.padding[0] for g in geometry), dilation, old.groups,
        padding_mode=padding_mode or old.padding_mode,
    )  # fmt: skip


def plain_layer(
    old: Any, weight: Tensor | None = None, bias: Tensor | None = None, *, padding_mode: str = ""
) -> nn.Module:
    """A plain layer of torch's own class with the geometry of `old`.

    Parameters
    ----------
    weight, bias : optional
        The parameters of the new layer; of other tensors copies. By default what `old`, a parametrised layer, computes.
    padding_mode : str, optional
        Another mode than that of `old`.
    """
    if weight is None:
        names = ("weight", "parametrizations.weight")
        made_of = [parameter for name, parameter in old.named_parameters() if name.startswith(names)]
        computed = old.weight.detach().clone()
        for parameter in made_of:
            computed = in_format_of(parameter, computed)
        trained = any(p.requires_grad for p in made_of)
        weight, bias = nn.Parameter(computed, requires_grad=trained), old.bias
    kernel, bias = _parameter(weight), None if bias is None else _parameter(bias)
    if isinstance(old, nn.Linear):
        return _layer(nn.Linear, kernel, bias, old.in_features, old.out_features)
    known = (_TRANSPOSES if old.transposed else _CONVS)[len(old.kernel_size) - 1]
    options = {"output_padding": old.output_padding} if old.transposed else {}
    return _layer(
        known, kernel, bias, old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding,
        groups=old.groups, dilation=old.dilation, padding_mode=padding_mode or old.padding_mode, **options,
    )  # fmt: skip


def _parameter(tensor: Tensor) -> nn.Parameter:
    """A parameter as it is, or a copy of a tensor as one."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach().clone())


def linear(old: Any, weight: nn.Parameter) -> nn.Module:
    """A fully-connected layer like `old` with another weight."""
    return _layer(nn.Linear, weight, old.bias, weight.shape[1], weight.shape[0])


def _dense_transpose(old: Any, weight: nn.Parameter, stride: tuple[int, ...], sides: Sides) -> nn.Module:
    extra = [left - right for left, right in sides]
    if all(left >= 0 for left, _ in sides) and all(0 <= e < t for e, t in zip(extra, stride, strict=True)):
        return _layer(
            _TRANSPOSES[len(stride) - 1], weight, old.bias, old.in_channels, old.out_channels, tuple(weight.shape[2:]),
            stride, tuple(left for left, _ in sides), tuple(extra), old.groups,
        )  # fmt: skip
    return CroppedConvTranspose(weight, old.bias, stride=stride, sides=sides, groups=old.groups)


def _layer(kind: Any, weight: nn.Parameter, bias: Any, *geometry: Any, **options: Any) -> nn.Module:
    """A layer of torch's own class `kind` that holds the given parameters."""
    new: nn.Module = _UNFILLED[kind](*geometry, bias=bias is not None, device="meta", **options)
    new.__class__ = kind
    new.weight = weight
    if bias is not None:
        new.bias = bias
    return new


def _do_nothing(_layer: nn.Module) -> None:
    """In place of `reset_parameters`."""


# The constructors of torch draw random values, which here would take longer than all else that they do.
_UNFILLED: dict[Any, Any] = {
    kind: type(kind.__name__, (kind,), {"reset_parameters": _do_nothing}) for kind in (*_CONVS, *_TRANSPOSES, nn.Linear)
}


def described(weight: Tensor, stride: tuple[int, ...], sides: Sides, groups: int, padding_mode: str) -> str:
    """The text in the repr of a convolution.

    Examples
    --------
    >>> described(nn.Conv2d(2, 4, 3).weight, (1, 1), ((1, 1), (1, 0)), 1, "zeros")
    '2, 4, kernel=3x3, stride=(1, 1), padding=((1, 1), (1, 0))'
    """
    kernel = "x".join(map(str, weight.shape[2:]))
    text = f"{weight.shape[1] * groups}, {weight.shape[0]}, kernel={kernel}, stride={stride}, padding={sides}"
    if groups != 1:
        text += f", groups={groups}"
    return text if padding_mode == "zeros" else f"{text}, padding_mode={padding_mode}"
