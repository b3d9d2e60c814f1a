"""Files that transformers wrote load into its models whose modules have other names, split tensors and dropped ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5")
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

import rekernel as rk  # noqa: E402
import rekernel.torch as rkt  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

from ...numeric import assert_bits, assert_ulps  # noqa: E402
from ..conftest import GROWS  # noqa: E402

SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
    "patch_size": 4, "mlp_ratio": 2,
}  # fmt: skip
SEGFORMER = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16], "patch_sizes": [7, 3],
    "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
}  # fmt: skip
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
TOKENS = {
    "ViTModel": {}, "ViTForImageClassification": {}, "DeiTModel": {}, "ViTMSNModel": {}, "IJepaModel": {},
    "Dinov2Model": {}, "Dinov2ForImageClassification": {"use_swiglu_ffn": True}, "Dinov2WithRegistersModel": {},
    "BeitModel": {"use_absolute_position_embeddings": True},
}  # fmt: skip


def built(kind: str, seed: int = 0, **options: Any) -> Any:
    model_class = getattr(transformers, kind)
    torch.manual_seed(seed)
    model = model_class(model_class.config_class(**options)).eval()
    for parameter in model.parameters():  # position embeddings and biases begin as zeros
        if parameter.device.type != "meta" and not parameter.any():
            nn.init.normal_(parameter)
    return model


def file_of(folder: Path) -> Path:
    return folder / "model.safetensors"


def answer(model: Any, x: Any) -> Any:
    with torch.no_grad():
        return model(x)[0]


def agree(loaded: Any, traced: Any, x: Any) -> None:
    """The weights that NumPy computed for the file are those that torch computes, and so is what they answer."""
    changed = {c.name for c in traced.rekernel_plan.changed}
    one, two = loaded.state_dict(), traced.state_dict()
    assert one.keys() == two.keys() and changed <= one.keys()
    for name, value in two.items():
        (assert_ulps if name in changed else assert_bits)(one[name], value, what=name)
    torch.testing.assert_close(answer(loaded, x), answer(traced, x), rtol=1e-5, atol=1e-5)


def unchanged(model: Any, before: dict[str, Any]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", TOKENS)
def test_the_note_of_a_supersampled_conversion_can_be_followed(kind: str, tmp_path: Path) -> None:
    model = built(kind, **SMALL, **TOKENS[kind])
    model.save_pretrained(tmp_path / "in")
    assert load_file(file_of(tmp_path / "in")).keys() != model.state_dict().keys()
    run = CliRunner().invoke(
        main, ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--scale", "2", "--mode", "supersample"]
    )
    assert run.exit_code == 0, run.output
    assert "build the model at its trained size and rescale it with rekernel.torch.load" in run.output
    loaded = rkt.load_pretrained(tmp_path / "out", model=built(kind, seed=1, **SMALL, **TOKENS[kind]))
    x = torch.randn(1, 3, 32, 32)
    traced = rkt.rescale(model, 2, torch.zeros(1, 3, 16, 16), modes={"*patch_embeddings*": "supersample"})
    assert {c.name for c in loaded.rekernel_plan.changed} == {c.name for c in traced.rekernel_plan.changed}
    agree(loaded, traced, x)


def test_what_was_loaded_is_saved_and_loaded_under_the_names_of_the_module(tmp_path: Path) -> None:
    built("ViTModel", **SMALL).save_pretrained(tmp_path / "in")
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2)
    loaded = rkt.load(built("ViTModel", seed=1, **SMALL), tmp_path / "out")
    rkt.save(loaded, tmp_path / "again.safetensors")
    again = rkt.load(built("ViTModel", seed=2, **SMALL), tmp_path / "again.safetensors")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(answer(again, x), answer(loaded, x))


def test_split_tensors_come_to_a_model_without_memory(tmp_path: Path) -> None:
    model = built("Dinov2Model", **SMALL, use_swiglu_ffn=True)
    model.save_pretrained(tmp_path / "in")
    written = load_file(file_of(tmp_path / "in"))
    assert "encoder.layer.0.mlp.weights_in.weight" in written
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2)
    with torch.device("meta"):
        empty = built("Dinov2Model", **SMALL, use_swiglu_ffn=True)
    loaded = rkt.load(empty, tmp_path / "out").state_dict()
    halves = [loaded[f"encoder.layer.0.mlp.{side}_proj.weight"] for side in ("gate", "up")]
    assert torch.equal(torch.cat(halves), written["encoder.layer.0.mlp.weights_in.weight"])
    same = {n: v for n, v in model.state_dict().items() if "patch_embeddings.projection.weight" not in n}
    assert all(torch.equal(loaded[name], value) for name, value in same.items())


def test_windows_absorb_in_the_renamed_model(tmp_path: Path) -> None:
    model = built("SwinForImageClassification", **SWIN)
    model.save_pretrained(tmp_path / "in")
    patches = "swin.embeddings.patch_embeddings.projection"
    hints = rk.Hints(stride={patches: 4}, padding={patches: 0}, mode={patches: "absorb"})
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2, include=[f"{patches}.weight"], hints=hints)
    loaded = rkt.load(built("SwinForImageClassification", seed=1, **SWIN), tmp_path / "out")
    traced = rkt.rescale(model, 2, torch.zeros(1, 3, 32, 32), modes={patches: "absorb"}, include=[f"{patches}.weight"])
    x = torch.randn(1, 3, 64, 64)
    agree(loaded, traced, x)


def test_rescaled_kernels_with_other_names_and_a_hint_in_the_names_of_the_file(tmp_path: Path) -> None:
    model = built("SegformerModel", **SEGFORMER)
    model.save_pretrained(tmp_path / "in")
    rk.convert(tmp_path / "in", tmp_path / "wrong", scale=2, **GROWS)
    fresh = built("SegformerModel", seed=1, **SEGFORMER)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    first = "encoder.patch_embeddings.0.proj"
    said = rf"^stages.0.patch_embeddings.proj.weight: .*convert again with hints=Hints\(stride={{'{first}': 4}}"
    with pytest.raises(rk.RekernelError, match=said):
        rkt.load(fresh, tmp_path / "wrong")
    assert unchanged(fresh, before)
    reductions = {"encoder.block.0.0.attention.self.sr": 2}
    stride = {first: 4, "encoder.patch_embeddings.1.proj": 2} | reductions
    padding = {first: 3, "encoder.patch_embeddings.1.proj": 1} | dict.fromkeys(reductions, 0)
    hints = rk.Hints(stride=stride, padding=padding)
    report = rk.convert(tmp_path / "in", tmp_path / "out", scale=2, hints=hints, **GROWS)
    loaded = rkt.load(fresh, tmp_path / "out")
    names = {c.name for c in loaded.rekernel_plan.changed}
    assert {c.name for c in report.plans[""].changed}.isdisjoint(names)
    traced = rkt.rescale(model, 2, torch.zeros(1, 3, 64, 64), include=sorted(names), **GROWS)
    x = torch.randn(1, 3, 128, 128)
    assert torch.allclose(answer(loaded, x), answer(traced, x), atol=1e-5)


def refused(folder: Path, change: Any, match: str) -> None:
    """A converted ViT after `change` of its tensors does not load, and the model stays as it was."""
    built("ViTModel", **SMALL).save_pretrained(folder / "in")
    tensors = load_file(file_of(folder / "in"))
    change(tensors)
    save_file(tensors, file_of(folder / "in"))
    rk.convert(folder / "in", folder / "out", scale=2)
    fresh = built("ViTModel", seed=1, **SMALL)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(rk.RekernelError, match=match):
        rkt.load(fresh, folder / "out")
    assert unchanged(fresh, before)
    assert fresh.embeddings.patch_embeddings.projection.kernel_size == (4, 4)


OLD, NEW = "encoder.layer.0.attention.attention.query.weight", "layers.0.attention.q_proj.weight"


def test_a_missing_tensor_is_named_as_the_model_names_it(tmp_path: Path) -> None:
    refused(tmp_path, lambda t: t.pop(OLD), rf"does not fit this ViTModel: it misses {NEW}$")


def test_an_unknown_tensor_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    def add(tensors: dict[str, Any]) -> None:
        tensors["encoder.layer.7.attention.attention.query.weight"] = torch.zeros(2)

    refused(tmp_path, add, r"it has unexpected encoder.layer.7.attention.attention.query.weight$")


def test_a_misshapen_tensor_is_named_as_both_do(tmp_path: Path) -> None:
    def cut(tensors: dict[str, Any]) -> None:
        tensors[OLD] = tensors[OLD][:3].clone()

    refused(tmp_path, cut, rf"misshapen {NEW} \(in the file {OLD}\) \[3, 16\] for \[16, 16\]$")


def test_two_tensors_of_one_place_are_refused(tmp_path: Path) -> None:
    def double(tensors: dict[str, Any]) -> None:
        tensors[NEW] = torch.zeros(16, 16)

    refused(tmp_path, double, rf"{OLD} and {NEW}: both are {NEW} of this ViTModel; keep one of them")


def test_a_classifier_does_not_go_into_the_model_below_it(tmp_path: Path) -> None:
    built("ViTForImageClassification", **SMALL).save_pretrained(tmp_path / "in")
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2)
    with pytest.raises(rk.RekernelError, match=r"it misses pooler.*; it has unexpected classifier.bias, classifier.we"):
        rkt.load(built("ViTModel", **SMALL), tmp_path / "out")


def test_a_rescaled_tensor_that_the_model_splits_is_refused(tmp_path: Path) -> None:
    kind, options = "Dinov2Model", SMALL | {"use_swiglu_ffn": True}
    built(kind, **options).save_pretrained(tmp_path / "in")
    name = "encoder.layer.1.mlp.weights_in.weight"
    hints = rk.Hints(linear_grid={name.removesuffix(".weight"): (1, 4, 4)})
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2, include=[name], hints=hints)
    with pytest.raises(rk.RekernelError, match=rf"^{name}: was rescaled, but this model splits or joins it to .*gate"):
        rkt.load(built(kind, **options), tmp_path / "out")


def test_a_split_that_is_impossible_is_refused(tmp_path: Path) -> None:
    kind, options = "Dinov2Model", SMALL | {"use_swiglu_ffn": True}
    built(kind, **options).save_pretrained(tmp_path / "in")
    tensors = load_file(file_of(tmp_path / "in"))
    name = "encoder.layer.1.mlp.weights_in.bias"
    tensors[name] = torch.tensor(1.0)
    save_file(tensors, file_of(tmp_path / "in"))
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2)
    with pytest.raises(rk.RekernelError, match=rf"^{name}: transformers cannot make .*gate_proj.bias of this"):
        rkt.load(built(kind, **options), tmp_path / "out")


def test_a_buffer_that_older_files_hold_is_passed_over_as_transformers_does(tmp_path: Path) -> None:
    built("CLIPVisionModel", **SMALL).save_pretrained(tmp_path / "in")
    tensors = load_file(file_of(tmp_path / "in"))
    tensors["embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, file_of(tmp_path / "in"))
    patches = "embeddings.patch_embedding"
    hints = rk.Hints(stride={patches: 4}, padding={patches: 0}, mode={patches: "absorb"})
    rk.convert(tmp_path / "in", tmp_path / "out", scale=2, include=[f"{patches}.weight"], hints=hints)
    loaded = rkt.load(built("CLIPVisionModel", seed=1, **SMALL), tmp_path / "out")
    assert answer(loaded, torch.zeros(1, 3, 32, 32)).shape == (1, 17, 16)


def test_a_tied_weight_is_there_under_one_of_its_names(tmp_path: Path) -> None:
    def network() -> nn.Sequential:
        layer = nn.Conv2d(2, 2, 3, padding=1)
        return nn.Sequential(layer, nn.ReLU(), layer)

    torch.manual_seed(0)
    model = network()
    save_file({n: v for n, v in model.state_dict().items() if n[0] == "0"}, tmp_path / "in.safetensors")
    rk.convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", scale=2, **GROWS)
    loaded = rkt.load(network(), tmp_path / "out.safetensors")
    x = torch.randn(1, 2, 16, 16)
    assert torch.allclose(loaded(x), rkt.rescale(model, 2, torch.zeros(1, 2, 8, 8), **GROWS)(x), atol=1e-6)
    assert loaded[0] is loaded[2]


def test_transformers_is_not_imported_for_other_models(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    rkt.save(rkt.rescale(nn.Sequential(nn.Conv2d(1, 1, 3)), 2, torch.zeros(1, 1, 8, 8)), path)
    code = (
        "import sys, torch, rekernel.torch as rkt\n"
        "rkt.load(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)), sys.argv[1])\n"
        "print('transformers' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
