"""A refusal names the layer, what was found, and an option; the option works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

X = torch.zeros(1, 3, 16, 16)


class Tokens(nn.Module):
    """Patches, a layer that mixes 16 tokens, and a head on their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 3)

    def mixed(self, tokens: Any) -> Any:
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        return self.head(self.mixed(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Mixer(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def mixed(self, tokens: Any) -> Any:
        return tokens + self.tokens(tokens.transpose(1, 2)).transpose(1, 2)


class Gated(Tokens):
    """gMLP: a convolution of 1 tap whose channels are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv1d(16, 16, 1)

    def mixed(self, tokens: Any) -> Any:
        return tokens * self.spatial(tokens)


class Matrix(Tokens):
    """A parameter instead of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(16, 16))

    def mixed(self, tokens: Any) -> Any:
        return self.matrix @ tokens


class Scaled(Tokens):
    """ResMLP: a scale for every channel, and a linear layer over the tokens without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.tokens = nn.Parameter(torch.randn(8)), nn.Linear(16, 16, bias=False)

    def mixed(self, tokens: Any) -> Any:
        return tokens + self.scale * self.tokens(tokens.transpose(1, 2)).transpose(1, 2)


class Hard(nn.Module):
    """A reshape to numbers that hold at the trained size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 64, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x).view(-1, 256))


@pytest.mark.parametrize("options", [{}, {"method": "dilate"}, {"method": "cubic"}], ids=str)
@pytest.mark.parametrize("build", [Mixer, Gated, Matrix, Scaled, Hard])
def test_what_cannot_grow_is_refused_with_a_mode_that_works(build: Any, options: Any) -> None:
    torch.manual_seed(0)
    net, x = build().eval(), torch.randn(1, 3, 32, 32)
    with pytest.raises(rk.RekernelError, match="mode='absorb' works") as refused:
        rkt.rescale(net, 2, X, mode="supersample", **options)
    assert len(str(refused.value)) < 700 and "\n" not in str(refused.value)
    absorbed = rkt.rescale(net, 2, X, mode="absorb")
    with torch.no_grad():
        assert torch.allclose(absorbed(x), net(F.avg_pool2d(x, 2)), atol=1e-5)


def test_a_linear_layer_over_tokens_is_named() -> None:
    with pytest.raises(rk.RekernelError, match=r"^tokens\.0: a linear layer reads pixels .*a matrix that mixes tokens"):
        rkt.rescale(Mixer(), 2, X, mode="supersample")


def test_a_way_out_is_said_once_and_in_the_words_of_the_reader() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2))
    with pytest.raises(rk.RekernelError, match="1: pooling can only be rescaled by whole numbers") as refused:
        rkt.rescale(net, 1.5, X)
    assert str(refused.value).count("mode='absorb'") == 1
    assert "--mode absorb" in refused.value.on_command_line()
    assert rkt.rescale(net, 1.5, X, mode="absorb")(torch.zeros(1, 3, 24, 24)).shape == (1, 4, 8, 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_by_name() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    inside = nn.Sequential()
    inside.add_module("scripted", torch.jit.script(layers))
    for model, name in (
        (torch.jit.script(layers), "RecursiveScriptModule"), (torch.jit.trace(layers, X), "RecursiveScriptModule"),
        (inside, "scripted"),
    ):  # fmt: skip
        with pytest.raises(rk.RekernelError, match=rf"^{name}: is TorchScript.*pass the module that torch.jit.script"):
            rkt.rescale(model, 2, X)
    assert rkt.rescale(layers, 2, X)(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 32, 32)


class Pair(nn.Module):
    """Two images, of which the second has twice the pixels."""

    def __init__(self, joins: bool) -> None:
        super().__init__()
        self.joins, self.a, self.b = joins, nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Any, y: Any) -> Any:
        a, b = self.a(x), self.b(y)
        return a + b if self.joins else torch.cat([a.mean((2, 3)), b.mean((2, 3))], 1)


@pytest.mark.parametrize("names", [False, True])
def test_a_second_image_of_another_size_is_named(names: bool) -> None:
    y = torch.zeros(1, 3, 32, 32)
    example = {"x": X, "y": y} if names else (X, y)
    said = "an image of 32x32 pixels stays at its size beside the one of 16x16"
    assert said in "".join(rkt.rescale(Pair(False), 2, example).rekernel_plan.warnings)
    with pytest.raises(rk.RekernelError, match=said):
        rkt.rescale(Pair(True), 2, example)
    same = rkt.rescale(Pair(False), 2, (X, X))
    assert not [note for note in same.rekernel_plan.warnings if "image of" in note]


def test_a_functional_pooling_over_the_whole_grid_with_a_number_is_explained() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.read = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            return self.read(F.avg_pool2d(self.conv(x), 8).flatten(1))

    with pytest.raises(rk.RekernelError, match=r"avg-pool call over all 8x8 pixels .* use an adaptive pooling"):
        rkt.rescale(Net(), 2, X, mode="supersample")
    assert rkt.rescale(Net(), 2, X)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_positions_of_many_taps_are_not_all_listed() -> None:
    for scale in (0.5, 1.5):
        with pytest.raises(rk.RekernelError, match="and 296 more on") as refused:
            rk.kernel_operator(301, scale, "dilate")
        assert len(str(refused.value)) < 300


def test_a_pooling_that_a_file_cannot_rescale_is_named_on_loading(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1))
    save_file(net.state_dict(), tmp_path / "in.safetensors")
    rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=1.5, mode="supersample")
    with pytest.raises(rk.RekernelError, match=r"^1: pooling can only .* convert again with mode='absorb'"):
        rkt.load(net, tmp_path / "out.safetensors")


class Denoiser(nn.Module):
    """Cuts patches by reshaping, as AuraFlow and CogView3 do, and puts them together again by `how`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.proj, self.out = nn.Linear(3 * 4, 16), nn.Linear(16, 3 * 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(-3).flatten(1, 2)
        x = self.out(self.proj(x).tanh()).view(n, h // 2, w // 2, c, 2, 2)
        if self.how == "einsum":
            return torch.einsum("nhwcpq->nchpwq", x).reshape(n, c, h, w)
        return x.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


@pytest.mark.parametrize("how", ["einsum", "permute"])
def test_an_image_is_not_made_small_in_front_of_a_model_that_gives_one_back(how: str) -> None:
    """The default must not answer with an image of the trained size, though no layer is seen to write one."""
    model, example = Denoiser(how).eval(), torch.zeros(1, 3, 16, 16)
    with pytest.raises(rk.RekernelError, match=r"proj: .*mode='absorb' works.*the output keeps its trained size"):
        rkt.rescale(model, 2, example)
    assert rkt.rescale(model, 2, example, mode="absorb")(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 16, 16)
