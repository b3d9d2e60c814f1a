"""The demo: what the shipped classifiers keep after conversion, through the files that conversion wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rekernel_cli.demonstration.run import CNN_VARIANTS, MLP_VARIANTS, Variant, build, converted, examples, score
from rekernel_cli.user_code import import_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    import numpy as np
    from safetensors.torch import load_file

    models = import_file(examples() / "models.py")
    with np.load(examples() / "test.npz") as data:
        images, labels = data["images"][:200], data["labels"][:200]

    def accuracy(name, variant, scale):
        if variant is None:
            model = build(models, name, load_file(examples() / f"{name}.safetensors"), {})
        else:
            model, _ = converted(models, name, variant, scale, tmp_path_factory.mktemp("demo"))
        return score(model, images, labels, scale)["accuracy"]

    return accuracy


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize(("scale", "allowed"), [(2, 0.5), (4, 1.0)])
def test_the_default_keeps_the_accuracy(scored, name, scale, allowed):
    # One of 200 images is half a point; the slow test below has all 600.
    assert scored(name, Variant("default"), scale) >= scored(name, None, 1) - allowed


@pytest.mark.parametrize(("scale", "allowed"), [(2, 0.5), (4, 1.0)])
def test_supersampling_by_optimal_keeps_it_too(scored, scale, allowed):
    [variant] = [v for v in CNN_VARIANTS if v.label == "supersample, optimal, same extent"]
    assert variant.options == {"mode": "supersample", "method": "optimal"}
    assert scored("cnn", variant, scale) >= scored("cnn", None, 1) - allowed


def test_the_default_is_the_last_row_and_no_other():
    for variants in (CNN_VARIANTS, MLP_VARIANTS):
        assert ["default" in variant.label for variant in variants] == [False] * (len(variants) - 1) + [True]
        assert variants[-1].options == {}


def test_the_naive_reading_and_untouched_kernels_do_not(scored):
    at_home = scored("cnn", None, 1)
    assert scored("cnn", Variant("untouched", untouched=True), 2) < at_home - 50
    assert scored("cnn", Variant("picture", naive=True), 2) < at_home - 30


@pytest.mark.slow
def test_the_whole_demo_runs_and_meets_its_promise(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "rekernel_cli", "demo", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "demo.json").read_text())
    for name, variants in (("mlp", MLP_VARIANTS), ("cnn", CNN_VARIANTS)):
        rows = results[name]["rows"]
        assert [row["label"] for row in rows] == [variant.label for variant in variants]
        assert all(row["label"] in run.stdout for row in rows)
        for measure in ("accuracy", "f1"):
            at_home, default = results[name]["trained"][measure], rows[-1]
            assert default["2x"][measure] >= at_home - 0.3
            assert default["4x"][measure] >= at_home - 1.0
    assert (tmp_path / "demo.png").stat().st_size > 10_000


@pytest.mark.slow
def test_ctrl_c_says_what_is_left(tmp_path):
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'cli'}"
    started = subprocess.Popen(
        [sys.executable, "-m", "rekernel_cli", "demo", "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not list(tmp_path.glob("out/*.safetensors")):
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate()
    left = len(list((tmp_path / "out").iterdir()))
    assert started.returncode == 130 and left > 0
    assert f"Stopped; {left} files are left in {tmp_path / 'out'}; the same command replaces them." in said
