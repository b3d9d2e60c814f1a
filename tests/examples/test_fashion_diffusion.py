"""The diffusion model of clothes and its judge: what is in the folder, what it draws, and whom the judge prefers."""

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import interpolate

from rekernel_cli.user_code import import_file

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "fashion_diffusion"
WEIGHTS = FOLDER / "unet" / "diffusion_pytorch_model.safetensors"
RESULTS = json.loads((FOLDER / "results.json").read_text())

sys.path += [str(ROOT / "benchmarks" / "diffusion"), str(ROOT / "examples" / "diffusion_common")]

import fashion_judge  # noqa: E402
import train_unet  # noqa: E402

needs_pictures = pytest.mark.skipif(
    not fashion_judge.FOLDER.is_dir(), reason="needs the pictures of Debian's dataset-fashion-mnist"
)


def test_the_weights_are_float16_and_small_and_so_is_the_judge():
    assert WEIGHTS.stat().st_size < 6_000_000
    assert (FOLDER / "judge.safetensors").stat().st_size < 500_000
    with safe_open(WEIGHTS, framework="np") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_results_are_those_of_these_weights_and_this_scheduler(pipe):
    assert RESULTS["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    settings = RESULTS["settings"]
    for name, value in {**settings["noise"], **settings["sampling"]}.items():
        assert pipe.scheduler.config[name] == value, name
    for name, value in settings["unet"].items():
        assert pipe.unet.config[name] == value, name


@pytest.mark.parametrize("size", [16, 32])
def test_a_seed_gives_the_same_pictures_of_the_asked_size(pipe, size):
    def drawn(seed, kind="pt"):
        generator = torch.Generator().manual_seed(seed)
        return pipe([1, 9], size, size, num_inference_steps=3, generator=generator, output_type=kind).images

    first = drawn(4)
    assert first.shape == (2, 1, size, size)
    assert 0 <= first.min() < first.max() <= 1
    assert torch.equal(first, drawn(4))
    assert not torch.allclose(first, drawn(5), atol=1e-2)
    assert [picture.size for picture in drawn(4, "pil")] == [(size, size)] * 2


def test_its_code_is_that_of_the_glyphs_pipeline():
    """diffusers takes a pipeline's code from its own folder, so there are two copies."""

    def code(folder):
        tree = ast.parse((ROOT / "examples" / folder / "pipeline.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                del node.body[0]
            if isinstance(node, ast.ClassDef):
                node.name = "Pipeline"
        return ast.dump(tree)

    assert code("fashion_diffusion") == code("glyph_diffusion")


@needs_pictures
def test_the_judge_knows_true_pictures_best_then_enlarged_ones_then_noise():
    clothes = import_file(FOLDER / "clothes.py")
    true, labels = fashion_judge.held_back(150)
    enlarged = interpolate(clothes.reduced(true), scale_factor=2, mode="bicubic").clamp(0, 1)
    noise = torch.rand(true.shape, generator=torch.Generator().manual_seed(0))
    rows = [fashion_judge.judge(images, labels) for images in (true, enlarged, noise)]
    for name in ("frechet", "kid"):
        assert rows[0][name].high < rows[1][name].low < rows[1][name].high < rows[2][name].low, name
    assert rows[0]["recognised"].value > 0.8 > rows[2]["recognised"].high
    assert rows[0]["precision"].value > 0.5 > rows[2]["precision"].high
    assert rows[0]["recall"].value > 0.5 > rows[2]["recall"].high
    assert rows[0]["sharpness"].low < 1 < rows[0]["sharpness"].high
    assert rows[1]["sharpness"].high < 0.5


@needs_pictures
def test_samples_of_the_trained_size_are_the_clothes_asked_for(pipe):
    labels = torch.arange(50) % 10
    images = pipe(labels, num_inference_steps=10, generator=torch.Generator().manual_seed(7), output_type="pt").images
    enlarged = interpolate(images, scale_factor=2, mode="bicubic").clamp(0, 1)
    assert fashion_judge.judge(enlarged, labels)["recognised"].value > 0.5
    assert fashion_judge.judge(enlarged, (labels + 1) % 10)["recognised"].value < 0.3


@needs_pictures
def test_pictures_held_back_are_not_in_the_reference_and_have_the_classes_in_turn():
    images, labels = fashion_judge.held_back(100)
    assert labels.tolist() == list(range(10)) * 10
    reference = fashion_judge.true_pictures("test").x[: fashion_judge.REFERENCE]
    assert torch.cdist(images.flatten(1), reference.flatten(1)).min() > 0
    with pytest.raises(ValueError, match="with the classes in turn"):
        fashion_judge.held_back(6000)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(5, 1, 28, 28), r"pass \(N, 1, 32, 32\)"),
        (torch.zeros(4, 1, 32, 32), "for 5 labels"),
        (torch.full((5, 1, 32, 32), -1.0), r"from -1 to -1: pass \[0, 1\]"),
        (torch.full((5, 1, 32, 32), torch.nan), r"pass \[0, 1\]"),
    ],
)
def test_pictures_that_cannot_be_judged_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        fashion_judge.judge(images, torch.arange(5))


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    recipe = {**RESULTS["settings"]["recipe"], "steps": 4, "batch": 2, "warmup": 2}
    images, labels = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    monkeypatch.setattr(train_unet, "REPORT_EVERY", 1)
    whole = train_unet.train(images, labels, recipe, {}, tmp_path / "whole.pt")
    with monkeypatch.context() as broken:
        calls, loss_of = [], train_unet.loss_of

        def interrupted(*arguments):
            calls.append(arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return loss_of(*arguments)

        broken.setattr(train_unet, "loss_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_unet.train(images, labels, recipe, {}, tmp_path / "cut.pt")
    resumed = train_unet.train(images, labels, recipe, {}, tmp_path / "cut.pt")
    assert resumed["losses"] == whole["losses"]
    for name, weight in whole["ema"].items():
        assert torch.allclose(weight, resumed["ema"][name], atol=1e-6), name
    other = train_unet.train(images, labels, {**recipe, "seed": 1}, {}, tmp_path / "cut.pt")
    assert other["losses"] != whole["losses"]  # a checkpoint of other settings is not continued
