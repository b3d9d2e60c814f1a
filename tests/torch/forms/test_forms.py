"""What both forms keep: weights, names, ties, dtypes, gradients; and that other tools can run them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel.torch as rkt  # noqa: E402

from ..conftest import GROWS  # noqa: E402

FORMS = ["dense", "factored"]


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, 2, 1, groups=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def test_factored_keeps_the_weight_objects_in_place_and_the_names_always() -> None:
    model = cnn()
    before = dict(model.named_parameters())
    keys = list(model.state_dict())
    aside = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), form="factored", **GROWS)
    assert list(aside.state_dict()) == keys
    aside.load_state_dict(model.state_dict())
    rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), form="factored", inplace=True, **GROWS)
    assert list(model.state_dict()) == keys
    for name, parameter in model.named_parameters():
        assert parameter is before[name], name


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 2, 3, 2, 1, padding_mode="reflect"), nn.Tanh(), nn.Conv1d(2, 1, 3)).double()
    weight = model[0].weight
    larger = rkt.rescale(model, 2, torch.zeros(1, 2, 12).double(), form=form, inplace=True, **GROWS)
    x = torch.randn(1, 2, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(larger, (x,))
    larger(x).sum().backward()
    assert (larger[0].weight is weight) == (form == "factored")
    assert larger[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_requires_grad_dtype_and_mode_are_kept(form: str) -> None:
    model = cnn().to(torch.bfloat16).train()
    model[0].requires_grad_(False)
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16, dtype=torch.bfloat16), form=form, **GROWS)
    assert not larger[0].weight.requires_grad
    assert not larger[0].bias.requires_grad
    assert larger[4].weight.requires_grad
    assert {p.dtype for p in larger.parameters()} == {torch.bfloat16}
    assert all(m.training for m in larger.modules())
    assert larger(torch.zeros(2, 3, 32, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_tied_weights_and_shared_modules_stay_so(form: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.b.weight = self.a.weight
            self.again = self.a

        def forward(self, x: Any) -> Any:
            return self.again(self.b(self.a(x)))

    model = Tied()
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), form=form, **GROWS)
    assert larger.a.weight is larger.b.weight
    assert larger.again is larger.a
    assert larger(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert larger.a.weight.shape[-1] == (3 if form == "factored" else 5)
    assert list(larger.state_dict()) == list(model.state_dict())


def test_a_weight_that_reads_the_image_and_features_gets_the_kernel_of_an_inner_layer() -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    larger = rkt.rescale(nn.Sequential(layer, nn.ReLU(), layer), 2, torch.zeros(1, 3, 8, 8))
    assert larger[0].weight is larger[2].weight
    assert {o.method for c in larger.rekernel_plan.changed for o in c.operators} == {"optimal"}
    assert not larger.rekernel_plan.warnings


def test_tied_weights_survive_a_file(tmp_path: Any) -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    rkt.save(rkt.rescale(model, 2, torch.zeros(1, 3, 8, 8), **GROWS), tmp_path / "tied.safetensors")
    with torch.device("meta"):
        layer = nn.Conv2d(3, 3, 3, padding=1)
        empty = nn.Sequential(layer, nn.ReLU(), layer)
    loaded = rkt.load(empty, tmp_path / "tied.safetensors")
    assert loaded[0].weight is loaded[2].weight
    assert loaded[0].weight.device.type == "cpu"


@pytest.mark.parametrize("form", FORMS)
def test_deep_copies_and_half_precision(form: str) -> None:
    larger = copy.deepcopy(rkt.rescale(cnn(), 2, torch.zeros(1, 3, 16, 16), form=form, **GROWS)).half()
    assert larger(torch.zeros(1, 3, 32, 32, dtype=torch.float16)).isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_compile(form: str) -> None:
    larger = rkt.rescale(cnn(), 2, torch.zeros(1, 3, 16, 16), form=form, **GROWS)
    x = torch.randn(1, 3, 32, 32)
    compiled = torch.compile(larger, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), larger(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compile_with_inductor(form: str) -> None:
    larger = rkt.rescale(cnn(), 2, torch.zeros(1, 3, 16, 16), form=form, **GROWS)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(torch.compile(larger, fullgraph=True)(x), larger(x), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_export_of_a_cnn(form: str) -> None:
    larger = rkt.rescale(cnn(), 2, torch.zeros(1, 3, 16, 16), form=form, **GROWS)
    x = torch.randn(1, 3, 32, 32)
    program = torch.export.export(larger, (x,))
    with torch.no_grad():
        assert torch.allclose(program.module()(x), larger(x), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_export_of_a_unet(form: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    small = (torch.zeros(1, 3, 16, 16), torch.tensor([10.0]))
    larger = rkt.rescale(model, 2, small, form=form, **GROWS)
    x = torch.randn(1, 3, 32, 32)
    program = torch.export.export(larger, (x, small[1]))
    with torch.no_grad():
        assert torch.allclose(program.module()(x, small[1]).sample, larger(x, small[1]).sample, atol=1e-5)
