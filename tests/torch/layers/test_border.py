"""A layer without padding never saw what lies beyond the border, so the larger layer must not see zeros there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402

CONVS: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layer(dims: int = 2, kernel: int = 2, stride: int = 2, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    made = CONVS[dims - 1](2, 3, kernel, stride, **options)
    nn.init.uniform_(made.weight, 0.1, 1)
    return nn.Sequential(made).eval()


def ones(dims: int, n: int) -> Any:
    return torch.ones(1, 2, *[n] * dims)


@pytest.mark.parametrize("form", ["plain", "dense", "factored"])
@pytest.mark.parametrize("method", ["dilate", "area", "optimal", "cubic"])
@pytest.mark.parametrize(
    ("dims", "kernel", "stride", "size"), [(1, 4, 4, 16), (2, 2, 2, 8), (2, 3, 2, 9), (3, 3, 1, 5)]
)
def test_a_constant_picture_gives_the_trained_value_up_to_the_border(
    dims: int, kernel: int, stride: int, size: int, method: str, form: str, tmp_path: Path
) -> None:
    model = layer(dims, kernel, stride)
    larger = rkt.rescale(model, 2, ones(dims, size), mode="supersample", method=method, form=form)
    with torch.no_grad():
        trained, new = model(ones(dims, size)), larger(ones(dims, 2 * size))
    torch.testing.assert_close(new, trained.flatten(2)[..., :1].reshape(1, 3, *[1] * dims).expand_as(new))
    rkt.save(larger, tmp_path / "out.safetensors")
    loaded = rkt.load(layer(dims, kernel, stride), tmp_path / "out.safetensors")
    x = torch.randn(1, 2, *[2 * size] * dims)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), larger(x))


def test_padding_of_the_trained_layer_stays_what_it_was() -> None:
    """A trained padding with zeros goes on reading zeros; one that reflects goes on reflecting."""
    zeros = rkt.rescale(layer(kernel=3, stride=1, padding=1), 2, ones(2, 8), mode="supersample", method="cubic")
    assert zeros[0].padding_mode == "zeros"
    mirrored = rkt.rescale(
        layer(kernel=3, stride=1, padding=1, padding_mode="reflect"), 2, ones(2, 8), mode="supersample", method="cubic"
    )
    assert mirrored[0].padding_mode == "reflect"
    by_hand = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 3, 3)).eval()
    larger = rkt.rescale(by_hand, 2, ones(2, 8), mode="supersample", method="cubic")
    with torch.no_grad():
        once = nn.functional.interpolate(by_hand(ones(2, 8)), scale_factor=2, mode="nearest")
        assert torch.allclose(larger(ones(2, 16))[..., 8, 8], once[..., 8, 8], atol=1e-5)
        assert not torch.allclose(larger(ones(2, 16))[..., 0, 0], once[..., 8, 8], atol=1e-2)


def test_a_recipe_without_the_field_pads_with_zeros_as_it_did(tmp_path: Path) -> None:
    model, file = layer(), tmp_path / "out.safetensors"
    larger = rkt.rescale(model, 2, ones(2, 8), mode="supersample", method="cubic")
    plan = larger.rekernel_plan
    older = replace(plan, changes=tuple(replace(c, padding_mode="") for c in plan.changes))
    assert "padding_mode" not in older.to_json()
    rk.convert(_saved(model, tmp_path), file, plan=rk.Plan.from_json(older.to_json()))
    loaded = rkt.load(layer(), file)
    assert loaded[0].padding_mode == "zeros"
    with torch.no_grad():
        torch.testing.assert_close(loaded(ones(2, 16))[..., 4:-4, 4:-4], larger(ones(2, 16))[..., 4:-4, 4:-4])


def _saved(model: nn.Module, folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "in.safetensors")
    return folder / "in.safetensors"


def test_a_plan_with_an_unknown_mode_is_refused() -> None:
    plan = rkt.rescale(layer(), 2, ones(2, 8), mode="supersample", method="cubic").rekernel_plan
    document = json.loads(plan.to_json())
    for field in ("padding_mode", "by_hand_mode"):
        entry = next(c for c in document["changes"] if c["kind"] == "conv")
        broken = {**document, "changes": [{**entry, field: "worse"}]}
        with pytest.raises(rk.RekernelError, match=f"{field} worse is not one of"):
            rk.Plan.from_json(json.dumps(broken))
