"""Tables of positions in files: which entries are patches, on which grid, and what stays where nothing tells."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from rekernel import Hints, RekernelError, plan_checkpoint
from rekernel_cli.main import main

GROWS = {"mode": "supersample"}
BODY = {
    "patch_embed.proj.weight": (8, 3, 16, 16), "patch_embed.proj.bias": (8,), "blocks.0.attn.qkv.weight": (24, 8),
}  # fmt: skip
CLS, DIST = {"cls_token": (1, 1, 8)}, {"dist_token": (1, 1, 8)}


def registers(count):
    return {"reg_token": (1, count, 8)}


@pytest.fixture
def file(tmp_path):
    """A real file in the manner of timm, with a config.json beside it where one is given."""

    def write(table, *more, config=None, name="pos_embed"):
        rng = np.random.default_rng(3)
        shapes = BODY | {name: table}
        for some in more:
            shapes |= some
        path = tmp_path / "in.safetensors"
        save_file({n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}, path)
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return path

    return write


def planned(path, scale=2, name="pos_embed", **options):
    plan = plan_checkpoint(path, scale, **{**GROWS, **options})
    return next(c for c in plan.changes if c.name == name), "\n".join(plan.warnings)


@pytest.mark.parametrize(
    ("count", "tokens", "prefix"),
    [
        (16, (), 0), (17, (CLS,), 1), (18, (CLS, DIST), 2), (21, (CLS, registers(4)), 5), (197, (CLS,), 1),
        (198, (CLS, DIST), 2), (201, (CLS, registers(4)), 5), (257, (CLS, {"mask_token": (1, 1, 8)}), 1),
        (50, (CLS, registers(4)), 1),  # as in DINOv2: registers have no positions
        (65, (CLS, {"text.cls_token": (1, 1, 4)}), 1), (17, ({"class_token": (1, 1, 8)},), 1),
    ],
)  # fmt: skip
def test_the_tokens_in_the_file_stand_in_front_of_a_square(count, tokens, prefix, file):
    change, notes = planned(file((1, count, 8), *tokens))
    side = math.isqrt(count - prefix)
    assert (change.prefix, change.view, change.new_shape[1]) == (prefix, (1, side, side, 8), prefix + 4 * side * side)
    assert f"taken for a grid of {side}x{side}" in notes and "hints=Hints(grid={'pos_embed': (H, W)})" in notes


UNDECIDED = {
    "16x8 and a class token": (129, (CLS,)),  # 11x11 + 8
    "6x8 and a class token": (49, (CLS,)),  # 7x7 without the class token
    "3x5 and a class token": (16, (CLS,)),
    "14x14 behind a class token that has no position, or 13x15": (196, (CLS,)),
    "no token in the file": (197, ()),
    "16x8 and two tokens": (130, (CLS, DIST)),
    "two squares": (10, (CLS, registers(5))),
    "tokens of detections behind": (1 + 16 + 20, (CLS, {"detection_tokens": (1, 20, 8)})),  # 6x6 and a class token
}


@pytest.mark.parametrize(("count", "tokens"), UNDECIDED.values(), ids=UNDECIDED)
def test_what_the_file_does_not_decide_is_left_and_named(count, tokens, file):
    change, notes = planned(file((1, count, 8), *tokens))
    assert change.kept and change.new_shape == change.shape
    assert f"pos_embed [1, {count}, 8]: " in notes
    told = "hints=Hints(grid={'pos_embed': (H, W)})" in notes
    assert told or "tokens behind the patches (cls_token (1), detection_tokens (20))" in notes


CONFIGS = {
    "pair": {"image_size": [256, 128]},
    "within the model": {"model_type": "x", "vision_config": {"image_size": [256, 128], "patch_size": 16}},
    "timm": {"architecture": "vit", "pretrained_cfg": {"input_size": [3, 256, 128]}},
    "timm, another size": {"model_args": {"img_size": [256, 128]}, "pretrained_cfg": {"input_size": [3, 224, 224]}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_size_in_config_json_decides(config, file):
    change, notes = planned(file((1, 129, 8), CLS, config=config), (2, 3))
    assert (change.prefix, change.view) == (1, (1, 16, 8, 8)) and change.new_shape == (1, 1 + 32 * 24, 8)
    assert "pos_embed" not in notes


@pytest.mark.parametrize(("count", "prefix"), [(49, 0), (50, 1)])
def test_a_class_token_may_lack_a_position_where_config_json_says_so(count, prefix, file):
    change, _ = planned(file((1, count, 8), CLS, config={"image_size": 112}))
    assert (change.prefix, change.view) == (prefix, (1, 7, 7, 8))


@pytest.mark.parametrize("size", [224, [128, 256, 3], [100, 100]])
def test_a_config_json_that_contradicts_the_table_decides_nothing(size, file):
    change, notes = planned(file((1, 129, 8), CLS, config={"image_size": size}))
    assert change.kept and "hints=Hints(grid={'pos_embed': (H, W)})" in notes
    if size == 224:
        assert "config.json says 224x224 pixels, which are 14x14 patches of 16x16" in notes
    (file((1, 129, 8), CLS).parent / "config.json").write_text("not json")  # is no reason to fail
    assert planned(file((1, 129, 8), CLS))[0].kept


@pytest.mark.parametrize(
    ("count", "grid", "prefix"), [(129, (16, 8), 1), (49, (6, 8), 1), (49, (7, 7), 0), (16, (3, 5), 1), (10, (3, 3), 1)]
)
def test_a_hint_decides(count, grid, prefix, file, tmp_path):
    path = file((1, count, 8), CLS, config={"image_size": 224})
    change, notes = planned(path, hints=Hints(grid={"pos_*": grid}))
    assert (change.prefix, change.view) == (prefix, (1, *grid, 8)) and "pos_embed" not in notes
    out = tmp_path / "out.safetensors"
    options = ["--scale", "2", "--mode", "supersample", "--grid", f"pos_embed={grid[0]},{grid[1]}"]
    result = CliRunner().invoke(main, ["convert", str(path), str(out), *options])
    assert result.exit_code == 0, result.output + result.stderr
    old, new = load_file(path)["pos_embed"], load_file(out)["pos_embed"]
    assert new.shape == (1, prefix + 4 * grid[0] * grid[1], 8)
    assert np.array_equal(new[:, :prefix], old[:, :prefix])


def test_rows_are_interpolated_along_rows_and_columns_along_columns(file, tmp_path):
    """A table whose values depend on the row alone does so afterwards, and by the same numbers."""
    path = file((1, 129, 8), CLS)
    tensors = load_file(path)
    rows = np.linspace(-1, 1, 16, dtype=np.float32)
    tensors["pos_embed"][0, 1:] = np.repeat(rows, 8)[:, None]
    save_file(tensors, path)
    change, _ = planned(path, hints=Hints(grid={"pos_embed": (16, 8)}))
    new = change.apply(tensors["pos_embed"])[0, 1:].reshape(32, 16, 8)
    assert np.allclose(new, new[:, :1], atol=1e-6)
    assert np.allclose(new[4:28, 0, 0], (np.arange(32) / 31 * 31 / 15 - 1)[4:28] - 1 / 30, atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "said"),
    [((12, 12), "a grid of 12x12 has 144 patches, but the table has 129"), ((), "not a number of patches"),
     ("16x8", "'16x8' is not a number of patches"), ((16, 0), "not a number of patches along each axis")],
)  # fmt: skip
def test_a_hint_that_cannot_be_is_refused(grid, said, file):
    with pytest.raises(RekernelError, match=said):
        planned(file((1, 129, 8), CLS), hints=Hints(grid={"pos_embed": grid}))


def test_a_grid_option_that_cannot_be_read_says_how(file):
    result = CliRunner().invoke(main, ["plan", str(file((1, 129, 8), CLS)), "--scale", "2", "--grid", "pos_embed=a,8"])
    assert result.exit_code == 2 and "--grid pos_embed=16,8" in result.stderr


def test_a_table_of_two_axes_in_an_unknown_network_is_noted_and_grows_by_a_hint(file):
    path = file((129, 8), {"class_embedding": (8,)}, name="visual.position_embedding.weight")
    name = "visual.position_embedding.weight"
    change, notes = planned(path, name=name)
    assert change.kept and f"{name} [129, 8]: looks like a table of positions" in notes
    assert f"hints=Hints(grid={{'{name}': (H, W)}})" in notes
    change, _ = planned(path, name=name, hints=Hints(grid={name: (16, 8)}))
    assert (change.new_shape, change.prefix, change.kind) == ((1 + 32 * 16, 8), 1, "values")


def test_a_table_with_two_axes_for_the_grid_shows_it(file):
    change, notes = planned(file((1, 6, 4, 8)), (2, 3))
    assert change.new_shape == (1, 12, 12, 8) and change.kind == "values" and "pos_embed" not in notes
    w = np.arange(6, dtype=np.float32)[None, :, None, None] * np.ones((1, 6, 4, 8), np.float32)
    new = change.apply(w)
    assert np.allclose(new, new[:, :, :1], atol=1e-5) and (np.diff(new[0, :, 0, 0]) > 0).all()


def test_absorbing_needs_no_grid(file):
    change, notes = planned(file((1, 129, 8), CLS), mode="auto")
    assert change.kept and not notes
