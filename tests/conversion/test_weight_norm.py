"""A weight norm in a file: the kernel that its two tensors make is the resampled one, or both stay and are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rekernel as rk
from rekernel import RekernelError

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import rekernel.torch as rkt  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
NORMS = {"hook": nn.utils.weight_norm, "parametrisation": parametrizations.weight_norm}
PARTS = {"hook": ("weight_g", "weight_v")}
PARTS["parametrisation"] = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def written(path: Path, layer: nn.Module, name: str = "conv.") -> Path:
    save_file({f"{name}{key}": value.contiguous() for key, value in layer.state_dict().items()}, path)
    return path


def kernel(path: Path, kind: str) -> Any:
    """g v/|v| in float64, over all axes but the one that has several lengths."""
    tensors = load_file(path)
    g, v = (tensors[f"conv.{part}"].double() for part in PARTS[kind])
    axes = [axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1]
    return (g * v / v.square().sum(axes, keepdim=True).sqrt()).numpy()


@pytest.mark.parametrize("options", [{}, {"mode": "supersample"}, {"method": "cubic"}, {"scale": 1.5}], ids=str)
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("kind", NORMS)
def test_the_kernel_is_the_resampled_kernel(
    kind: str, dim: int | None, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    source = written(tmp_path / "in.safetensors", NORMS[kind](nn.Conv2d(4, 8, 3, padding=1).double(), dim=dim))
    hints = rk.Hints(layout={f"conv.{PARTS[kind][1]}": "OIHW"})
    plan = rk.plan_checkpoint(source, **{"scale": 2, "hints": hints, **options})
    plan = rk.Plan.from_json(plan.to_json())
    rk.convert(source, tmp_path / "out.safetensors", plan=plan)
    change = next(change for change in plan.changed if change.kind == "conv")
    right = rk.resample(kernel(source, kind), {o.axis: o.matrix() for o in change.operators})
    assert np.allclose(kernel(tmp_path / "out.safetensors", kind), right, rtol=1e-9, atol=1e-12)
    gain = right.sum((2, 3)) - kernel(source, kind).sum((2, 3))
    assert abs(gain).max() < 1e-9  # each tap keeps its gain


def test_lengths_are_computed_a_few_rows_at_a_time_and_in_every_dtype(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for dtype, most in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
        layer = nn.utils.weight_norm(nn.Conv2d(300, 500, 3)).to(dtype)  # several pieces of a million values
        source, target = written(tmp_path / "in.safetensors", layer), tmp_path / "out.safetensors"
        plan = rk.plan_checkpoint(source, 2, method="linear", hints=rk.Hints(layout={"conv.weight_v": "OIHW"}))
        rk.convert(source, target, plan=plan, force=True)
        right = rk.resample_conv(kernel(source, "hook"), 2, "linear", taps=plan.changed[1].new_shape[-1])
        error = np.linalg.norm(kernel(target, "hook") - right) / np.linalg.norm(right)
        assert error < most
        assert load_file(target)["conv.weight_g"].dtype == dtype


@pytest.mark.parametrize("mode", ["auto", "supersample"])
@pytest.mark.parametrize("kind", NORMS)
def test_without_a_hint_both_tensors_stay_and_the_note_says_how(kind: str, mode: str, tmp_path: Path) -> None:
    source = written(tmp_path / "in.safetensors", NORMS[kind](nn.Conv2d(4, 8, 3)))
    plan = rk.plan_checkpoint(source, 2, mode=mode)
    g, v = (f"conv.{part}" for part in PARTS[kind])
    assert not plan.changed
    assert f"{v} [8, 4, 3, 3]: is the direction of a weight norm, and {g} its length" in " ".join(plan.warnings)
    assert f"hints=Hints(layout={{'{v}': 'OIHW'}})" in " ".join(plan.warnings)
    assert sum(g in warning for warning in plan.warnings) == 1


def orthogonal(layer: nn.Module) -> nn.Module:
    return parametrizations.orthogonal(layer)


class Doubled(nn.Module):
    def forward(self, x: Any) -> Any:
        return 2 * x


def doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


@pytest.mark.parametrize(
    ("layer", "name", "said"),
    [
        (lambda: nn.utils.spectral_norm(nn.Conv2d(4, 8, 3)), "weight_orig", "a spectral norm divides it"),
        (lambda: parametrizations.spectral_norm(nn.Conv2d(4, 8, 3)), "parametrizations.weight.original", "spectral"),
        (lambda: doubled(nn.Conv1d(4, 8, 3)), "parametrizations.weight.original", "a parametrisation that the names"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3), dim=3), "parametrizations.weight.original1",
         "a length for each tap"),
    ],
    ids=["spectral", "spectral-parametrisation", "unknown", "by-tap"],
)  # fmt: skip
def test_what_cannot_be_told_stays_even_with_a_hint(layer: Any, name: str, said: str, tmp_path: Path) -> None:
    made = layer()
    source = written(tmp_path / "in.safetensors", made)
    axes = "OIHW" if load_file(source)[f"conv.{name}"].ndim == 4 else "OIW"
    plan = rk.plan_checkpoint(source, 2, mode="supersample", hints=rk.Hints(layout={f"conv.{name}": axes}))
    assert not plan.changed
    assert any(warning.startswith(f"conv.{name}") and said in warning for warning in plan.warnings)


def network(norm: Any) -> nn.Module:
    torch.manual_seed(0)
    layers = [norm(nn.Conv2d(3, 8, 3, padding=1)), nn.ReLU(), norm(nn.Conv2d(8, 4, 3, padding=1))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("hinted", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_a_classifier_absorbs_exactly(kind: str, hinted: bool, device: str, tmp_path: Path) -> None:
    net = network(NORMS[kind])
    source = written(tmp_path / "in.safetensors", net, "")
    hints = rk.Hints(layout={"*weight_v": "OIHW"} if kind == "hook" else {"*original1": "OIHW"}) if hinted else None
    rk.convert(source, tmp_path / "out.safetensors", scale=2, hints=hints)
    with torch.device(device):
        empty = network(NORMS[kind])
    larger, x = rkt.load(empty, tmp_path / "out.safetensors").eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(larger(x), net(F.avg_pool2d(x, 2)), atol=1e-5)
    assert (larger[0].kernel_size == (6, 6)) == hinted  # without the hint the image is resampled in front


def test_a_model_without_the_norm_takes_the_kernels(tmp_path: Path) -> None:
    net = network(nn.utils.weight_norm)
    source = written(tmp_path / "in.safetensors", net, "")
    rk.convert(
        source, tmp_path / "out.safetensors", scale=2, mode="supersample", method="dilate",
        hints=rk.Hints(layout={"*weight_v": "OIHW"}),
    )  # fmt: skip
    for norm in (nn.utils.weight_norm, parametrizations.weight_norm, lambda layer: layer):
        larger = rkt.load(network(norm), tmp_path / "out.safetensors").eval()
        right = rkt.rescale(net, 2, torch.zeros(1, 3, 16, 16), mode="supersample", method="dilate", form="dense")
        for index in (0, 2):
            assert torch.allclose(larger[index].weight, right[index].weight, atol=1e-6)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"length_of": "conv.weight"}, "changes in another way; plan again"),
        ({"length_of": ""}, "contradicts itself"),
        ({"kind": "conv"}, "contradicts itself"),
        ({"shape": [8, 4, 1, 1], "new_shape": [8, 4, 1, 1]}, "plan again"),
        ({"shape": [8, 1, 3, 1], "new_shape": [8, 1, 3, 1]}, "3 lengths along axis 2"),
        ({"new_shape": [8, 1, 1, 2]}, "keeps its shape"),
        ({"length_of": 3}, "length_of is not text"),
    ],
    ids=str,
)
def test_a_plan_that_contradicts_itself_is_refused(edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = written(tmp_path / "in.safetensors", nn.utils.weight_norm(nn.Conv2d(4, 8, 3)))
    plan = rk.plan_checkpoint(source, 2, hints=rk.Hints(layout={"conv.weight_v": "OIHW"}))
    document = json.loads(plan.to_json())
    entry = next(change for change in document["changes"] if change["kind"] == "length")
    entry.update(edit)
    with pytest.raises(RekernelError, match=message):
        rk.convert(source, tmp_path / "out.safetensors", plan=rk.Plan.from_json(json.dumps(document)))
    assert not (tmp_path / "out.safetensors").exists()
