"""benchmarks/gpu on a CPU: the script keeps its rows, goes on behind them, and its tables say what the file holds."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from decide import Facts, faster_form, table_of  # noqa: E402
from layer_rows import LAYERS, TINY, Layer, Setup, prepared, settings_in_order  # noqa: E402
from layer_rows import rows as layer_rows  # noqa: E402
from result_file import Results, device_name  # noqa: E402

GPU = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"


def script(name: str) -> Any:
    """run.py and tables.py, which other benchmarks have by the same names."""
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(results, rows, seconds=100.0, **options):
    return script("run").measure(rows, results, "cpu", seconds, {"layer": 0.0}, **options)


def row(value: float) -> dict[str, Any]:
    return {"kind": "layer", "forms": {"untouched": {"median": value, "peak bytes": None}}}


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "results" / "card.json", {"device": "card"})


def in_file(results) -> dict[str, Any]:
    return json.loads(results.path.read_text())["rows"]


def test_rows_that_fit_no_more_are_left_and_the_others_kept(results):
    def slow(_device, _seconds):
        time.sleep(0.3)
        return row(1.0)

    assert measured(results, [(f"layer: {i}", slow) for i in range(3)], seconds=0.4) == 2
    assert list(in_file(results)) == ["layer: 0"]


def test_the_next_run_goes_on_behind_what_is_there_and_tries_again_what_failed(results):
    calls = []

    def make(name, error=None):
        def run(_device, _seconds):
            calls.append(name)
            if error is not None:
                raise error
            return row(2.0)

        return f"layer: {name}", run

    rows = [make("a"), make("b", torch.OutOfMemoryError("too large")), make("c")]
    assert measured(results, rows) == 0
    assert in_file(results)["layer: b"]["failed"] == "OutOfMemoryError: too large"
    assert in_file(results)["layer: c"]["forms"]["untouched"]["median"] == 2
    read_again = Results(results.path, results.setting)
    assert measured(read_again, [rows[0], make("b"), rows[2]]) == 0
    assert calls == ["a", "b", "c", "b"]
    assert "forms" in in_file(results)["layer: b"]
    measured(read_again, rows[:1], again=True)
    assert calls == ["a", "b", "c", "b", "a"]


def test_an_interrupted_row_leaves_the_file_as_it_was(results):
    results.add("layer: a", row(1.0))
    before = results.path.read_bytes()

    def stopped(_device, _seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(results, [("layer: b", stopped)])
    assert results.path.read_bytes() == before
    assert list(results.path.parent.iterdir()) == [results.path]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("layer", TINY, ids=lambda layer: layer.name)
def test_the_forms_of_a_row_are_those_that_it_says(layer, channels_last):
    x, calls, weights = prepared(layer, Setup("float32", channels_last=channels_last), "cpu")
    assert x.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert x.shape == (layer.images, layer.inputs, 2 * layer.size, 2 * layer.size)
    with torch.inference_mode():
        found = {name: call(x) for name, call in calls.items()}
    assert {tuple(y.shape[-2:]) for y in found.values()} == {(2 * layer.size // layer.stride,) * 2}
    if layer.stride == 1:
        assert torch.allclose(found["space-to-batch"], found["dilated"], atol=1e-5)
    assert (found["dilated"] - found["untouched"]).abs().max() > 1e-2
    assert weights["factored"] == weights["dilated"] == weights["untouched"] < weights["dense same-extent"]
    assert weights["dense same-extent"] < weights["dense full cubic"]


def test_every_row_has_a_key_of_its_own_and_the_usual_setup_comes_first():
    keys = [key for key, _ in layer_rows(settings_in_order())]
    assert len(keys) == len(set(keys)) > 100
    assert all("float16, channels_last" in key and "compiled" not in key for key in keys[: len(LAYERS)])
    assert {layer.network for layer in LAYERS} == {"SD1.5", "SDXL", "ResNet-50", "ConvNeXt-T"}


def test_tables_print_ratios_and_what_was_not_measured():
    times = {"untouched": 2.0, "factored": 3.0}
    forms = {name: {"median": t, "fastest": t, "peak bytes": 10**6 * t} for name, t in times.items()}
    rows = {
        "layer: conv; float16": {"kind": "layer", "forms": forms},
        "layer: other; float16": {"kind": "layer", "failed": "RuntimeError: no"},
    }
    text = script("tables").tables({"setting": {"device": "card"}, "rows": rows})
    assert "layer; float16 (card)" in text
    assert "| conv | 2 | 1.50 | 2 | 3 |" in text
    assert "- layer: other; float16: RuntimeError: no" in text


# --- what a table of results would decide ----------------------------------------------------------------------------

NARROW = Facts("card", "float16", True, 64, 64, 1, 3, 1, 2**12)
WIDE = replace(NARROW, inputs=1024, outputs=1024, pixels=2**16)
TABLE = {NARROW: {"dense": 1.0, "factored": 2.0}, WIDE: {"dense": 3.0, "factored": 1.0}}


@pytest.mark.parametrize(
    ("changed", "form"),
    [
        ({}, "dense"), ({"inputs": 128}, "dense"), ({"inputs": 1024, "outputs": 1024, "pixels": 2**16}, "factored"),
        ({"inputs": 512, "outputs": 512, "pixels": 2**15}, "factored"), ({"inputs": 2048}, None),
        ({"inputs": 32}, None), ({"pixels": 2**11}, None), ({"device": "other"}, None), ({"dtype": "bfloat16"}, None),
        ({"stride": 2}, None), ({"channels_last": False}, None), ({"groups": 64}, None), ({"kernel": 5}, None),
    ],
)  # fmt: skip
def test_the_nearest_measured_layer_decides_and_none_outside_of_the_range(changed, form):
    assert faster_form(replace(NARROW, **changed), TABLE) == form


def test_the_table_holds_layers_as_they_usually_run():
    def held(**setup):
        layer = Layer("net", 8, 16, 4, images=3)
        times = {"dense same-extent": {"median": 1.0}, "factored": {"median": 2.0}, "dilated": {"median": 0.5}}
        setup = {"dtype": "float16", "channels_last": True, "compiled": False, "autotune": False, **setup}
        return {"kind": "layer", "layer": vars(layer), "scale": 2, "setup": setup, "forms": times}

    rows = {"a": held(), "b": held(compiled=True), "c": held(autotune=True), "d": {"kind": "layer", "failed": "no"}}
    table = table_of([{"setting": {"device": "card"}, "rows": rows}])
    assert table == {Facts("card", "float16", True, 8, 16, 1, 3, 1, 3 * 8 * 8): {"dense": 1.0, "factored": 2.0}}


@pytest.mark.slow
def test_the_script_on_a_cpu_from_end_to_end(tmp_path):
    pytest.importorskip("diffusers")
    command = [sys.executable, GPU / "run.py", "--device", "cpu", "--tiny", "--out", tmp_path]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    (path,) = tmp_path.iterdir()
    held = json.loads(path.read_text())
    assert held["setting"]["device"] == device_name("cpu")
    assert {row["kind"] for row in held["rows"].values()} == {"layer", "resample", "steps"}
    for key, found in held["rows"].items():
        assert "failed" not in found, key
        assert all(0 < form["fastest"] <= form["median"] for form in found["forms"].values()), key
    (steps,) = (found for found in held["rows"].values() if found["kind"] == "steps")
    assert steps["cascade passes"] == 4 / 4 + 2 * (1 + 1 / 4)
    assert list(steps["forms"]) == ["plain", "guidance", "factored kernels", "guidance + factored kernels", "cascade"]
    before = path.read_bytes()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and path.read_bytes() == before
    shown = subprocess.run([sys.executable, GPU / "tables.py", path], capture_output=True, text=True, check=True)
    assert "| tiny at 16x16 latents, float32 |" in shown.stdout
    decided = subprocess.run([sys.executable, GPU / "decide.py", path], capture_output=True, text=True, check=True)
    assert "of 4 rows" in decided.stdout
