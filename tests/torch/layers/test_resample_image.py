"""Resampling the image in front of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.torch.layers.resample_image import Resample  # noqa: E402


def test_a_pass_with_fake_tensors_leaves_none_behind() -> None:
    """The second trace of `rescale` may compute nothing; what it cached must not reach the user's images."""
    resample = Resample((2.0, 2.0), "area")
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(resample.reduced(torch.zeros(1, 1, 74, 74)), FakeTensor)
    assert resample.reduced(torch.ones(1, 1, 74, 74)).sum().item() == pytest.approx(37 * 37)


CONVS: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS: Any = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


def classifier(dims: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(CONVS[dims - 1](3, 4, 3, padding=1), nn.ReLU(), POOLS[dims - 1](1), nn.Flatten()).eval()


def watched(model: Any) -> list[tuple[int, ...]]:
    """Sizes of the images that the network itself is given."""
    seen: list[tuple[int, ...]] = []
    model[0].register_forward_pre_hook(lambda _m, args: seen.append(tuple(args[0].shape[2:])))
    return seen


@pytest.mark.parametrize("mode", ["auto", "absorb"])
@pytest.mark.parametrize(("size", "scale", "new"), [
    ((224, 224), 0.4, (90, 90)), ((32, 32), 0.3, (10, 10)), ((30, 30), 0.35, (11, 11)), ((32, 32), 0.05, (2, 2)),
    ((33, 20), 0.45, (15, 9)), ((7, 5), 1.3, (9, 7)), ((30, 32), (0.35, 1.5), (11, 48)), ((45,), 0.07, (3,)),
    ((12, 10, 9), 0.45, (5, 5, 4)),
], ids=str)  # fmt: skip
def test_an_image_of_the_new_size_becomes_one_of_the_trained_size(
    size: Any, scale: Any, new: Any, mode: str, tmp_path: Path
) -> None:
    dims = len(size)
    model = classifier(dims)
    larger = rkt.rescale(model, scale, torch.zeros(1, 3, *size), mode=mode)
    assert larger.rekernel_plan.resamples
    assert larger.rekernel_plan.checked.startswith("exact")
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(classifier(dims), tmp_path / "out.safetensors")
    x = torch.randn(2, 3, *new)
    for found in (larger, loaded):
        seen = watched(found)
        small = x
        for axis, (n, m) in enumerate(zip(size, new, strict=True), 2):  # an independent way to the same image
            method = larger.rekernel_plan.modules[0].method
            matrix = torch.from_numpy(rk.grid_operator(m, n, method, gain="none")).float()
            small = torch.tensordot(small, matrix, ([axis], [1])).movedim(-1, axis)
        with torch.no_grad():
            assert torch.allclose(found(x), model(small), atol=1e-5)
        assert seen == [size]


def test_other_sizes_go_back_in_the_same_ratio() -> None:
    larger = rkt.rescale(classifier(), 0.4, torch.zeros(1, 3, 224, 224))
    seen = watched(larger)
    for n in (90, 180, 45, 89, 91):
        larger(torch.zeros(1, 3, n, 90))
    assert seen == [(224, 224), (448, 224), (112, 224), (222, 224), (226, 224)]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_file_that_was_converted_by_names_resamples_every_axis_behind_the_channels(dims: int, tmp_path: Path) -> None:
    """No name tells how many axes an image has: a volume of 24 frames was left with 24 frames."""
    save_file(classifier(dims).state_dict(), tmp_path / "in.safetensors")
    layout = {"layout": {"0": "OIW"}} if dims == 1 else {}
    target = tmp_path / "out.safetensors"
    rk.convert(tmp_path / "in.safetensors", target, scale=1.5, mode="absorb", hints=rk.Hints(**layout))
    loaded = rkt.load(classifier(dims), tmp_path / "out.safetensors")
    seen = watched(loaded)
    loaded(torch.zeros(1, 3, *[24] * dims))
    assert seen == [(16,) * dims]


def test_a_conversion_by_names_says_that_it_does_not_know_the_trained_size(tmp_path: Path) -> None:
    save_file(classifier().state_dict(), tmp_path / "in.safetensors")
    plan = rk.plan_checkpoint(tmp_path / "in.safetensors", scale=0.4, mode="absorb")
    assert any("No name tells that size" in note and "rekernel.torch.rescale" in note for note in plan.warnings)
    plan = rk.plan_checkpoint(tmp_path / "in.safetensors", scale=1.5, mode="absorb")
    assert plan.resamples
    assert not any("No name tells that size" in note for note in plan.warnings)  # 1.5 leads back to every size


@pytest.mark.parametrize("change", [
    lambda m: replace(m, geometry=m.geometry[:1]),
    lambda m: replace(m, geometry=(replace(m.geometry[0], kernel=0), m.geometry[1])),
    lambda m: replace(m, new_geometry=tuple(replace(g, kernel=8) for g in m.new_geometry)),
    lambda m: replace(m, geometry=m.geometry * 2, new_geometry=m.new_geometry * 2),
], ids=["one axis", "no pixel", "another size", "four axes"])  # fmt: skip
def test_a_plan_whose_sizes_do_not_fit_its_scale_is_refused(change: Any) -> None:
    plan = rkt.rescale(classifier(), 1.5, torch.zeros(1, 3, 16, 16)).rekernel_plan
    model = classifier()
    with pytest.raises(rk.RekernelError, match=r"which does not fit its scale of 1\.5x1\.5; plan again"):
        rkt.apply_plan(model, replace(plan, modules=(change(plan.modules[0]),)))
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("mode", ["auto", "absorb", "supersample"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_empty_batch_is_refused_in_words(mode: str, dims: int) -> None:
    model = nn.Sequential(CONVS[dims - 1](3, 4, 3, padding=1), CONVS[dims - 1](4, 3, 3, padding=1))
    with pytest.raises(rk.RekernelError, match=r"^example_input: a tensor of shape 0x3x8.* holds no picture; pass a b"):
        rkt.rescale(model, 2, torch.zeros(0, 3, *[8] * dims), mode=mode)
