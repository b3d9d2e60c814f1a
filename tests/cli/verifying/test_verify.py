"""`rekernel verify` on the shipped classifiers, through real files, and what it says of wrong input."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import rekernel.torch as rkt
from rekernel_cli.demonstration.run import convert_example, examples
from rekernel_cli.main import main
from rekernel_cli.user_code import import_file

GLYPHS = examples()
MODEL = f"{GLYPHS / 'models.py'}:GlyphCNN"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    target = tmp_path_factory.mktemp("verify") / "cnn-2x.safetensors"
    convert_example("cnn", 2, target)
    return str(target)


def run(*arguments):
    return CliRunner().invoke(main, ["verify", str(GLYPHS / "cnn.safetensors"), *map(str, arguments)])


def test_it_reports_each_layer_the_whole_and_the_scores(converted, tmp_path):
    figure = tmp_path / "errors.png"
    shape = ("--model", MODEL, "--input", "1x16x16", "--data", GLYPHS / "test.npz")
    result = json.loads(run(converted, *shape, "--json").stdout)
    assert result["new_size"] == [32, 32]
    assert [layer["name"] for layer in result["layers"]][:2] == ["conv1", "bn1"]
    assert result["error"] < 1e-4 < result["untouched_error"]  # it absorbs: the trained network on the reduced image
    assert result["scores"]["converted"]["accuracy"] >= result["scores"]["original"]["accuracy"] - 0.3
    shown = run(converted, *shape, "--figure", figure)
    assert shown.exit_code == 0
    assert f"relative error {result['error']:.4f}" in shown.stdout
    assert figure.read_bytes()[:4] == b"\x89PNG"
    # the verdict stands first, and layers that differ by rounding alone are one line
    assert shown.stdout.startswith("Verdict: The same answers.")
    assert f"{len(result['layers'])} layers, relative error at most" in shown.stdout and "conv2" not in shown.stdout


def test_a_folder_of_labels_and_a_config_beside_the_conversion_alone_are_led_on(converted, tmp_path):
    shape = ("--model", MODEL, "--input", "1x16x16", "--data", GLYPHS / "test.npz")
    said = run(converted, *shape, "--labels", tmp_path).stderr
    assert "is a folder; --labels is a file of class numbers" in said
    beside = tmp_path / "folder" / "cnn-2x.safetensors"
    beside.parent.mkdir()
    shutil.copy(converted, beside)
    (beside.parent / "config.json").write_text('{"architectures": ["ResNetForImageClassification"]}')
    assert "put its config.json beside cnn.safetensors" in run(beside).stderr


def test_without_data_smooth_noise_will_do(converted):
    result = json.loads(run(converted, "--model", MODEL, "--input", "1x16x16", "--json").stdout)
    assert 0 < result["error"] < result["untouched_error"]
    assert "scores" not in result


def test_it_says_how_the_original_answers_to_moved_pictures(tmp_path):
    converted = tmp_path / "cnn-2x.safetensors"
    convert_example("cnn", 2, converted, mode="supersample")
    arguments = ("--model", MODEL, "--input", "1x16x16", "--data", GLYPHS / "test.npz")
    result = json.loads(run(converted, *arguments, "--json").stdout)
    assert result["strided"] == ["conv2.weight", "conv4.weight"]
    assert result["shift"]["pixels"] == [1, 1] and len(result["shift"]["shifts"]) == 4
    assert result["phase_shift"]["pixels"] == [2, 2] and result["phase_shift"]["stride"] == [4, 4]
    assert result["shift"]["agreement"] > 0.98 and result["phase_shift"]["agreement"] > 0.98
    said = run(converted, *arguments).stdout
    kept, change = 100 * result["shift"]["agreement"], result["shift"]["change"]
    assert (
        f"Picture moved by 1 pixel: the original keeps {kept:.1f} % of its answers, relative change {change:.3f}"
        in said
    )
    assert "Picture moved by 2 pixels, as supersampled strides see it: the original keeps" in said
    assert "warning" not in said
    assert "on noise; pass --data for pictures" in run(converted, *arguments[:4]).stdout


FRAGILE = """
import torch
from torch import nn
def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )
def picture():
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, 1, 1))
"""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """Random networks with strides, which read each pixel with another weight; noise to look at; two conversions."""
    folder = tmp_path_factory.mktemp("fragile")
    (folder / "mine.py").write_text(FRAGILE)
    np.savez(folder / "data.npz", images=9 * np.random.default_rng(0).standard_normal((80, 32, 32)))
    for name in ("build", "picture"):
        torch.manual_seed(0)
        model, x = getattr(import_file(folder / "mine.py"), name)().eval(), torch.zeros(1, 1, 16, 16)
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        rkt.save(rkt.rescale(model, 2, x, mode="supersample"), folder / f"{name}-supersample.safetensors")
        rkt.save(rkt.rescale(model, 2, x, mode="absorb"), folder / f"{name}-absorb.safetensors")
    return folder


def look(folder, name, mode, *more):
    files = [str(folder / f"{name}.safetensors"), str(folder / f"{name}-{mode}.safetensors")]
    options = ["--model", f"{folder / 'mine.py'}:{name}", "--input", "1x16x16", *more]
    result = CliRunner().invoke(main, ["verify", *files, *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_warns_where_strides_are_supersampled_and_the_original_changes_its_answers(fragile):
    data = ("--data", str(fragile / "data.npz"))
    said = " ".join(look(fragile, "build", "supersample", *data).split())
    assert "warning: 0.weight, 2.weight keep the stride on the finer grid (mode supersample)" in said
    assert "Convert with --mode absorb, or train the original with random shifts." in said
    result = json.loads(look(fragile, "build", "supersample", *data, "--json"))
    assert result["phase_shift"]["agreement"] < 0.9
    assert "warning" not in look(fragile, "build", "supersample")  # noise made up here gives no verdict


def test_it_does_not_warn_where_the_first_layer_absorbs(fragile):
    data = ("--data", str(fragile / "data.npz"))
    said = look(fragile, "build", "absorb", *data)
    assert "warning" not in said and "Picture moved by 1 pixel: the original keeps" in said
    result = json.loads(look(fragile, "build", "absorb", *data, "--json"))
    assert result["strided"] == [] and result["phase_shift"] is None and result["shift"]["agreement"] < 0.9


def test_a_network_with_a_grid_is_compared_where_the_grid_can_move(fragile):
    said = look(fragile, "picture", "supersample", "--data", str(fragile / "data.npz"))
    assert (
        "Picture moved by 1 pixel: the original is not compared: a shift by 1 of 16 pixels moves an output of 8" in said
    )
    assert "warning" not in said


def test_identical_models_have_no_error(tmp_path):
    target = tmp_path / "same.safetensors"
    convert_example("cnn", 1, target, dtype="F32")
    result = json.loads(run(target, "--model", MODEL, "--input", "1x16x16", "--json").stdout)
    assert result["error"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "no_such_module:Net"), "no_such_module"),
        (("--model", "models"), "write package.module:Class"),
        (("--model", f"{GLYPHS / 'models.py'}:Missing"), "Missing"),
        (("--model", "collections:Counter"), "not a torch module"),
        (("--model", f"{GLYPHS / 'models.py'}:GlyphMLP"), "does not fit this GlyphMLP"),
        (("--model", "torch.nn:Linear"), "needs arguments"),
        (("--model", "builtins:int"), "not a torch module"),
        (("--model", "math:pi"), "neither a class nor a function"),
        (("--model", MODEL, "--input", "3x16x16"), "does not run on inputs (4, 3, 16, 16)"),
    ],
)
def test_a_wrong_model_is_one_line(converted, arguments, words):
    result = run(converted, "--input", "1x16x16", *arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_model_that_fails_to_be_built_names_its_file_and_line(converted, tmp_path):
    (tmp_path / "mine.py").write_text("def build():\n    return [][0]\n")
    result = run(converted, "--input", "1x16x16", "--model", f"{tmp_path / 'mine.py'}:build")
    assert result.exit_code == 1
    assert "mine.py:build: IndexError: list index out of range (mine.py, line 2)" in result.stderr


def test_wrong_data_is_one_line(converted, tmp_path):
    path = tmp_path / "data.npz"
    for arrays, words in (({"x": np.zeros(3)}, "an array `images`"), ({"images": np.zeros((2, 8, 8))}, "do not fit")):
        np.savez(path, **arrays)
        result = run(converted, "--model", MODEL, "--input", "1x16x16", "--data", path)
        assert result.exit_code == 1
        assert words in result.stderr


def test_a_file_of_another_kind_is_called_what_it_is(converted, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x09" + bytes(40))
    arguments = ["verify", str(tmp_path / "net.onnx"), converted, "--model", MODEL, "--input", "1x16x16"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "an ONNX model, not a checkpoint" in result.stderr
