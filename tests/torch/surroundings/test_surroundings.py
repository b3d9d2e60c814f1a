"""Settings of torch around a call change no weight, and what a call makes is as good as any other tensor."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import parametrizations  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402


@contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(precision)
    try:
        yield
        assert torch.get_float32_matmul_precision() == precision  # the caller's setting is back
    finally:
        torch.set_float32_matmul_precision("highest")


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "meta by default": lambda: default_device("meta"),
    "in a block of meta": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "deterministic": deterministic,
    "fast products": lambda: matmul_precision("medium"),
}


class Net(nn.Module):
    """A patch embedding with positions, a normed convolution, a pooling, and a layer that reads pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.made = parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.old, self.read = nn.Conv2d(8, 4, 5, padding=2), nn.Linear(4 * 4 * 4, 3)
        self.patch, self.positions = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.randn(1, 16, 4))

    def forward(self, x: Any) -> Any:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.positions
        rows = torch.arange(x.shape[-1] // 4).sum()  # code that makes tensors of its own
        y = self.old(self.pool(F.relu(self.made(self.norm(self.conv(x))))))
        return self.read(y.flatten(1)) + tokens.mean((1, 2), keepdim=True)[..., 0] + 0 * rows


def built() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


X = torch.zeros(1, 3, 16, 16)
GROWS = {"mode": "supersample", "method": "cubic"}


def same(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def trains(model: nn.Module, size: int = 32) -> None:
    """Every parameter gets a gradient and a step, so none is an inference tensor."""
    for name, tensor in model.named_parameters():
        assert not tensor.is_inference(), name
    for name, tensor in model.named_buffers():
        assert not tensor.is_inference(), name
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(2, 3, size, size)).square().sum().backward()
    optimiser.step()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("around", SURROUNDINGS)
@pytest.mark.parametrize("options", [
    {}, GROWS, {**GROWS, "form": "factored"}, {"mode": "supersample", "form": "dense"}, {"mode": "absorb"},
], ids=str)  # fmt: skip
def test_rescaled_weights_are_the_same_and_can_be_trained(around: str, options: Any) -> None:
    model = built()
    plain = rkt.rescale(model, 2, X, **options)
    before = copy.deepcopy(model.state_dict())
    with SURROUNDINGS[around]():
        got = rkt.rescale(model, 2, X, **options)
    same(got, plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    trains(got)


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_a_plan_and_a_file_give_the_same(around: str, tmp_path: Path) -> None:
    plain = rkt.rescale(built(), 2, X, **GROWS)
    plan = plain.rekernel_plan
    model, empty = built(), built()
    baked = rkt.rescale(model, 1, X)  # without the parametrisation
    with torch.device("meta"):
        nowhere = Net().eval()
    with SURROUNDINGS[around]():
        applied = rkt.apply_plan(baked, plan)
        rkt.save(plain, tmp_path / "out.safetensors")
        loaded = rkt.load(empty, tmp_path / "out.safetensors")
        arrived = rkt.load(nowhere, tmp_path / "out.safetensors")
    for one in (applied, loaded, arrived):
        same(one, plain)
    trains(loaded)
    trains(arrived)


@pytest.mark.parametrize("around", SURROUNDINGS)
def test_new_statistics_and_measures_are_the_same(around: str) -> None:
    model = built()
    larger = rkt.rescale(model, 2, X)
    batches = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    x = batches[0]
    plain = copy.deepcopy(larger)
    rkt.recalibrate(plain, batches)
    measured = rkt.equivariance_error(model, larger, x), rkt.shift_sensitivity(model, x, size=(16, 16)).change
    errors = [layer.error for layer in rkt.layer_errors(model, larger, x, (16, 16))]
    with SURROUNDINGS[around]():
        shift = rkt.shift_sensitivity(model, x, size=(16, 16)).change
        assert (rkt.equivariance_error(model, larger, x), shift) == measured
        assert [layer.error for layer in rkt.layer_errors(model, larger, x, (16, 16))] == errors
        assert rkt.total_stride(model, X) == rkt.total_stride(model, X)
        rkt.recalibrate(larger, batches)
    same(larger, plain)


@pytest.mark.parametrize("around", ["autocast", "fast products", "bfloat16 by default"])
def test_single_tensors_are_resampled_the_same(around: str) -> None:
    w = torch.randn(64, 32, 3, 3)
    plain = rk.resample_conv(w, 2), rk.resample_linear(w.flatten(1), (32, 3, 3), (32, 6, 6))
    with SURROUNDINGS[around]():
        got = rk.resample_conv(w, 2), rk.resample_linear(w.flatten(1), (32, 3, 3), (32, 6, 6))
    assert all(map(torch.equal, got, plain))


def test_a_model_that_was_built_in_inference_mode_is_rescaled_to_one_that_trains() -> None:
    with torch.inference_mode():
        model = built()
    trains(rkt.rescale(model, 2, X))


def test_an_image_resampled_in_front_is_differentiable_after_inference() -> None:
    """What was computed once for the first image does not remember the mode it was computed in."""
    model = rkt.rescale(nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, padding_mode="reflect"), nn.AdaptiveAvgPool2d(1)), 2, X)
    assert model.rekernel_plan.modules[0].kind == "resample"
    with torch.inference_mode():
        model(torch.randn(1, 3, 34, 34))
    x = torch.randn(1, 3, 34, 34, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("options", [{}, GROWS, {**GROWS, "form": "factored"}], ids=str)
def test_channels_stay_last_in_memory(options: Any, tmp_path: Path) -> None:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    larger = rkt.rescale(model, 2, X, **options)
    plain = rkt.rescale(nn.Sequential(*layers).to(memory_format=torch.contiguous_format), 2, X, **options)
    model.to(memory_format=torch.channels_last)
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(copy.deepcopy(model), tmp_path / "out.safetensors")
    for one in (larger, loaded):
        for name, tensor in one.named_parameters():
            if tensor.ndim == 4:
                assert tensor.is_contiguous(memory_format=torch.channels_last), name
        same(one, plain)
    volume = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1)).to(memory_format=torch.channels_last_3d)
    larger = rkt.rescale(volume, 2, torch.zeros(1, 3, 8, 8, 8))
    assert larger[0].weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("form", ["plain", "dense", "factored"])
def test_flags_of_training_and_of_gradients_stay(form: str, tmp_path: Path) -> None:
    model = built()
    model.train()
    model.norm.eval()
    model.made.requires_grad_(False)
    model.old.weight.requires_grad_(False)
    model.read.bias.requires_grad_(False)
    larger = rkt.rescale(model, 2, X, **GROWS, form=form)
    assert {name for name, m in larger.named_modules() if not m.training} == {"norm"}
    frozen = {name for name, p in larger.named_parameters() if not p.requires_grad}
    assert frozen == {"made.weight", "made.bias", "old.weight", "read.bias"}
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(copy.deepcopy(model), tmp_path / "out.safetensors")
    assert {name for name, p in loaded.named_parameters() if not p.requires_grad} == frozen
    assert {name for name, m in loaded.named_modules() if not m.training} == {"norm"}
