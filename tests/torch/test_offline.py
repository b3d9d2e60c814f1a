"""Files converted without the model load into it, and do what tracing does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel.architectures.base import LayerFacts  # noqa: E402
from rekernel.planning.reading_by_name import Reading  # noqa: E402
from rekernel.planning.settings import Settings  # noqa: E402
from rekernel.planning.tensor import Layer  # noqa: E402

from ..numeric import assert_bits, assert_ulps  # noqa: E402
from .conftest import GROWS  # noqa: E402


def state(model: nn.Module) -> dict[str, Any]:
    return {k: v.contiguous().clone() for k, v in model.state_dict().items()}


def sd_unet() -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("preset", ["inner", "all"])
def test_sd_unet(tmp_path: Path, preset: str) -> None:
    model = sd_unet()
    save_file(state(model), tmp_path / "in.safetensors")
    report = rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, preset=preset)
    chosen = [c.name for c in report.plans[""].changed]
    assert chosen
    t, text = torch.tensor([10.0]), torch.randn(1, 3, 16)
    traced = rkt.rescale(model, 2, (torch.zeros(1, 4, 16, 16), t, text), include=chosen)
    loaded = rkt.load(sd_unet(), tmp_path / "out.safetensors")
    x = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        a, b = loaded(x, t, text).sample, traced(x, t, text).sample
    assert [c.name for c in traced.rekernel_plan.changed] == sorted(chosen)
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("scale", "options", "count"), [(3, GROWS, 4), (2, {}, 1)], ids=["supersampled", "default"])
def test_resnet(tmp_path: Path, check: Any, scale: int, options: dict[str, Any], count: int) -> None:
    """At 3x no pooling lies half a pixel beside its place, which a trace makes up for and a plan by name cannot."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(depths=[1, 1], hidden_sizes=[16, 32], embedding_size=16)

    def build() -> Any:
        return transformers.ResNetForImageClassification(config).eval()

    model = check.revived(build())
    save_file(state(model), tmp_path / "in.safetensors")
    report = rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=scale, **options)
    loaded = rkt.load(build(), tmp_path / "out.safetensors")
    traced = rkt.rescale(model, scale, torch.zeros(1, 3, 64, 64), **options)
    assert {c.name for c in traced.rekernel_plan.changed} == {c.name for c in report.plans[""].changed}
    assert len(report.plans[""].changed) == count
    x = torch.randn(1, 3, 64 * scale, 64 * scale)
    with torch.no_grad():
        assert torch.allclose(loaded(x).logits, traced(x).logits, atol=1e-4)


def test_vit_absorbs_in_both(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=32, image_size=64
    )
    model = transformers.ViTModel(config).eval()
    save_file(state(model), tmp_path / "in.safetensors")
    rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, method="linear")
    loaded = rkt.load(transformers.ViTModel(config).eval(), tmp_path / "out.safetensors")
    traced = rkt.rescale(model, 2, torch.zeros(1, 3, 64, 64), method="linear")
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.allclose(loaded(x).last_hidden_state, traced(x).last_hidden_state, atol=1e-5)


class Insists(nn.Module):
    """A model that tells how large an image it takes; its first layer is not a patch embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = (32, 48)
        self.conv = nn.Conv2d(3, 4, 7, 4, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(("mode", "size"), [("absorb", (64, 96)), ("supersample", (32, 48))])
def test_a_layer_that_absorbs_tells_the_model_its_new_size_whatever_its_reason_says(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    save_file(state(Insists()), tmp_path / "in.safetensors")
    hints = rk.Hints(stride={"conv": 4}, padding={"conv": 3}, mode={"conv": mode})
    plan = rk.plan_checkpoint(tmp_path / "in.safetensors", 2, hints=hints)
    plan = replace(plan, changes=tuple(replace(change, reason="it absorbs or supersamples") for change in plan.changes))
    rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", plan=plan)
    assert rkt.load(Insists(), tmp_path / "out.safetensors").image_size == size


def test_autoencoder_with_padding_by_hand(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")

    def build() -> Any:
        return diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4,
        ).eval()  # fmt: skip

    model = build()
    save_file(state(model), tmp_path / "in.safetensors")
    report = rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, preset="all")
    loaded = rkt.load(build(), tmp_path / "out.safetensors")
    traced = rkt.rescale(model, 2, torch.zeros(1, 3, 32, 32), include=[c.name for c in report.plans[""].changed])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded(x).sample, traced(x).sample, atol=1e-4)


def test_a_stride_that_was_assumed_wrongly_is_named(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, padding=1))

    model = build()
    save_file(state(model), tmp_path / "in.safetensors")
    rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2)
    before = repr(model)
    with pytest.raises(rk.RekernelError, match=r"1.weight: was converted for stride 1.*hints=Hints\(stride=\{'1': 2\}"):
        rkt.load(model, tmp_path / "out.safetensors")
    assert repr(model) == before
    hints = rk.Hints(stride={"1": 2})
    rk.convert(tmp_path / "in.safetensors", tmp_path / "right.safetensors", scale=2, hints=hints)
    assert rkt.load(model, tmp_path / "right.safetensors")(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 16, 16)


def test_a_folder_and_shards(tmp_path: Path) -> None:
    model = sd_unet().half()
    model.save_pretrained(tmp_path / "in")
    for name, more in (("out", {}), ("shards", {"max_shard_size": 100_000})):
        rk.convert(tmp_path / "in", tmp_path / name, scale=2, **more)
        loaded = rkt.load(sd_unet().half(), tmp_path / name)
        traced = rkt.rescale(
            model, 2, {"sample": torch.zeros(1, 4, 16, 16).half(), "timestep": torch.tensor([10.0]),
                       "encoder_hidden_states": torch.zeros(1, 3, 16).half()},
            include=[c.name for c in loaded.rekernel_plan.changed],
        )  # fmt: skip
        changed = {c.name for c in loaded.rekernel_plan.changed}
        assert len(changed) > 5
        for key, value in traced.state_dict().items():
            # NumPy's sums against torch's; what was only copied is equal to the bit.
            same = assert_ulps if key in changed else assert_bits
            same(loaded.state_dict()[key], value, what=key)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1


class Transposed:
    """A family that knows a transposed convolution by its name."""

    def facts(self, name: str, shapes: Any) -> LayerFacts:
        return LayerFacts(role="conv-transpose")


@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 2), (1, 3)])
def test_a_dilated_convolution_is_planned_by_name_as_it_is_by_trace(
    tmp_path: Path, stride: int, dilation: int, transposed: bool
) -> None:
    torch.manual_seed(0)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), kind(4, 2, 3, stride, padding=dilation, dilation=dilation))
    save_file(state(model), tmp_path / "in.safetensors")
    if transposed:
        change = Layer(
            "1.weight", "F32", (4, 2, 3, 3), {"1.weight": (4, 2, 3, 3)}, Settings(2, "optimal"),
            rk.Hints(stride={"1": stride}, padding={"1": dilation}, dilation={"1": dilation}), Transposed(),
            Reading("supersample"),
        ).change()  # fmt: skip
    else:
        hints = rk.Hints(stride={"1": stride}, dilation={"1": dilation})  # its padding follows from the dilation
        plan = rk.plan_checkpoint(tmp_path / "in.safetensors", 2, hints=hints, **GROWS)
        change = next(c for c in plan.changed if c.name == "1.weight")
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), **GROWS)
    traced = next(c for c in larger.rekernel_plan.changed if c.name == "1.weight")
    assert change.operators == traced.operators and change.geometry == traced.geometry
    assert [g.kernel for g in change.new_geometry] == [g.kernel for g in traced.new_geometry]
    assert {o.dilation for o in change.operators} == {dilation}
    if not transposed:
        assert change.new_geometry == traced.new_geometry
        rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, hints=hints, **GROWS)
        loaded, x = rkt.load(model, tmp_path / "out.safetensors"), torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(loaded(x), larger(x), atol=1e-5)


def test_a_dilation_below_one_is_refused(tmp_path: Path) -> None:
    save_file(state(nn.Sequential(nn.Conv2d(3, 4, 3))), tmp_path / "in.safetensors")
    with pytest.raises(rk.RekernelError, match="dilation of 0: 0 is not a whole number of 1 or more"):
        rk.plan_checkpoint(tmp_path / "in.safetensors", 2, hints=rk.Hints(dilation={"0": 0}))
