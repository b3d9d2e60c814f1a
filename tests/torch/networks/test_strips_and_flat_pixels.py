"""Layers that read a strip of pixels, or all pixels one behind the other: grids that grow along some of their axes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

N = 16


def conv(i: int, o: int, k: Any = 3) -> nn.Conv2d:
    k = (k, k) if isinstance(k, int) else k
    return nn.Conv2d(i, o, k, padding=(k[0] // 2, k[1] // 2))


class Network(nn.Module):
    """A convolution, something between, and a convolution that gives an image back."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        self.first, self.last = conv(3, 8), conv(8, 3)
        for name, module in modules.items():
            self.add_module(name, module)

    def between(self, y: Any) -> Any:
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        return self.last(self.between(self.first(x)))


class NonLocal(Network):
    """Attention among all pixels, by convolutions along the flattened grid (Wang et al.)."""

    def __init__(self) -> None:
        super().__init__(**{name: nn.Conv1d(8, 8, 1) for name in "qkvo"})

    def between(self, y: Any) -> Any:
        flat = y.flatten(2)
        weights = (self.q(flat).transpose(1, 2) @ self.k(flat)).softmax(-1)
        read = (weights @ self.v(flat).transpose(1, 2)).transpose(1, 2)
        return y + self.o(read).reshape(y.shape)


class PointwiseOnly(Network):
    """Pixels through a Conv1d and back to the grid, which nothing but the convolution saw."""

    def __init__(self) -> None:
        super().__init__(mix=nn.Conv1d(8, 8, 1), again=nn.Conv1d(8, 8, 1))

    def between(self, y: Any) -> Any:
        return self.again(self.mix(y.reshape(*y.shape[:2], -1)).relu()).view(y.shape)


class Strips(Network):
    """Strip pooling (Hou et al.): means of rows and of columns, each through a convolution along the strip."""

    def __init__(self, enlarges: bool) -> None:
        super().__init__(
            rows=nn.AdaptiveAvgPool2d((None, 1)), columns=nn.AdaptiveAvgPool2d((1, None)), down=conv(8, 8, (3, 1)),
            across=conv(8, 8, (1, 3)),
        )  # fmt: skip
        self.enlarges = enlarges

    def between(self, y: Any) -> Any:
        one, other = self.down(self.rows(y)), self.across(self.columns(y))
        if self.enlarges:
            one, other = (F.interpolate(t, y.shape[2:]) for t in (one, other))
        return y * torch.sigmoid(one + other)


class OnlyStrips(Strips):
    def between(self, y: Any) -> Any:
        return self.down(self.rows(y)) + self.across(self.columns(y))


class Coordinates(Network):
    """Coordinate attention (Hou et al.): both strips in one, with the columns turned, and apart again."""

    def __init__(self) -> None:
        super().__init__(
            rows=nn.AdaptiveAvgPool2d((None, 1)), columns=nn.AdaptiveMaxPool2d((1, None)), mix=conv(8, 4, 1),
            one=conv(4, 8, 1), other=conv(4, 8, 1),
        )  # fmt: skip

    def between(self, y: Any) -> Any:
        both = torch.cat([self.rows(y), self.columns(y).permute(0, 1, 3, 2)], 2)
        one, other = self.mix(both).relu().split(list(y.shape[2:]), 2)
        return y * self.one(one).sigmoid() * self.other(other.permute(0, 1, 3, 2)).sigmoid()


class Reduced(Network):
    """A strip that code makes."""

    def __init__(self, how: Any) -> None:
        super().__init__(mix=conv(8, 8, 1))
        self.how = how

    def between(self, y: Any) -> Any:
        return y * self.mix(self.how(y)).sigmoid()


NETWORKS: dict[str, Any] = {
    "non-local": NonLocal,
    "pointwise alone": PointwiseOnly,
    "strips, enlarged": lambda: Strips(True),
    "strips, broadcast": lambda: Strips(False),
    "nothing but strips": lambda: OnlyStrips(False),
    "coordinate attention": Coordinates,
    "a mean of rows": lambda: Reduced(lambda y: y.mean(3, keepdim=True)),
    "a maximum of columns": lambda: Reduced(lambda y: y.amax(2, keepdim=True)),
    "a pooling in code": lambda: Reduced(lambda y: F.adaptive_avg_pool2d(y, (1, y.shape[3]))),
    "a pooling of all": lambda: Reduced(lambda y: F.adaptive_avg_pool2d(y, 1)),
}


@pytest.mark.parametrize(("kind", "scale"), [
    (kind, scale) for kind in NETWORKS for scale in (2, (1, 3), 1.5)
    if (kind, scale) != ("coordinate attention", (1, 3))
])  # fmt: skip
def test_the_feature_maps_grow_and_a_smooth_picture_gets_nearly_the_same_answer(kind: str, scale: Any) -> None:
    torch.manual_seed(0)
    model = NETWORKS[kind]().eval()
    larger: Any = rkt.rescale(model, scale, torch.zeros(1, 3, N, N), mode="supersample")
    size = [round(N * s) for s in (scale if isinstance(scale, tuple) else (scale, scale))]
    x = picture(N, N)
    with torch.no_grad():
        small, large = model(x), larger(picture(*size))
    assert large.shape[2:] == tuple(size)
    back = F.interpolate(large, (N, N), mode="area") if scale != 1.5 else F.interpolate(large, (N, N), mode="bilinear")
    inside = (..., slice(4, -4), slice(4, -4))
    assert (back - small)[inside].norm() < 0.05 * small[inside].norm()
    assert not any("different scales" in note for note in larger.rekernel_plan.warnings)


def picture(height: int, width: int) -> Any:
    """The same smooth picture at any size."""
    rows, columns = ((torch.arange(n) + 0.5) / n for n in (height, width))
    waves = [torch.sin(3 * rows[:, None] + c) + torch.cos(2 * columns * (c + 1))[None] for c in range(3)]
    return torch.stack(waves)[None]


@pytest.mark.parametrize("mode", ["auto", "absorb"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_absorbing_lets_nothing_of_them_grow(kind: str, mode: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(NETWORKS[kind](), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    larger: Any = rkt.rescale(model, 2, torch.zeros(1, 3, N, N), mode=mode)
    assert larger.rekernel_plan.checked.startswith("exact")


@pytest.mark.parametrize(("asked", "grows"), [
    (N, (False, False)), ((N, None), (False, True)), ((None, 5), (True, False)), ((None, None), (True, True)),
], ids=str)  # fmt: skip
def test_an_adaptive_pooling_to_a_number_of_pixels_still_ends_the_grid(asked: Any, grows: tuple[bool, bool]) -> None:
    model = nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(asked), conv(8, 3)).eval()
    larger: Any = rkt.rescale(model, 2, torch.zeros(1, 3, N, N), mode="supersample")
    assert tuple(k > 3 for k in larger[2].weight.shape[2:]) == grows


def test_columns_and_rows_in_one_strip_that_grow_by_different_scales_are_refused() -> None:
    with pytest.raises(rk.RekernelError, match=r"^mix: gives a grid of \(64, 1\).*mode='absorb'"):
        rkt.rescale(Coordinates().eval(), (1, 3), torch.zeros(1, 3, N, N), mode="supersample")


@pytest.mark.parametrize("layer", [nn.Conv1d(8, 8, 3, padding=1), nn.MaxPool1d(3, 1, 1)], ids=repr)
def test_a_window_along_flattened_pixels_is_refused(layer: nn.Module) -> None:
    """It mixes the end of a row with the start of the next."""

    class Windows(PointwiseOnly):
        def between(self, y: Any) -> Any:
            return self.mix(y.flatten(2)).reshape(y.shape)

    model = Windows()
    model.mix = layer
    with pytest.raises(rk.RekernelError, match=r"^mix: .*mode='absorb'"):
        rkt.rescale(model.eval(), 2, torch.zeros(1, 3, N, N), mode="supersample")
