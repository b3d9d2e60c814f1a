"""One rescaling by every engine: torch in `rescale`, NumPy in the conversion of a file and of an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

from ..numeric import assert_bits, assert_ulps  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
RESCALED = {"0.weight", "2.weight", "4.weight"}
DTYPES = ("float64", "float32", "float16", "bfloat16")
EXACT = (("dilate", 2), ("dilate", 3), ("nearest", 2), ("nearest", 4))
SUMS = (("linear", 2), ("cubic", 1.5), ("optimal", 2), ("optimal", 4), ("lanczos3", 2), ("nearest", 3))


def network(dtype: str) -> nn.Sequential:
    """Layers of odd and even kernels with strides, and kept ones; of its kernels some have huge and tiny values."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 6, 4, 2, 1), nn.Conv2d(6, 5, 1),
        nn.Conv2d(5, 4, 7, 2, 3),
    ).to(torch.float64)  # fmt: skip
    with torch.no_grad():
        model[0].weight[0] *= 1e-6  # subnormal in float16
        model[2].weight[:, 1] *= 1000
        model[4].weight[1] = -model[4].weight[1].abs()  # a sum of negative zeros is a zero
    return model.eval().to(getattr(torch, dtype))


def example(model: nn.Module) -> Any:
    return torch.zeros(1, 3, 48, 48, dtype=next(model.parameters()).dtype)


def by_torch(model: nn.Module, **options: Any) -> dict[str, Any]:
    options = {"mode": "supersample", "form": "dense", **options}
    larger = rkt.rescale(model, x := options.pop("scale"), example(model), **options)
    assert {c.name for c in larger.rekernel_plan.changed} == RESCALED, x
    return {name: value.detach() for name, value in larger.state_dict().items()}


def by_file(model: nn.Module, folder: Path, **options: Any) -> dict[str, Any]:
    save_file(model.state_dict(), folder / "in.safetensors")
    hints = rk.Hints(stride={"0": 2, "2": 2, "4": 2}, padding={"0": 1, "2": 1, "4": 3})
    options |= {"mode": "supersample", "include": ["[024].weight"]}
    rk.convert(folder / "in.safetensors", folder / "out.safetensors", hints=hints, **options)
    return load_file(folder / "out.safetensors")


def by_onnx(model: nn.Module, folder: Path, *, scale: float, method: str) -> dict[str, Any]:
    onnx = pytest.importorskip("onnx")
    torch.onnx.export(model, (example(model),), folder / "in.onnx", dynamo=False, verbose=False)
    options = ["--scale", str(scale), "--method", method, "--mode", "supersample"]
    run = CliRunner().invoke(main, ["convert", str(folder / "in.onnx"), str(folder / "out.onnx"), *options])
    assert run.exit_code == 0, run.output
    found = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "out.onnx").graph.initializer}
    return {name: torch.from_numpy(value.copy()) for name, value in found.items()}


@pytest.mark.parametrize(("method", "scale"), EXACT)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_only_copied_or_halved_is_equal_to_the_bit_by_every_engine(dtype, method, scale, tmp_path):
    model = network(dtype)
    traced = by_torch(model, scale=scale, method=method)
    converted = by_file(model, tmp_path, scale=scale, method=method)
    assert converted.keys() == traced.keys()
    for name, value in traced.items():
        assert_bits(converted[name], value, name)
    if dtype != "bfloat16":  # ONNX has no convolution in it
        traced = by_torch(model, scale=scale, method=method, form="plain")  # a dilated layer keeps its weights
        for name, value in by_onnx(model, tmp_path, scale=scale, method=method).items():
            if name in traced:
                assert_bits(value, traced[name], name)


@pytest.mark.parametrize("method", ["dilate", "nearest"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_only_copied_or_halved_is_the_old_value_itself(dtype, method):
    """Against the definition, which adds up nothing: no engine's sum takes part. A negative zero becomes a zero."""
    model = network(dtype)
    old, new = model.state_dict(), by_torch(model, scale=2, method=method)
    for name in RESCALED:
        inside, value = new[name], old[name] + 0.0
        if method == "dilate":
            assert_bits(inside[..., ::2, ::2], value, name)
        else:
            quarter = (value.double() / 4).to(value.dtype)
            rim = (inside.shape[-1] - 2 * value.shape[-1]) // 2
            inside = inside[..., rim:-rim, rim:-rim]
            assert_bits(inside, quarter.repeat_interleave(2, -1).repeat_interleave(2, -2), name)
        assert torch.count_nonzero(new[name]) == torch.count_nonzero(inside)  # zeros around it and nothing else
    kept = [name for name in old if name not in RESCALED]
    assert {"0.bias", "1.weight", "3.weight"} <= set(kept)
    for name in kept:
        assert_bits(new[name], old[name], name)


@pytest.mark.parametrize(("method", "scale"), SUMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_agree_to_units_in_the_last_place(dtype, method, scale, tmp_path):
    model = network(dtype)
    traced = by_torch(model, scale=scale, method=method)
    converted = by_file(model, tmp_path, scale=scale, method=method)
    for name, value in traced.items():
        (assert_ulps if name in RESCALED else assert_bits)(converted[name], value, what=name)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_nearest_values_on_a_grid_are_copies(grid, dtype, scale):
    table = torch.randn(1, grid[0] * grid[1], 8, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    image = table.reshape(1, *grid, 8)
    matrices = {
        axis: rk.grid_operator(n, scale * n, "nearest", gain="none") for axis, n in zip((1, 2), grid, strict=True)
    }
    wanted = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    assert_bits(rk.resample(image, matrices), wanted)
    if dtype != "bfloat16":
        assert_bits(rk.resample(image.numpy(), matrices), wanted)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (8, 8, 3, 3, 3), (64, 32, 3, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nearest_whose_new_taps_lie_between_two_old_ones(dtype, shape):
    """An odd kernel without phase: such a tap is a mean of two, taken axis by axis: no order of sums matters."""
    w = np.random.default_rng(0).normal(size=shape).astype(dtype)
    assert (rk.kernel_operator(shape[-1], 2, "nearest") != 0).sum(axis=1).max() == 2
    assert_bits(rk.resample_conv(torch.tensor(w), 2, "nearest"), rk.resample_conv(w, 2, "nearest"))
