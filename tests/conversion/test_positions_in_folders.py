"""Folders of vision transformers with more tokens: config.json decides the grid, and never contradicts the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open

from rekernel_cli.main import main

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import rekernel.torch as rkt  # noqa: E402 - after torch is known to be there

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TABLE = "embeddings.position_embeddings"
MORE_TOKENS = ("--mode", "supersample", "--include", f"*{TABLE}")


def saved(kind, folder, **config):
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(**SMALL, **config)
    model = getattr(transformers, f"{kind}Model")(made).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model


def converted(source, target, *options):
    result = CliRunner().invoke(main, ["convert", str(source), str(target), "--scale", "2", *options])
    assert result.exit_code == 0, result.output + result.stderr
    return result.stderr + result.output


def positions(folder):
    with safe_open(folder / "model.safetensors", "np") as file:
        return file.get_tensor(TABLE)


@pytest.mark.parametrize(
    ("kind", "size", "patch", "prefix"),
    [("ViT", (64, 32), 4, 1), ("DeiT", (24, 32), 4, 2), ("Dinov2", (28, 28), 4, 1), ("Dinov2WithRegisters", 32, 8, 1),
     ("IJepa", (16, 32), 8, 0)],
)  # fmt: skip
def test_the_grid_in_config_json_is_the_grid_of_the_table(kind, size, patch, prefix, tmp_path):
    model = saved(kind, tmp_path / "in", image_size=size, patch_size=patch)
    converted(tmp_path / "in", tmp_path / "out", *MORE_TOKENS, "--set", f"*{TABLE}:method=linear")
    height, width = size if isinstance(size, tuple) else (size, size)
    rows, columns = height // patch, width // patch
    old, new = positions(tmp_path / "in"), positions(tmp_path / "out")
    assert new.shape == (1, prefix + 4 * rows * columns, 16)
    assert np.array_equal(new[:, :prefix], old[:, :prefix])
    grid = torch.tensor(old[0, prefix:]).reshape(1, rows, columns, 16).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(grid, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.allclose(new[0, prefix:].reshape(2 * rows, 2 * columns, 16), theirs, atol=1e-6)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["image_size"] == (2 * size if isinstance(size, int) else [2 * height, 2 * width])
    larger = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    x = torch.zeros(1, 3, 2 * height, 2 * width)
    with torch.no_grad():
        assert larger(x).last_hidden_state.shape[1] == model(x[..., ::2, ::2]).last_hidden_state.shape[1] + (
            3 * rows * columns
        )


@pytest.mark.parametrize("size", [48, [64, 64], None])
def test_a_config_json_that_contradicts_the_table_is_not_carried_on(size, tmp_path):
    saved("ViT", tmp_path / "in", image_size=(64, 32), patch_size=4)
    path = tmp_path / "in" / "config.json"
    config = json.loads(path.read_text())
    config["image_size"] = size
    path.write_text(json.dumps(config))
    grid = ("--grid", f"{TABLE}=16,8")
    said = converted(tmp_path / "in", tmp_path / "out", *MORE_TOKENS, *grid)
    assert positions(tmp_path / "out").shape[1] == 1 + 32 * 16
    assert (tmp_path / "out" / "config.json").read_text() == path.read_text()
    assert "config.json is left as it is: its image_size" in " ".join(said.split())
    absorbed = converted(tmp_path / "in", tmp_path / "absorbed")
    assert (tmp_path / "absorbed" / "config.json").read_text() == path.read_text()
    assert "is left as it is: its image_size" in " ".join(absorbed.split())


def test_without_a_grid_nothing_of_the_folder_changes(tmp_path):
    saved("ViT", tmp_path / "in", image_size=(64, 32), patch_size=4)
    (tmp_path / "in" / "config.json").unlink()
    result = CliRunner().invoke(
        main, ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--scale", "2", *MORE_TOKENS]
    )
    said = " ".join((result.stderr + result.output).split())
    assert result.exit_code == 1 and "the plan changes nothing" in said and f"--grid {TABLE}=H,W" in said


def test_tokens_of_detections_behind_the_patches_stay_and_the_model_interpolates(tmp_path):
    """YOLOS interpolates its own table, whose last entries are not patches; 70 is 8 x 8 + 6, too."""
    torch.manual_seed(0)
    config = transformers.YolosConfig(**SMALL, image_size=[64, 64], patch_size=8, num_detection_tokens=5)
    model = transformers.YolosModel(config, add_pooling_layer=False).eval()
    for name, parameter in model.named_parameters():
        if "embeddings" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "in")
    said = converted(tmp_path / "in", tmp_path / "out", "--mode", "supersample")
    assert "tokens behind the patches" in " ".join(said.split())
    assert np.array_equal(positions(tmp_path / "out"), positions(tmp_path / "in"))
    larger = rkt.load(transformers.YolosModel(config, add_pooling_layer=False), tmp_path / "out").eval()
    x = torch.zeros(1, 3, 128, 128)
    with torch.no_grad():
        tokens, own = larger.embeddings(x), model.embeddings(x)
    assert torch.allclose(tokens, own, atol=1e-5)  # no image: the tokens are biases and the interpolated positions
