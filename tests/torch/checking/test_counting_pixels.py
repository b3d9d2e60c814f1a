"""Functions of a model's code that count pixels are noted by name, with the way out; those that do not are not."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

import rekernel.torch as rkt
from rekernel import RekernelError


class Model(nn.Module):
    """A convolution, and a function of its features."""

    def __init__(self, function, dims=2):
        super().__init__()
        kind = {1: nn.Conv1d, 2: nn.Conv2d}[dims]
        self.conv, self.function = kind(1, 4, 3, padding=1, padding_mode="circular"), function

    def forward(self, x):
        return self.function(self.conv(x))


def notes(function, dims=2, **options):
    torch.manual_seed(0)
    x = torch.zeros(2, 1, *[16] * dims)
    large = rkt.rescale(Model(function, dims).eval(), 2, x, **{"mode": "supersample", "check": False, **options})
    return list(large.rekernel_plan.warnings)


def grid(x):
    rows, columns = (torch.arange(n, dtype=x.dtype) for n in x.shape[-2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


COUNTING = {
    "sum": (lambda x: x.sum((2, 3)), "sum over 1024 pixels instead of 256", "divide it by 4"),
    "sum of one axis": (lambda x: x.sum(-1), "sum over 32 pixels instead of 16", "divide it by 2"),
    "sum of tokens": (lambda x: x.flatten(2).sum(2), "sum over 1024 pixels", "divide it by 4"),
    "norm": (lambda x: x.flatten(2).norm(dim=-1), "norm over 1024", "divide it by 2"),
    "normalize": (lambda x: F.normalize(x.flatten(2), dim=-1), "normalize over 1024", "multiply it by 2"),
    "logsumexp": (lambda x: x.logsumexp((2, 3)), "logsumexp over 1024", "changes its meaning"),
    "log_softmax": (lambda x: x.flatten(2).log_softmax(-1), "log_softmax over 1024", "changes its meaning"),
    "cumsum": (lambda x: x.cumsum(-1), "cumsum over 32 pixels", "changes its meaning"),
    "number of the size": (lambda x: x * (x.shape[-1] / 16), "mul by 2 instead of 1", "from the size of the grid"),
    "softmax over channels": (lambda x: x.flatten(2).softmax(1) @ x.flatten(2).mT, "matmul sums over 1024", "by 4"),
    "sum by half its pixels": (lambda x: x.sum((2, 3)) / x.shape[2], "sum over 1024 pixels", "divide it by 4"),
    "places by a sum of ones": (lambda x: x + torch.ones(x.shape[-1]).cumsum(0), "up to 32 instead of 16", "divide"),
    "gram by bmm": (lambda x: torch.bmm(x.flatten(2), x.flatten(2).mT), "bmm sums over 1024", "divide it by 4"),
    "gram by einsum": (lambda x: torch.einsum("nchw,ndhw->ncd", x, x), "einsum sums over 1024", "by 4"),
    "gram by @": (lambda x: x.flatten(2) @ x.flatten(2).mT, "matmul sums over 1024", "by 4"),
    "crop": (lambda x: x[..., 3:-3, 3:-3], "cuts 3+3 of 32 pixels", "2 times as many"),
    "crop at the end": (lambda x: x[:, :, :-2], "cuts 0+2 of 32 pixels", "2 times as many"),
    "first pixels": (lambda x: x[..., :8], "cuts 0+24 of 32 pixels, where it cut 0+8", "2 times as many"),
    "narrow": (lambda x: x.narrow(2, 4, 8), "cuts 4+20 of 32", "2 times as many"),
    "one row": (lambda x: x[:, :, 5], "takes pixel 5 of 16", "32"),
    "select": (lambda x: x.select(3, 6), "takes pixel 6 of 16", "32"),
    "roll": (lambda x: torch.roll(x, (2, 2), (2, 3)), "roll by 2 of 32 pixels", "roll by as much"),
    "split": (lambda x: x.split(4, 2)[0], "parts of 4 of 32 pixels", ""),
    "unbind": (lambda x: torch.stack([r.tanh() for r in x.unbind(2)], 2), "calls 34 functions instead of 18", "loops"),
    "windows by view": (lambda x: x.view(2, 4, 8, 2, 8, 2).amax((3, 5)) if x.shape[-1] == 16 else
                        x.view(2, 4, 16, 2, 16, 2).amax((3, 5)), "groups of 4 pixels", "smaller part"),
    "windows by unfold": (lambda x: x.unfold(2, 4, 4), "windows of 4 pixels", ""),
    "pad": (lambda x: F.pad(x, (2, 2, 2, 2)).tanh(), "pad adds 2+2 pixels to 32", "2 times as many"),
    "coordinates added": (lambda x: x + grid(x)[0], "coordinates that count pixels, up to 31 instead of 15", "scale"),
    "coordinates joined": (lambda x: torch.cat([x, grid(x).expand(2, 2, -1, -1)], 1), "count pixels", "scale"),
    "waves of positions": (lambda x: x + torch.sin(torch.arange(x.shape[-1]) / 3), "sin uses coordinates", "scale"),
    "table by position": (lambda x: x + F.embedding(torch.arange(x.shape[-1]), torch.randn(64, 1)).mT,
                          "embedding uses coordinates", "scale"),
    "sort": (lambda x: x.sort(-1).values, "sort is a function that rekernel does not know", "equivariance_error"),
    "transform": (lambda x: torch.fft.rfft(x).abs(), "fft_rfft is a function that rekernel does not know", ""),
    "difference": (lambda x: torch.diff(x, dim=-1), "diff is a function", ""),
    "corners": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), "align_corners", ""),
}  # fmt: skip

HARMLESS = {
    "mean": lambda x: x.mean((2, 3)),
    "mean of tokens": lambda x: x.flatten(2).mean(-1),
    "maximum": lambda x: x.amax((2, 3)),
    "softmax pooling": lambda x: (x.flatten(2) * x.flatten(2).softmax(-1)).mean(2),
    "weighted mean": lambda x: x.flatten(2) @ x.flatten(2).mean(1, keepdim=True).softmax(-1).mT,
    "sum over channels": lambda x: x.sum(1),
    "norm of channels": lambda x: F.normalize(x, dim=1),
    "channel shuffle": lambda x: x.view(2, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "half of the channels": lambda x: x[:, :2],
    "halves of the picture": lambda x: torch.cat(x.chunk(2, 2), 1),
    "crop in proportion": lambda x: x[..., x.shape[-2] // 4 : -(x.shape[-2] // 4), :],
    "roll in proportion": lambda x: torch.roll(x, x.shape[-1] // 4, -1),
    "flip": lambda x: x.flip(-1),
    "relative coordinates": lambda x: x + grid(x)[0] / x.shape[-1],
    "linspace": lambda x: x + torch.linspace(-1, 1, x.shape[-1]),
    "tokens": lambda x: x.flatten(2).transpose(1, 2).softmax(-1).transpose(1, 2).reshape(x.shape),
    "upsampling": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "repeated pixels": lambda x: x.repeat_interleave(2, -1),
    "sum divided by its pixels": lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "sum times a share": lambda x: x.sum((2, 3)) * (1 / x[0, 0].numel()),
    "masked mean": lambda x: (x * (x > 0)).sum((2, 3)) / (x > 0).sum((2, 3)).clamp(min=1),
    "attentive pooling": lambda x: (x.flatten(2) * x.flatten(2).softmax(-1)).sum(-1),
    "non-local, by a dot product": lambda x: (x.flatten(2).mT @ x.flatten(2) / x[0, 0].numel()) @ x.flatten(2).mT,
    "gram divided by its pixels": lambda x: x.flatten(2) @ x.flatten(2).mT / (x.shape[2] * x.shape[3]),
    "gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("what", COUNTING)
def test_a_function_that_counts_pixels_is_noted(what):
    function, finding, way_out = COUNTING[what]
    told = [note for note in notes(function) if finding in note]
    assert told, notes(function)
    assert told[0].startswith("the model itself: ")
    assert way_out in told[0]


@pytest.mark.parametrize("what", HARMLESS)
def test_a_function_that_does_not_count_pixels_is_not_noted(what):
    assert notes(HARMLESS[what]) == []


@pytest.mark.parametrize("what", ["sum", "crop", "coordinates added", "sort"])
def test_nothing_is_noted_where_the_grid_keeps_its_size(what):
    if what == "crop":  # this one gives an image, for which absorbing has to be asked
        assert notes(COUNTING[what][0], mode="absorb") == []
    else:
        assert notes(lambda x: COUNTING[what][0](x).flatten(1).mean(1, keepdim=True), mode="auto") == []


def test_a_recurrence_along_a_growing_axis_is_noted():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.steps = nn.Conv1d(1, 4, 3, padding=1), nn.GRU(4, 4, batch_first=True)

        def forward(self, x):
            return self.steps(self.conv(x).transpose(1, 2))[0]

    large = rkt.rescale(Recurrent().eval(), 2, torch.zeros(1, 1, 16), mode="supersample", check=False)
    assert any("steps: gru takes one step for each position" in note for note in large.rekernel_plan.warnings)


class Table(nn.Module):
    """Adds as much of a table that it holds as the signal is long."""

    def __init__(self, read):
        super().__init__()
        self.conv, self.read = nn.Conv1d(1, 4, 3, padding=1), read
        self.register_buffer("table", torch.linspace(1, 2, 64))

    def forward(self, x):
        x = self.conv(x)
        return x * self.read(self.table, x.shape[-1])


@pytest.mark.parametrize(
    "read",
    [
        lambda table, n: table[:n],
        lambda table, n: table.narrow(0, 0, n),
        lambda table, n: table[None, 4 : n + 4],
    ],
)
def test_a_table_that_goes_on_where_it_should_become_finer_is_noted(read):
    larger = rkt.rescale(Table(read).eval(), 2, torch.zeros(1, 1, 16), mode="supersample", check=False)
    assert any(
        "reads 32 entries of a table that the model holds, instead of 16" in n for n in larger.rekernel_plan.warnings
    )


def test_functions_of_blocks_behind_a_table_of_positions_are_looked_at():
    """The module that owns the table is changed, and the blocks in it are not."""

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions, self.block = nn.Parameter(torch.randn(1, 16, 8)), Model(lambda x: x)
            self.block = nn.Sequential(Roll())

        def forward(self, x):
            return self.block(x + self.positions)

    class Roll(nn.Module):
        def forward(self, x):
            return x.roll(1, 1)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.blocks = nn.Conv2d(3, 8, 4, 4), Blocks()

        def forward(self, x):
            return self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1)

    larger = rkt.rescale(Tokens().eval(), 2, torch.zeros(1, 3, 16, 16), mode="supersample")
    assert any(note.startswith("blocks.block.0: roll by 1 of 64") for note in larger.rekernel_plan.warnings)


def test_class_tokens_may_be_cut_off_and_put_back():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.token = nn.Conv2d(1, 4, 3, padding=1), nn.Parameter(torch.zeros(1, 1, 4))

        def forward(self, x):
            grid = self.conv(x)
            x = torch.cat([self.token.expand(len(x), -1, -1), grid.flatten(2).transpose(1, 2)], 1)
            return x[:, 1:].transpose(1, 2).reshape(grid.shape) + x[:, :1].mT[..., None]

    large = rkt.rescale(Tokens().eval(), 2, torch.zeros(1, 1, 8, 8), mode="supersample", check=False)
    assert not large.rekernel_plan.warnings


def test_the_size_of_the_output_is_checked():
    function = COUNTING["crop"][0]
    assert any("the output has 26x26 pixels instead of 10x10, where 20x20" in note for note in notes(function))


def test_a_refusal_names_the_function_that_spoils_the_grid():
    class Valid(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.b(self.a(x)[..., 2:-2, 2:-2])

    with pytest.raises(RekernelError, match="cuts 2\\+2 of 32"):
        rkt.rescale(Valid(), 2, torch.zeros(1, 1, 16, 16), mode="supersample")
