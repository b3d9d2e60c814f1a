"""Networks that write an image from a vector: the grid begins behind a linear layer, and grows there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402
from rekernel import RekernelError  # noqa: E402
from rekernel.torch.tracing.run import trace  # noqa: E402


def bump(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """A transposed convolution of smooth kernels, as trained ones are: a random one draws checkerboards."""
    layer = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    taps = torch.tensor([1.0, 3, 3, 1])
    layer.weight.data = torch.randn(inputs, outputs, 1, 1) * inputs**-0.5 * torch.outer(taps, taps) / 16
    return layer


class Generator(nn.Module):
    """Linear -> (16, 8, 8) -> 32x32, the pixels made in one of the ways people write."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.read = nn.Linear(10, 16 * 8 * 8)
        # Smooth, as trained rows are; of white noise there is nothing to interpolate (.178 against .203 and .179).
        rows = nn.functional.interpolate(torch.randn(10, 16, 3, 3), size=(8, 8), mode="bicubic")
        rows = rows.permute(0, 2, 3, 1) if how == "last" else rows
        self.read.weight.data = rows.reshape(10, -1).T.contiguous()
        self.norm = nn.BatchNorm1d(16 * 8 * 8) if how == "norm" else nn.Identity()
        shape = (8, 8, 16) if how == "last" else (16, 8, 8)
        self.shape = nn.Unflatten(1, shape) if how in ("unflatten", "norm", "last") else nn.Identity()
        self.body = nn.Sequential(
            nn.BatchNorm2d(16), nn.ReLU(), bump(16, 16), nn.ReLU(), bump(16, 8), nn.ReLU(),
            nn.Conv2d(8, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, z: Any) -> Any:
        x = self.shape(self.norm(self.read(z)).relu())
        if self.how == "view":
            x = x.view(-1, 16, 8, 8)
        return self.body(x.permute(0, 3, 1, 2) if self.how == "last" else x)


Z = torch.zeros(1, 10)
WAYS = ("unflatten", "last", "view", "norm")


class Enlarged(nn.Module):
    """The rival: the first grid enlarged by hand, each kernel as it was."""

    def __init__(self, model: Generator) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Any) -> Any:
        x = self.model.shape(self.model.read(z).relu())
        return self.model.body(nn.functional.interpolate(x, scale_factor=2, mode="bicubic"))


@pytest.mark.parametrize("how", WAYS)
def test_the_image_grows_where_the_linear_layer_writes_it(how: str, tmp_path: Any) -> None:
    model = Generator(how).eval()
    larger = rkt.rescale(model, 2, Z)
    z = torch.randn(16, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert larger(z).shape == (16, 3, 64, 64)
    # Rows that are interpolated where the model says its own grid, else the grid where it is first read.
    kinds = {c.name: c.kind for c in larger.rekernel_plan.changed}
    by_rows = how in ("unflatten", "last")
    assert (kinds.get("read.weight"), kinds.get("read.bias")) == (("linear-out",) * 2 if by_rows else (None, None))
    assert [m.kind for m in larger.rekernel_plan.modules] == ["unflatten" if by_rows else "enlarge"]
    assert rkt.equivariance_error(model, larger, z) < 0.1
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(Generator(how).eval(), tmp_path / "out.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded(z), larger(z))
        assert torch.equal(rkt.rescale(model, 1, Z)(z), model(z))
    assert trace(model, [Z], shape_only=True) == trace(model, [Z], shape_only=False)


def test_better_than_dilated_and_untouched_kernels_on_an_enlarged_grid() -> None:
    model = Generator("unflatten").eval()
    z = torch.randn(16, 10, generator=torch.Generator().manual_seed(1))
    ours = rkt.equivariance_error(model, rkt.rescale(model, 2, Z), z)
    dilated = rkt.equivariance_error(model, rkt.rescale(model, 2, Z, method="dilate"), z)
    untouched = rkt.equivariance_error(model, Enlarged(model).eval(), z, size=())
    assert ours < min(dilated, untouched) / 2  # .066 against .193 and .207


def test_rows_are_values_on_their_grid() -> None:
    """The larger layer writes the interpolated image of the smaller one, bias included."""
    for how in ("unflatten", "last"):
        model = Generator(how)
        larger = rkt.rescale(model, 2, Z, method="nearest")
        z = torch.randn(4, 10)
        small, large = model.shape(model.read(z)), larger.shape(larger.read(z))
        axes = (1, 2) if how == "last" else (2, 3)
        for axis in axes:
            small = small.repeat_interleave(2, axis)
        assert torch.allclose(large, small, atol=1e-6)


def test_modes_and_excludes_leave_the_grid() -> None:
    model = Generator("unflatten")
    still = rkt.rescale(model, 2, Z, modes={"read": "absorb"})
    assert not still.rekernel_plan.changed
    left = rkt.rescale(model, 2, Z, exclude=["read.weight"])
    assert "read.weight: writes a grid of 8x8 pixels that stays as it is (not selected)" in "".join(
        left.rekernel_plan.warnings
    )
    assert left(Z).shape == model(Z).shape


def test_a_grid_read_by_a_functional_call_stays_and_is_named() -> None:
    class Functional(Generator):
        def forward(self, z: Any) -> Any:
            return self.body(nn.functional.interpolate(self.read(z).view(-1, 16, 8, 8), scale_factor=2))

    larger = rkt.rescale(Functional("view"), 2, Z)
    assert "stays as it is (a functional call reads it)" in "".join(larger.rekernel_plan.warnings)
    assert larger(Z).shape == (1, 3, 64, 64)  # as before


class Autoencoder(nn.Module):
    """Image to vector to image; `single` has one linear layer for both ways."""

    def __init__(self, single: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Flatten())
        sizes = [16 * 8 * 8] if single else [16 * 8 * 8, 12]
        self.middle = nn.Sequential(*(nn.Linear(n, m) for n, m in zip(sizes, [*sizes[1:], 1024], strict=True)))
        self.up = nn.Sequential(nn.Unflatten(1, (16, 8, 8)), bump(16, 8), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x: Any) -> Any:
        return self.up(self.middle(self.down(x)))


@pytest.mark.parametrize("single", [False, True])
def test_autoencoders_absorb_at_the_flatten_and_grow_again(check: Any, single: bool) -> None:
    errors = check.architecture(lambda: Autoencoder(single), 3, (16, 16), prepare=smoothed)
    assert errors.untouched is None
    assert errors.dense < errors.dilated
    assert errors.dense < 0.35


def smoothed(model: Any) -> None:
    model.up[1].weight.data = bump(16, 8).weight.data


def test_a_squeeze_and_excitation_begins_no_grid() -> None:
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            x = self.conv(x)
            return self.last(x * self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None])

    seen = trace(Excited(), [torch.zeros(2, 3, 16, 16)])
    assert [c.kind for c in seen.calls] == ["conv", "conv"]
    assert seen.calls[1].sources == {1}


def test_a_recipe_that_enlarges_beyond_reason_is_refused() -> None:
    plan = rkt.rescale(Generator("view"), 2, Z).rekernel_plan
    module = plan.modules[0]
    huge = tuple(replace(g, kernel=10**9) for g in module.new_geometry)
    model = Generator("view")
    with pytest.raises(RekernelError, match="cannot be enlarged"):
        rkt.apply_plan(model, replace(plan, modules=(replace(module, new_geometry=huge),)))
    assert not model.body[2]._forward_pre_hooks


def test_transposed_forms_of_a_generator_agree() -> None:
    model = Generator("view").double().eval()
    z = torch.randn(4, 10, dtype=torch.float64)
    dense = rkt.rescale(model, 2, Z.double(), method="optimal-filter")
    factored = rkt.rescale(model, 2, Z.double(), form="factored", method="optimal")
    with torch.no_grad():
        assert (dense(z) - factored(z)).abs().max() < 1e-10
    assert "so it is dense" not in "".join(factored.rekernel_plan.warnings)
