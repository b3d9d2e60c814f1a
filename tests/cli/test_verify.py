"""`rekernel verify` on the shipped classifiers, through real files, and what it says of wrong input."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from rekernel_cli.demonstration.run import convert_example, examples
from rekernel_cli.main import main

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


def test_without_data_smooth_noise_will_do(converted):
    result = json.loads(run(converted, "--model", MODEL, "--input", "1x16x16", "--json").stdout)
    assert 0 < result["error"] < result["untouched_error"]
    assert "scores" not in result


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
        (("--model", f"{GLYPHS / 'models.py'}:GlyphMLP"), "does not fit the model"),
        (("--model", "torch.nn:Linear"), "needs arguments"),
        (("--model", "builtins:int"), "not a torch module"),
        (("--model", "math:pi"), "neither a class nor a function"),
        (("--model", MODEL, "--input", "3x16x16"), "on an input of 3x16x16: RuntimeError"),
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
