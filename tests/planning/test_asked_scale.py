"""Sizes wherever scales are taken, in Python: the same plan, the trained size of the configuration, slips named."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import rekernel as rk
from rekernel.planning.asked_scale import parsed_size, ratio


@pytest.fixture
def vit(tmp_path):
    """A ViT of 16x16 patches at 224 pixels, as transformers names it."""
    shapes = {
        "vit.embeddings.cls_token": (1, 1, 8), "vit.embeddings.position_embeddings": (1, 197, 8),
        "vit.embeddings.patch_embeddings.projection.weight": (8, 3, 16, 16),
        "vit.encoder.layer.0.attention.attention.query.weight": (8, 8), "classifier.weight": (3, 8),
    }  # fmt: skip
    folder = tmp_path / "vit"
    folder.mkdir()
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 224, "patch_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def pipeline(tmp_path):
    folder = tmp_path / "pipe"
    configs = {"unet": {"sample_size": 64}, "vae": {"block_out_channels": [1, 1, 1, 1]}}
    for name, config in configs.items():
        (folder / name).mkdir(parents=True)
        weights = {"conv.weight": np.ones((8, 8, 3, 3), np.float32)}
        save_file(weights, folder / name / "diffusion_pytorch_model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(config))
    index = {"_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("size", [384, (384, 384), "384x384", np.array([384, 384])])
def test_224_to_384_keeps_patches_and_says_so(vit, size):
    [plan] = rk.plan_source(vit, size=size).values()
    assert [(c.name, c.new_shape) for c in plan.changed] == [("vit.embeddings.position_embeddings", (1, 577, 8))]
    assert plan.scale == (384 / 224, 384 / 224)
    [note] = [w for w in plan.warnings if "cannot grow" in w]
    assert note.startswith("patches of 16x16 pixels cannot grow by 1.71429, so they stay: more tokens are read")
    assert rk.plan_checkpoint(vit, size=size) == rk.plan_checkpoint(vit, size=size, from_size=(224, 224)) == plan


def test_width_comes_first_in_text_and_height_in_tuples(vit):
    wide, tall = rk.plan_source(vit, size="448x224")[""], rk.plan_source(vit, size=(448, 224))[""]
    assert wide.scale == (1, 2) and tall.scale == (2, 1)


def test_convert_takes_sizes(vit, tmp_path):
    report = rk.convert(vit, tmp_path / "out", size=448)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_size"] == 448
    assert report.plans[""].scale == (2, 2)


def test_the_size_of_a_pipeline_is_that_of_its_pictures(pipeline):
    assert rk.plan_source(pipeline, size=(768, 1024))["unet"].scale == (1.5, 2)


def test_any_ratio_can_be_given_as_sizes(pipeline):
    assert rk.plan_source(pipeline / "unet", size=1280, from_size=32)[""].scale == 40


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"scale": 1024}, r"did you mean size=1024\?"),
        ({"scale": (1024, 768)}, r"did you mean size=\(1024, 768\)\?"),
        ({"scale": 2, "size": 448}, "scale= and size= both set the scale"),
        ({"scale": 2, "from_size": 224}, "scale= and size= both set the scale"),
        ({"size": "large"}, r"size='large' is not a size in pixels; write 384, \(height, width\) or '512x384'"),
        ({"size": 0}, "size=0 is not a size"),
        ({"size": 2.5}, "size=2.5 is not a size"),
        ({"size": (1, 2, 3), "from_size": (1, 2)}, "have 3 and 2 axes"),
        ({}, "the scale is missing; pass scale=2, or size=384"),
        ({"from_size": 224}, "the scale is missing"),
    ],
)
def test_slips(vit, asked, said):
    with pytest.raises(rk.RekernelError, match=said):
        rk.plan_source(vit, **asked)


def test_without_a_configuration_the_trained_size_is_asked_for(vit, tmp_path):
    (vit / "config.json").unlink()
    for plan in (rk.plan_source, rk.plan_checkpoint):
        with pytest.raises(
            rk.RekernelError, match=r"nothing beside the weights tells the trained size.* from_size=224"
        ):
            plan(vit, size=384)
    with pytest.raises(rk.RekernelError, match=r"a plan or size=..., not both"):
        rk.convert(vit, tmp_path / "out", size=384, plan=rk.plan_source(vit, 2)[""])


def test_a_picture_given_as_a_signal_is_noted(tmp_path):
    path = tmp_path / "mlp.safetensors"
    save_file({"fc1.weight": np.ones((8, 784), np.float32), "fc2.weight": np.ones((3, 8), np.float32)}, path)
    plan = rk.plan_checkpoint(path, 2, hints=rk.Hints(linear_grid={"fc1": (28, 28)}))
    assert "fc1.weight: a grid of 28,28 is a signal of 28 samples with 28 channels" in plan.warnings[0]
    assert "write 1,28,28" in plan.warnings[0] and "area 28->56, grid 28x28" in str(plan)
    plan = rk.plan_checkpoint(path, 2, hints=rk.Hints(linear_grid={"fc1": (1, 28, 28)}))
    assert not plan.warnings and "area 28->56, grid 1x28x28" in str(plan)


def test_ratios_are_whole_where_they_can_be():
    assert ratio(parsed_size(448), (224,)) == 2 and isinstance(ratio((448,), (224,)), int)
    assert ratio((448, 336), (224, 224)) == (2, 1.5)
