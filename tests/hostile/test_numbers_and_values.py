"""Numbers that no planning gives, and weights that are no numbers: refused, or said."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rekernel as rk
from rekernel.conversion.journal import NAME, Journal

ADAPTER = "lora_unet_mid_block_resnets_0_conv1"


@pytest.fixture
def source(tmp_path):
    def write(**changed):
        weights = {"conv.weight": np.ones((8, 4, 3, 3), np.float32), "conv.bias": np.ones(8, np.float32)} | changed
        save_file(weights, tmp_path / "in.safetensors")
        return tmp_path / "in.safetensors"

    return write


@pytest.mark.parametrize("a", [1e308, -17, 16.5])
def test_a_parameter_that_overflows_is_refused_wherever_it_is_given(a, source, tmp_path):
    for call in (
        lambda: rk.kernel_operator(3, 2.0, "cubic", a=a),
        lambda: rk.grid_operator(3, 6, "cubic", a=a),
        lambda: rk.convert(source(), tmp_path / "out.safetensors", scale=2, a=a),
    ):
        with pytest.raises(rk.RekernelError, match="outside -16 to 16"):
            call()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("n", [(1 << 19, 1 << 20), (5000, 5000), (1, 1 << 25)])
def test_a_matrix_of_gigabytes_is_refused_before_it_is_made(n):
    with pytest.raises(rk.RekernelError, match="16777216 is the limit"):
        rk.grid_operator(*n)
    with pytest.raises(rk.RekernelError, match="limit"):
        rk.kernel_operator(n[1], 1.0, phase=0.5)


def test_the_largest_grids_in_use_have_room():
    assert rk.grid_operator(1024, 4096, "nearest").shape == (4096, 1024)


def test_a_plan_made_in_python_is_checked_before_anything_is_written(source, tmp_path):
    path = source()
    plan = rk.plan_source(path, 2, mode="supersample")[""]
    good = next(change for change in plan.changed if change.name == "conv.weight")
    for wrong in (
        replace(good, view=(8, 4, 9)),
        replace(good, new_shape=(8, 4, 5, 6)),
        replace(good, operators=(replace(good.operators[0], axis=7), good.operators[1])),
        replace(good, operators=(good.operators[0], good.operators[0])),
    ):
        with pytest.raises(rk.RekernelError, match=r"the plan of conv\.weight cannot be carried out"):
            rk.convert(path, tmp_path / "out.safetensors", plan=replace(plan, changes=(wrong,)))
        assert [each.name for each in tmp_path.iterdir()] == ["in.safetensors"]


def test_a_plan_whose_matrix_overflows_writes_nothing(source, tmp_path):
    path = source()
    plan = rk.plan_source(path, 2, mode="supersample", method="cubic")[""]
    good = next(change for change in plan.changed if change.name == "conv.weight")
    wrong = replace(good, operators=tuple(replace(o, a=1e308) for o in good.operators))
    with pytest.raises(rk.RekernelError, match="lies outside"):
        rk.convert(path, tmp_path / "out.safetensors", plan=replace(plan, changes=(wrong,)))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_that_are_not_finite_are_named_and_stay_in_their_kernels(bad, dtype, source, tmp_path):
    weight = np.ones((8, 4, 3, 3), dtype)
    weight[1, 2, 0, 0] = weight[3, 0, 1, 1] = bad
    path = source(**{"conv.weight": weight})
    with pytest.warns(rk.RekernelWarning, match=r"conv.weight: NaN or infinite values in the source"):
        rk.convert(path, tmp_path / "out.safetensors", scale=2, mode="supersample")
    finite = np.isfinite(load_file(tmp_path / "out.safetensors")["conv.weight"]).all(axis=(2, 3))
    assert [tuple(map(int, place)) for place in np.argwhere(~finite)] == [(1, 2), (3, 0)]


def test_finite_weights_give_no_such_note(source, tmp_path):
    report = rk.convert(source(), tmp_path / "out.safetensors", scale=2, mode="supersample")
    assert not any("NaN" in note for note in report.notes)


def test_a_module_with_a_weight_that_is_not_finite_is_named():
    torch = pytest.importorskip("torch")
    from rekernel.torch import rescale

    model = torch.nn.Conv2d(4, 4, 3, padding=1)
    model.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.warns(rk.RekernelWarning, match="weight: NaN or infinite values in the source"):
        rescale(model, 2, torch.zeros(1, 4, 8, 8), mode="supersample")


@pytest.mark.parametrize(
    "shapes",
    [
        {"lokr_w1": [2, 2], "lokr_w2_a": [4, 2], "lokr_w2_b": [36]},
        {"lokr_w1": [2, 2], "lokr_w2_a": [4, 2], "lokr_w2_b": [2, 36, 36]},
        {"lokr_w1": [2, 2], "lokr_w2_b": []},
        {"hada_w1_a": [4, 2], "hada_w1_b": [36]},
        {"lora_down.weight": [4, 8, 1, 1, 3, 3, 3], "lora_up.weight": [8, 4]},
    ],
)
def test_an_adapter_of_odd_shapes_is_planned_and_converted_or_refused_in_one_line(shapes, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({f"{ADAPTER}.{part}": np.ones(shape, np.float16) for part, shape in shapes.items()}, path)
    assert set(rk.plan_source(path, 2)) == {""}
    with pytest.raises(rk.RekernelError, match="changes nothing") as caught:
        rk.convert(path, tmp_path / "out.safetensors", scale=2)
    assert str(caught.value).isprintable()


def test_a_whole_adapter_of_flattened_kernels_still_grows(tmp_path):
    path = tmp_path / "lora.safetensors"
    shapes = {"lokr_w1": [2, 2], "lokr_w2_a": [4, 2], "lokr_w2_b": [2, 36]}
    save_file({f"{ADAPTER}.{part}": np.ones(shape, np.float32) for part, shape in shapes.items()}, path)
    rk.convert(path, tmp_path / "out.safetensors", scale=2, preset="all")
    assert load_file(tmp_path / "out.safetensors")[f"{ADAPTER}.lokr_w2_b"].shape == (2, 4 * 5 * 5)


@pytest.mark.parametrize(
    "text",
    [b"", b"\x00\xff", b"[]", b'{"a": [1e999, 1]}', b'{"a": [NaN, 1]}', b'{"a": 3}', b'{"a": []}', b'{"a": [null, 1]}'],
)
def test_a_journal_that_cannot_be_read_is_empty(text, tmp_path):
    (tmp_path / NAME).write_bytes(text)
    assert Journal(tmp_path).read() == {}


def test_a_recipe_that_is_not_an_object_is_refused():
    for text in ("null", "[]", '"x"', "3", "1e999"):
        with pytest.raises(rk.RekernelError, match="recipe: "):
            rk.Recipe.from_json(text)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("sample_size", 1e308, "not a number of pixels"),
        ("sample_size", [], "not a number of pixels"),
        ("sample_size", [64, 0], "not a number of pixels"),
        ("sample_size", True, "not a number of pixels"),
        ("sample_size", 2**60, "not a number of pixels"),
        ("scale", 65, "64 is the limit"),
        ("scale", [1.0, 1e300], "64 is the limit"),
        ("scale", [], "scale"),
        ("scale", None, "cannot be read"),
        ("kernels", [1], "not a mapping"),
        ("guidance", {"levels": 1.5}, "levels"),
        ("positions", {"method": ["yarn"]}, "method"),
        ("kernels", {"method": ["cubic"]}, "method"),
        ("guidance", {"reduce": [1]}, "reduce"),
    ],
)
def test_a_record_with_numbers_that_nobody_writes_is_refused_by_its_field(field, value, words):
    pytest.importorskip("torch")
    from rekernel.diffusion.pipelines.record import Recorded

    entry = {"version": 1, "scale": 2.0, "sample_size": 64} | json.loads(json.dumps({field: value}))
    with pytest.raises(rk.RekernelError, match=words) as caught:
        Recorded.from_entry(entry, "unet/config.json")
    assert str(caught.value).startswith("unet/config.json: ")
