"""Models of transformers that divide the image by the size of a patch, at the size of their table and at another."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rekernel.torch as rkt  # noqa: E402
from rekernel.torch.tracing.tensor_state import first_tensor  # noqa: E402
from rekernel_cli.main import main  # noqa: E402

TABLE = 48  # pixels that the tables are for: 6 x 6 patches
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8,
    "image_size": TABLE,
}  # fmt: skip
DINO = {key: value for key, value in SMALL.items() if key != "intermediate_size"} | {"mlp_ratio": 1}
DECODER = {"neck_hidden_sizes": [4, 4, 4, 4], "fusion_hidden_size": 8}


def simple(name: str, config: str, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(getattr(transformers, config)(**options))


def dpt() -> Any:
    config = transformers.DPTConfig(
        **{**SMALL, "num_hidden_layers": 4}, **DECODER, backbone_out_indices=[0, 1, 2, 3], num_labels=3
    )
    return transformers.DPTForDepthEstimation(config)


def depth_anything() -> Any:
    backbone = transformers.Dinov2Config(
        **{**DINO, "num_hidden_layers": 4}, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=8, reassemble_hidden_size=16, head_hidden_size=4, **DECODER
    )
    return transformers.DepthAnythingForDepthEstimation(config)


def sam() -> Any:
    vision = {**SMALL, "output_channels": 8, "mlp_dim": 16, "window_size": 3, "global_attn_indexes": [1]}
    vision.pop("intermediate_size")
    return transformers.SamVisionModel(transformers.SamVisionConfig(**vision))


def swin(**more: Any) -> Any:
    config = transformers.SwinConfig(
        image_size=TABLE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=3, **more
    )
    return transformers.SwinForImageClassification(config)


INTERPOLATED = {"interpolate_pos_encoding": True}
MODELS: dict[str, tuple[Callable[[], Any], dict[str, Any] | None]] = {
    # How to run it at another size than that of its table; None where it refuses one.
    "ViT": (simple("ViTModel", "ViTConfig", **SMALL), INTERPOLATED),
    "DeiT": (simple("DeiTForImageClassification", "DeiTConfig", **SMALL), INTERPOLATED),
    "DINOv2": (simple("Dinov2Model", "Dinov2Config", **DINO), {}),
    "DINOv2 with registers": (simple("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **DINO), {}),
    "DINOv3": (simple("DINOv3ViTModel", "DINOv3ViTConfig", **SMALL), {}),
    "BEiT": (simple("BeitModel", "BeitConfig", **SMALL, use_absolute_position_embeddings=True), INTERPOLATED),
    "BEiT, relative": (
        simple("BeitForImageClassification", "BeitConfig", **SMALL, use_relative_position_bias=True), INTERPOLATED
    ),
    "BEiT, one bias for all": (
        simple("BeitModel", "BeitConfig", **SMALL, use_shared_relative_position_bias=True), INTERPOLATED
    ),
    "Data2Vec": (simple("Data2VecVisionModel", "Data2VecVisionConfig", **SMALL, use_relative_position_bias=True), {}),
    "YOLOS": (
        simple("YolosForObjectDetection", "YolosConfig", **{**SMALL, "image_size": [48, 48]}, num_detection_tokens=3),
        {},
    ),
    "I-JEPA": (simple("IJepaModel", "IJepaConfig", **SMALL), INTERPOLATED),
    "CLIP": (simple("CLIPVisionModel", "CLIPVisionConfig", **SMALL), INTERPOLATED),
    "SigLIP": (simple("SiglipVisionModel", "SiglipVisionConfig", **SMALL), INTERPOLATED),
    "DPT": (dpt, {}),
    "Depth Anything": (depth_anything, {}),
    "SAM": (sam, None),
    "Swin, absolute positions": (lambda: swin(use_absolute_embeddings=True), INTERPOLATED),
    "Hiera": (simple("HieraForImageClassification", "HieraConfig", image_size=[64, 64], embed_dim=8,
                     depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]), None),
}  # fmt: skip


def made(name: str) -> Any:
    """The model with weights of which every one matters."""
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3 if parameter[0].numel() < 64 else 0.1)
        else:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def answer(model: Any, x: Any, options: dict[str, Any]) -> Any:
    with torch.no_grad():
        return first_tensor(model(pixel_values=x, **options))


def assert_reads_the_reduced_image(model: Any, larger: Any, size: int, options: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 2 * size, 2 * size)
    small = torch.nn.functional.avg_pool2d(x, 2)
    right, other = answer(model, small, options), answer(model, small + torch.randn_like(small), options)
    assert (right - other).norm() > 1e-3 * right.norm(), "a model that does not look at its image shows nothing"
    assert (answer(larger, x, options) - right).norm() < 1e-4 * right.norm()


def cases() -> list[Any]:
    sizes = []
    for name, (_, options) in MODELS.items():
        whole = 64 if name == "Hiera" else TABLE
        sizes.append(pytest.param(name, whole, {}, id=f"{name}, {whole}"))
        if options is not None:
            sizes.append(pytest.param(name, 32, options, id=f"{name}, 32"))
    return sizes


@pytest.mark.parametrize(("name", "size", "options"), cases())
def test_absorbing_leaves_tokens_and_positions(name: str, size: int, options: dict[str, Any]) -> None:
    model = made(name)
    example = {"pixel_values": torch.zeros(1, 3, size, size), **options}
    larger = rkt.rescale(model, 2, example, mode="absorb")
    [change] = larger.rekernel_plan.changed
    assert change.mode == "absorb"
    assert_reads_the_reduced_image(model, larger, size, options)


NAMED = {
    "DPT": "dpt.embeddings.patch_embeddings.projection",
    "Depth Anything": "backbone.embeddings.patch_embeddings.projection",
}  # of these, names alone do not tell which layer reads the image
THROUGH_FILES = [case for case in cases() if case.values[0] != "Hiera"]


@pytest.mark.parametrize(("name", "size", "options"), THROUGH_FILES)
def test_a_converted_folder_loads_into_the_model_and_its_config_says_what_the_code_does(
    name: str, size: int, options: dict[str, Any], tmp_path: Path
) -> None:
    model = made(name)
    model.save_pretrained(tmp_path / "in")
    arguments = ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--scale", "2", "--mode", "absorb"]
    if name in NAMED:
        arguments += ["--mode", f"{NAMED[name]}=absorb"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output + result.stderr
    larger = rkt.load(made(name), tmp_path / "out").eval()
    assert_reads_the_reduced_image(model, larger, size, options)
    before, after = (json.loads((tmp_path / where / "config.json").read_text()) for where in ("in", "out"))
    if after != before:  # then transformers alone builds the same
        plain = type(model).from_pretrained(tmp_path / "out").eval()
        assert_reads_the_reduced_image(model, plain, size, options)
        assert (larger.config.patch_size, larger.config.image_size) == (after["patch_size"], after["image_size"])


def test_a_rescaled_model_saves_a_config_from_which_it_loads(tmp_path: Path) -> None:
    """Also at another size than that of the table: the table stays one of 6 x 6 patches, now of 16 pixels."""
    model = made("DINOv2")
    larger = rkt.rescale(model, 2, torch.zeros(1, 3, 32, 32))
    assert (larger.config.patch_size, larger.config.image_size) == (16, 96)
    assert (model.config.patch_size, model.config.image_size) == (8, TABLE)
    larger.save_pretrained(tmp_path / "out")
    plain = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    assert_reads_the_reduced_image(model, plain, 32, {})


SUPERSAMPLED = [case for case in cases() if case.values[0] in (
    "ViT", "DINOv2", "DINOv2 with registers", "BEiT", "YOLOS", "I-JEPA", "Swin, absolute positions"
)]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "options"), SUPERSAMPLED)
def test_supersampled_tokens_have_the_positions_that_the_model_itself_gives_them(
    name: str, size: int, options: dict[str, Any]
) -> None:
    """Of an image of zeros, the tokens are biases and positions alone.

    At another size than that of its table, the model interpolates, and goes on to do so. At the size of the table it
    adds the table itself, which grows then as the model would interpolate it: the difference is that of two filters.
    """
    model = made(name)
    for key, table in model.named_parameters():
        if "position_embeddings" in key:  # smooth, as trained tables are
            table.data = (
                torch.linspace(-1, 1, table.shape[-2])[:, None] * torch.randn(table.shape[-1])[None] + 0 * table
            )
    larger = rkt.rescale(model, 2, {"pixel_values": torch.zeros(1, 3, size, size), **options}, mode="supersample")
    grown = [c for c in larger.rekernel_plan.changed if c.kind == "values" and "relative" not in c.name]
    assert bool(grown) == (size == TABLE and name != "YOLOS")
    inner = {"YOLOS": "vit", "Swin, absolute positions": "swin"}.get(name)
    ours, own = (getattr(m, inner) if inner else m for m in (larger, model))
    zeros = torch.zeros(1, 3, 2 * size, 2 * size)
    takes = "interpolate_pos_encoding" in inspect.signature(own.embeddings.forward).parameters
    with torch.no_grad():
        tokens = first_tensor(ours.embeddings(zeros, **(options if takes else {})))
        right = first_tensor(own.embeddings(zeros, **(INTERPOLATED if takes else {})))
    assert tokens.shape == right.shape
    assert (tokens - right).norm() < (0.1 if grown else 1e-5) * right.norm()
