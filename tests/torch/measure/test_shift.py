"""`rkt.shift_sensitivity` and `rkt.total_stride` on networks whose answer to a moved picture is known."""

import pytest
import torch
from torch import nn

import rekernel.torch as rkt
from rekernel import RekernelError


def pictures(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def circular(stride=1, dims=2):
    """Convolutions that wrap around and global pooling: exactly shift-invariant where the stride is 1."""
    torch.manual_seed(0)
    conv, norm = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1], (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    return nn.Sequential(
        conv(2, 4, 3, stride, padding=1, padding_mode="circular"), norm(4), nn.ReLU(),
        conv(4, 5, 3, padding=1, padding_mode="circular"), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(5, 3),
    )  # fmt: skip


class OnePixel(nn.Module):
    """A classifier that reads the pixel in row 2 and column 5 alone: its sign is the class."""

    def forward(self, x):
        value = x[:, 0, 2, 5]
        return torch.stack([value, -value], 1)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_invariant_network_does_not_change(dims):
    model = circular(dims=dims).double().train()
    found = rkt.shift_sensitivity(model, pictures(6, 2, *(8, 9, 10)[:dims]).double(), 3)
    assert found.change < 1e-14 and found.agreement == 1
    assert [(shift.axis, shift.pixels) for shift in found.shifts] == [(a, s) for a in range(dims) for s in (3, -3)]
    assert model.training  # it was measured in evaluation mode, and is back in training


def test_a_strided_network_changes_unless_the_shift_is_its_stride():
    model, x = circular(stride=2).double(), pictures(6, 2, 8, 8).double()
    assert rkt.shift_sensitivity(model, x, 1).change > 1e-3
    assert rkt.shift_sensitivity(model, x, 2).change < 1e-14
    along = rkt.shift_sensitivity(model, x, (2, 1))
    assert [shift.change < 1e-14 for shift in along.shifts] == [True, True, False, False]


def test_a_network_that_reads_one_pixel_answers_for_its_neighbour():
    x = pictures(200, 1, 8, 8)
    found = rkt.shift_sensitivity(OnePixel(), x)
    for shift, neighbour in zip(
        found.shifts, [x[:, 0, 1, 5], x[:, 0, 3, 5], x[:, 0, 2, 4], x[:, 0, 2, 6]], strict=True
    ):
        read = x[:, 0, 2, 5]
        assert shift.agreement == pytest.approx(float((neighbour.sign() == read.sign()).double().mean()))
        assert shift.change == pytest.approx(float((neighbour - read).norm() / read.norm()), rel=1e-5)
    assert found.agreement == pytest.approx(sum(shift.agreement for shift in found.shifts) / 4)
    assert 0.3 < found.agreement < 0.7 and 1.2 < found.change < 1.6


def test_pictures_larger_than_the_network_move_by_parts_of_its_pixels():
    x = pictures(50, 1, 16, 16)
    found = rkt.shift_sensitivity(OnePixel(), x, 0.5, size=(8, 8))
    read, moved = (part[:, 0, 2, 5] for part in (rkt.reduce_grid(y, (8, 8)) for y in (x, torch.roll(x, 1, 2))))
    assert found.shifts[0].change == pytest.approx(float((moved - read).norm() / read.norm()), rel=1e-5)
    whole = rkt.shift_sensitivity(OnePixel(), x, 1, size=(8, 8))
    alone = rkt.shift_sensitivity(OnePixel(), rkt.reduce_grid(x, (8, 8)), 1)
    assert whole.change == pytest.approx(alone.change, rel=1e-5)
    with pytest.raises(
        RekernelError, match=r"pixels=0.25 is 0.5 pixels of an axis of x that has 16 .*trained size is 8"
    ):
        rkt.shift_sensitivity(OnePixel(), x, 0.25, size=(8, 8))


def test_a_grid_is_compared_after_it_moved_along():
    torch.manual_seed(0)
    x = pictures(2, 2, 8, 8).double()
    same = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.ReLU()).double()
    found = rkt.shift_sensitivity(same, x, 3)
    assert found.change < 1e-14 and found.agreement is None and found.note == ""
    halved = nn.Sequential(same, nn.Conv2d(3, 2, 2, stride=2)).double()
    assert rkt.shift_sensitivity(halved, x, 2).change < 1e-14
    found = rkt.shift_sensitivity(halved, x, 1)
    assert found.change is None and found.agreement is None
    assert found.note == "a shift by 1 of 8 pixels moves an output of 4 by 0.5"
    enlarged = nn.Sequential(same, nn.Upsample(scale_factor=2)).double()
    assert rkt.shift_sensitivity(enlarged, x, 1).change < 1e-14
    there_and_back = nn.Sequential(halved, nn.Upsample(scale_factor=2)).double()
    assert rkt.shift_sensitivity(there_and_back, x, 2).change < 1e-14
    assert rkt.shift_sensitivity(there_and_back, x, 1).change > 0.1  # its inner stride shows, though its output's is 1


def test_a_picture_reduced_to_one_pixel_is_no_grid_and_other_answers_are_compared_as_they_are():
    pooled = circular()[:6]
    found = rkt.shift_sensitivity(pooled, pictures(3, 2, 8, 8))
    assert found.change < 1e-6 and found.agreement == 1
    tokens = nn.Sequential(nn.Conv2d(2, 3, 2, 2), nn.Flatten(2))
    assert rkt.shift_sensitivity(tokens, pictures(3, 2, 8, 8)).agreement is None

    class Named(nn.Module):
        def forward(self, x):
            return {"logits": OnePixel()(x), "features": x}

    x = pictures(20, 1, 8, 8)
    assert rkt.shift_sensitivity(Named(), x).change == rkt.shift_sensitivity(OnePixel(), x).change


class Silent(nn.Module):
    def forward(self, x):
        return "nothing"


@pytest.mark.parametrize(
    ("model", "x", "options", "words"),
    [
        (OnePixel(), pictures(2, 8), {}, "without a spatial axis"),
        (OnePixel(), pictures(2, 1, 8, 8), {"pixels": 8}, "between 1 and 7"),
        (OnePixel(), pictures(2, 1, 8, 8), {"pixels": 1.5}, "pixels=1.5 is 1.5 pixels"),
        (OnePixel(), pictures(2, 1, 8, 8), {"pixels": (1, 1, 1)}, "3 entries for 2 spatial axes"),
        (OnePixel(), pictures(2, 1, 8, 8), {"size": (9, 8)}, r"size=\(9, 8\) is not a size to which x"),
        (circular(), pictures(2, 1, 8, 8), {}, r"\(Sequential\) does not run on inputs .*trained size, or size="),
        (Silent(), pictures(2, 1, 8, 8), {}, "Silent returned no tensor"),
    ],
)
def test_what_cannot_be_measured_is_said(model, x, options, words):
    with pytest.raises(RekernelError, match=words):
        rkt.shift_sensitivity(model, x, **options)


def test_the_total_stride_is_that_of_the_coarsest_grid():
    x = torch.zeros(1, 2, 14, 14)
    assert rkt.total_stride(circular(), x) == (1, 1)
    assert rkt.total_stride(circular(stride=2), x) == (2, 2)
    layers = [nn.Conv2d(2, 2, 3, 2, 1) for _ in range(3)]  # grids of 7, 4 and 2 pixels: 14/2 is not the stride
    assert rkt.total_stride(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), x) == (8, 8)
    assert rkt.total_stride(nn.Sequential(nn.Conv2d(2, 2, 3, (1, 2), 1), nn.MaxPool2d(2)), x) == (2, 4)
    there = nn.Sequential(nn.Conv2d(2, 2, 2, 2), nn.ConvTranspose2d(2, 2, 2, 2), nn.Conv2d(2, 2, 2, 2))
    assert rkt.total_stride(there, x) == (2, 2)
    assert rkt.total_stride(nn.Sequential(layers[0], nn.AvgPool2d(7)), x) == (2, 2)  # pooling over all is no grid

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 1, 2)

        def forward(self, x):
            return self.inner(x) + self.outer(x)

    assert rkt.total_stride(nn.Sequential(Skip(), Skip()), torch.zeros(1, 2, 16, 16)) == (4, 4)

    class ByHand(nn.Module):
        """A padding of its own and a pooling that is a function, as in TensorFlow's networks."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 5)

        def forward(self, x):
            return nn.functional.max_pool2d(self.conv(nn.functional.pad(x, (2, 2, 2, 2))), 2)

    # The padded grids of the third are 3 + 4 pixels for 3, which is no stride of 2.
    assert rkt.total_stride(nn.Sequential(ByHand(), ByHand(), ByHand()), x) == (4, 4)


def test_a_supersampled_network_sees_the_picture_moved_by_half_its_total_stride():
    """The identity behind the measure, at 2x: the answer is the mean of the original's answers to moved pictures."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, padding=1, padding_mode="circular"), nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2, padding=1, padding_mode="circular"), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double().eval()  # fmt: skip
    small = torch.zeros(1, 2, 16, 16).double()
    larger = rkt.rescale(model, 2, small, mode="supersample", method="dilate", reading_filter="area")
    x, stride = pictures(3, 2, 32, 32).double(), rkt.total_stride(model, small)[0]

    moved = [torch.roll(x, (-q * stride, -r * stride), (2, 3)) for q in (0, 1) for r in (0, 1)]
    with torch.no_grad():
        expected = sum(model(rkt.reduce_grid(p, (16, 16))) for p in moved) / 4
        torch.testing.assert_close(larger(x), expected, rtol=1e-12, atol=1e-12)
